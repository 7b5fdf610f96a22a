"""Clients that go away from a real server: their slots are free again, and nothing is left."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator

import httpx
import pytest

from fakes.backend_process import BackendProcess, running_backend
from fakes.llm_folders import TINY_DOCS

MANIFEST = """
[model]
name = "tiny-docs"
platform = "onnxruntime_genai"
[generation]
engine = "genai"
max_streams = 1
max_queue = 0
max_output_tokens = 500
"""

BODY = {
    "model": "tiny-docs",
    "prompt": "Return the ",
    "stream": True,
    "temperature": 1.5,
    "top_k": 0,
}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(TINY_DOCS, root / "tiny-docs" / "1")
    (root / "tiny-docs" / "model.toml").write_text(MANIFEST)
    with running_backend(root, root / "log.txt") as process:
        yield process


def running(client: httpx.Client) -> int:
    found = re.search(
        r'backend_generations\{model="tiny-docs"\} (\d+)', client.get("/metrics").text
    )
    assert found is not None
    return int(found[1])


def test_clients_that_leave_in_mid_stream_free_the_only_slot(backend: BackendProcess) -> None:
    with httpx.Client(base_url=backend.url, timeout=30) as client:
        for _ in range(10):
            with client.stream("POST", "/v1/completions", json=BODY) as response:
                assert response.status_code == 200
                next(response.iter_raw())
            deadline = time.monotonic() + 5
            while running(client) and time.monotonic() < deadline:
                pass
            assert running(client) == 0
        metrics = client.get("/metrics").text
    assert "Traceback" not in backend.log.read_text()
    assert 'backend_generation_requests_total{model="tiny-docs",outcome="cancelled"}' in metrics

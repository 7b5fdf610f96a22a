"""Our answers beside those of a real Triton (the one in nvidia-pytriton), request by request.

Runs where the environment variable PYTRITON_PYTHON names an interpreter that has it:

    python3.11 -m venv /tmp/pytriton && /tmp/pytriton/bin/pip install nvidia-pytriton==0.7.0
    PYTRITON_PYTHON=/tmp/pytriton/bin/python pytest tests/clients
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from onnx import TensorProto

from fakes.backend_process import running_backend
from fakes.onnx_models import identity, write_model

PYTHON = os.environ.get("PYTRITON_PYTHON")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PYTHON is None, reason="PYTRITON_PYTHON names no interpreter with nvidia-pytriton"
    ),
]

KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "BYTES": TensorProto.STRING,
}
SERVER = Path(__file__).parents[1] / "fakes" / "pytriton_server.py"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _start_triton(stack: ExitStack, log: Path) -> str:
    assert PYTHON is not None
    library = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    port = _free_port()
    process = subprocess.Popen(
        [PYTHON, str(SERVER), str(port)],
        stdout=subprocess.PIPE,
        stderr=stack.enter_context(log.open("w")),
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": library},
        start_new_session=True,
    )
    assert process.stdout is not None

    def stop() -> None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()

    stack.callback(stop)
    for line in process.stdout:
        if line.strip() == "READY":
            return f"http://127.0.0.1:{port}"
    pytest.fail(f"Triton did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Clients of ours and of Triton."""
    root = tmp_path_factory.mktemp("comparison")
    for name, number in KINDS.items():
        write_model(root / "models", f"identity_{name}", identity(number))
    with ExitStack() as stack:
        ours = stack.enter_context(running_backend(root / "models", root / "ours.log"))
        theirs = _start_triton(stack, root / "theirs.log")
        first, second = (
            stack.enter_context(httpx.Client(base_url=url, timeout=60, headers=PLAIN))
            for url in (ours.url, theirs)
        )
        yield first, second


PLAIN = {"accept-encoding": "identity"}


def request(datatype: str, data: list[Any], shape: list[int], **more: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return {"inputs": [tensor], **more}


def head_and_tail(response: httpx.Response) -> tuple[dict[str, Any], bytes]:
    length = response.headers.get("inference-header-content-length")
    size = int(length) if length is not None else len(response.content)
    document: dict[str, Any] = json.loads(response.content[:size])
    return document, response.content[size:]


BINARY = [{"name": "y", "parameters": {"binary_data": True}}]

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("BOOL", request("BOOL", [True, False, True], [1, 3])),
    ("UINT8", request("UINT8", [0, 128, 255], [1, 3])),
    ("INT64", request("INT64", [-(2**63), 0, 2**63 - 1], [1, 3])),
    ("FP32", request("FP32", [1, 2.5, -3.25], [1, 3])),
    ("FP32", request("FP32", [[1, 2], [3, 4]], [2, 2])),
    ("FP32", request("FP32", [1], [1, 1], id="an id")),
    ("BYTES", request("BYTES", ["a", "", "ü", "日本"], [2, 2])),
    ("FP32", request("FP32", [1, 2], [1, 2], outputs=[{"name": "y"}])),
    ("FP32", request("FP32", [1, 2], [1, 2], outputs=BINARY)),
    ("BOOL", request("BOOL", [True, False], [1, 2], outputs=BINARY)),
    ("BYTES", request("BYTES", ["a", "ü"], [1, 2], outputs=BINARY)),
    ("FP32", request("FP32", [1, 2], [1, 2], parameters={"binary_data_output": True})),
    ("FP32", request("FP32", [1, 2], [1, 2], parameters={"timeout": 5_000_000})),
]


@pytest.mark.parametrize(("model", "document"), GOOD)
def test_answers_are_those_of_triton(
    servers: tuple[httpx.Client, httpx.Client], model: str, document: dict[str, Any]
) -> None:
    path = f"/v2/models/identity_{model}/infer"
    ours, theirs = (client.post(path, json=document) for client in servers)
    assert ours.status_code == theirs.status_code == 200
    assert head_and_tail(ours) == head_and_tail(theirs)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "BYTES"])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_binary_requests_are_read_as_by_triton(
    servers: tuple[httpx.Client, httpx.Client], datatype: str, coding: str | None
) -> None:
    raw = {
        "FP16": b"\x00\x3c\x00\xc0",
        "FP32": b"\x00\x00\x80\x3f\x00\x00\x00\xc0",
        "BYTES": b"\x01\x00\x00\x00a\x00\x00\x00\x00",
    }[datatype]
    tensor = {
        "name": "x",
        "datatype": datatype,
        "shape": [1, 2],
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], "outputs": BINARY}).encode()
    codings: dict[str | None, Callable[[bytes], bytes]] = {
        None: bytes,
        "gzip": gzip.compress,
        "deflate": zlib.compress,
    }
    encode = codings[coding]
    headers = {"Inference-Header-Content-Length": str(len(head))}
    if coding is not None:
        headers |= {"Content-Encoding": coding, "Accept-Encoding": coding}
    path = f"/v2/models/identity_{datatype}/infer"
    ours, theirs = (c.post(path, content=encode(head + raw), headers=headers) for c in servers)
    assert ours.status_code == theirs.status_code == 200, (ours.text, theirs.text)
    assert head_and_tail(ours) == head_and_tail(theirs)
    assert head_and_tail(ours)[1] == raw


def test_raw_request_without_head_is_read_as_by_triton(
    servers: tuple[httpx.Client, httpx.Client],
) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    body = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    path = "/v2/models/identity_FP32/infer"
    ours, theirs = (client.post(path, content=body, headers=headers) for client in servers)
    assert ours.status_code == theirs.status_code == 200, (ours.text, theirs.text)
    assert head_and_tail(ours) == head_and_tail(theirs)


BAD: list[tuple[str, object]] = [
    ("FP32", "{"),
    ("FP32", request("FP32", [1], [1, 2])),
    ("FP32", request("INT64", [1], [1, 1])),
    ("FP32", request("FP32", [1, 2], [2])),
    ("FP32", request("FP32", [1, 2], [-1, 2])),
    ("FP32", request("FP32", ["1"], [1, 1])),
    ("FP32", {"inputs": []}),
    ("FP32", {"inputs": [{**request("FP32", [1], [1, 1])["inputs"][0], "name": "z"}]}),
    ("FP32", request("FP32", [1], [1, 1], outputs=[{"name": "q"}])),
    ("nobody", request("FP32", [1], [1, 1])),
]


@pytest.mark.parametrize(("model", "document"), BAD)
def test_what_triton_refuses_is_refused_in_a_form_its_clients_read(
    servers: tuple[httpx.Client, httpx.Client], model: str, document: object
) -> None:
    content = document if isinstance(document, str) else json.dumps(document)
    path = f"/v2/models/identity_{model}/infer"
    ours, theirs = (client.post(path, content=content) for client in servers)
    # Triton calls some of its clients' mistakes 500; ours are all 4xx.
    assert theirs.status_code >= 400
    assert ours.status_code == (404 if model == "nobody" else 400)
    assert isinstance(ours.json()["error"], str)
    assert isinstance(theirs.json()["error"], str)


def test_metadata_has_the_members_of_triton(servers: tuple[httpx.Client, httpx.Client]) -> None:
    ours, theirs = (client.get("/v2/models/identity_FP32").json() for client in servers)
    for key in ("name", "versions", "inputs", "outputs"):
        assert ours[key] == theirs[key]
    assert theirs.keys() <= ours.keys()


def test_configuration_agrees_with_triton_where_both_speak(
    servers: tuple[httpx.Client, httpx.Client],
) -> None:
    ours, theirs = (client.get("/v2/models/identity_FP32/config").json() for client in servers)
    for key in ("name", "max_batch_size"):
        assert ours[key] == theirs[key]
    for key in ("input", "output"):
        (mine,), (other,) = ours[key], theirs[key]
        assert mine == {name: other[name] for name in mine}
    assert ours["dynamic_batching"].keys() <= theirs["dynamic_batching"].keys()


def test_versions_that_are_not_there_are_refused_by_both(
    servers: tuple[httpx.Client, httpx.Client],
) -> None:
    for client in servers:
        response = client.get("/v2/models/identity_FP32/versions/9")
        assert response.status_code in (400, 404)
        assert "9" in response.json()["error"]

"""The real backend behind the compiled component: the accuracy of the model card, end to end."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from build_components import ROOT, Component
from wasm import hosts
from wasm.cases.predict import png
from wasm.cases.table import Call
from wasm.hosts import HttpEdge

pytestmark = [
    pytest.mark.wasm,
    pytest.mark.skipif(
        not Component("predict").wasm.exists(), reason="no build/predict.wasm: run `make build`"
    ),
]

CARD = (ROOT / "gpu-backend" / "models" / "digits" / "README.md").read_text(encoding="utf-8")
DRAWINGS = sorted((ROOT / "tests" / "data" / "drawn_digits").glob("*.png"))
START_TIMEOUT_S = 60.0


@contextlib.contextmanager
def _real_backend() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpu_backend", "--listen", f"127.0.0.1:{port}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _is_ready(port):
            assert process.poll() is None, f"the backend ended with {process.returncode}"
            assert time.monotonic() < deadline_s, f"no backend within {START_TIMEOUT_S} s"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpEdge]:
    with (
        _real_backend() as url,
        hosts.embedded(tmp_path_factory.mktemp("state"), {"backend_url": url}, threads=2) as edge,
    ):
        yield edge


def held_out() -> list[tuple[bytes, int]]:
    """8 × 8 gray pixels, white on black, and the digit they show."""
    text = (ROOT / "tests" / "data" / "digits_held_out.csv").read_text(encoding="utf-8")
    rows = [list(map(int, line.split(","))) for line in text.splitlines() if line[:1].isdigit()]
    return [(bytes(round(level * 255 / 16) for level in row[:64]), row[64]) for row in rows]


def as_raw(pixels: bytes) -> Call:
    headers = {"content-type": "application/octet-stream"}
    return Call("POST", "/v1/classify/digits?width=8&height=8&top_k=1", headers, pixels)


def as_png(pixels: bytes) -> Call:
    return Call("POST", "/v1/classify/digits?top_k=1", {"content-type": "image/png"}, png(pixels))


def as_json(pixels: bytes) -> Call:
    body = json.dumps({"image": base64.b64encode(png(pixels)).decode()}).encode()
    return Call("POST", "/v1/classify/digits?top_k=1", {"content-type": "application/json"}, body)


def as_inverted_png(pixels: bytes) -> Call:
    return as_png(bytes(255 - level for level in pixels))


@pytest.mark.parametrize("kind", ["jpeg", "webp", "png"])
def test_photograph_that_the_edge_does_not_decode_is_classified_by_the_backend(
    edge: HttpEdge, kind: str
) -> None:
    """Of 1200 x 1200 pixels: too many for the edge, whatever the format."""
    pixels, label = held_out()[0]
    picture = Image.frombytes("L", (8, 8), pixels).resize((1200, 1200), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, kind)
    headers = {"content-type": f"image/{kind}"}
    answer = edge.send(Call("POST", "/v1/classify/digits?top_k=1", headers, file.getvalue()))
    assert answer.status == 200, answer.body
    assert answer.headers["server-timing"].startswith("decode;dur=")
    assert json.loads(answer.body)["predictions"][0]["class_id"] == label


@pytest.mark.parametrize("form", [as_raw, as_png, as_json, as_inverted_png])
def test_digits_held_out_part_has_the_accuracy_of_the_card(
    edge: HttpEdge, form: Callable[[bytes], Call]
) -> None:
    right, total = _card_figure('the same through `fit = "ink"`, also inverted (black on white)')
    pictures = held_out()
    assert len(pictures) == total
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda item: _digit(edge, form(item[0])), pictures))
    assert sum(digit == label for digit, (_, label) in zip(found, pictures, strict=True)) == right


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_digits_drawing_is_recognised(edge: HttpEdge, path: Path) -> None:
    headers = {"content-type": "image/png"}
    call = Call("POST", "/v1/classify/digits?top_k=1", headers, path.read_bytes())
    assert _digit(edge, call) == int(path.stem[0])


def _digit(edge: HttpEdge, call: Call) -> int:
    answer = edge.send(call)
    assert answer.status == 200, answer.body
    (prediction,) = answer.json()["predictions"]
    assert prediction["label"] == str(prediction["class_id"])
    return int(prediction["class_id"])


def _card_figure(row: str) -> tuple[int, int]:
    match = re.search(rf"^\| {re.escape(row)} \| ([\d,]+) of ([\d,]+) \|", CARD, re.MULTILINE)
    assert match, f"the card has no row {row!r}"
    return int(match[1]), int(match[2])


def test_digits_answer_tells_what_really_ran(edge: HttpEdge) -> None:
    answer = edge.send(as_raw(held_out()[0][0]))
    document = answer.json()
    digest = re.search(r"\| SHA-256 \| `([0-9a-f]{64})` \|", CARD)
    assert digest is not None
    assert f"sha256:{digest[1]}" in answer.headers["inference-model"]
    assert document["model"] == "digits"
    assert document["model_version"] == "1"
    assert document["runtime"].startswith("onnxruntime/")
    provider = document["runtime"].partition("/")[2]
    assert provider
    assert provider in answer.headers["inference-model"]

"""What the edge adds to a call: on a hit, a miss, a fallback, beside a plain proxy.

    make build
    PYTHONPATH=components:scripts:tests .venv/bin/python tests/bench/bench_edge_policy.py

One client, one connection, one request after the other: latency, not throughput. The backend is the
real one with its digits model. With `--peer PYTHON` (an environment that has fastapi, uvicorn and
httpx) and nginx on PATH, the same call also goes through nginx and a FastAPI service that passes it
on and does nothing else: no cache, no limits, no fallback.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench.report import Latency, machine
from build_components import ROOT
from edgehost.testing import AppOptions, EdgeHostProcess
from fakes.backend_process import running_backend
from fakes.tcp_proxy import TcpProxy

REQUESTS = 400
WARM_UP = 40
START_S = 30.0

HEAD = json.dumps(
    {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": [1, 1, 8, 8],
                "parameters": {"binary_data_size": 64},
            }
        ],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
).encode()

PEER = """
import os
import httpx
from fastapi import FastAPI, Request, Response
app = FastAPI()
client = httpx.AsyncClient(base_url=os.environ["UPSTREAM"])
KEEP = ("content-type", "inference-header-content-length")
@app.post("/v2/models/{model}/infer")
async def infer(model: str, request: Request) -> Response:
    fields = {name: request.headers[name] for name in KEEP if name in request.headers}
    answer = await client.post(request.url.path, content=await request.body(), headers=fields)
    kept = {name: answer.headers[name] for name in KEEP if name in answer.headers}
    return Response(answer.content, answer.status_code, kept)
"""

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream peer {{ server 127.0.0.1:{peer}; keepalive 8; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://peer;
    proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""

_numbers = itertools.count(1)


def picture() -> bytes:
    """8 × 8 pixels that were not sent before, with a stroke in them."""
    pixels = bytearray(64)
    for row in range(1, 7):
        pixels[row * 8 + 3] = pixels[row * 8 + 4] = 255
    pixels[61:64] = next(_numbers).to_bytes(3, "big")
    return bytes(pixels)


def measure(url: str, path: str, make: Callable[[], tuple[bytes, dict[str, str]]]) -> Latency:
    """Latency of one request after the other over one connection; every one has to succeed."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    seconds = []
    with contextlib.closing(connection):
        for number in range(WARM_UP + REQUESTS):
            body, headers = make()
            started = time.perf_counter()
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            content = response.read()
            took = time.perf_counter() - started
            if response.status != 200:
                raise SystemExit(f"{url}{path}: status {response.status}: {content[:200]!r}")
            if number >= WARM_UP:
                seconds.append(took)
            # What the guest does after its response is not part of the next one's latency.
            time.sleep(0.003)
    return Latency.of(seconds)


def tensor() -> tuple[bytes, dict[str, str]]:
    """A new picture as a binary infer request."""
    return HEAD + picture(), {"inference-header-content-length": str(len(HEAD))}


def image(pixels: bytes) -> tuple[bytes, dict[str, str]]:
    """A picture as raw pixels."""
    return pixels, {"content-type": "application/octet-stream"}


@contextlib.contextmanager
def plain_proxy(python: str, upstream: str) -> Iterator[str]:
    """A proxy that passes on and does nothing else: nginx, FastAPI, backend."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "peer.py").write_text(PEER, encoding="utf-8")
        peer, port = _free_port(), _free_port()
        (folder / "nginx.conf").write_text(
            NGINX.format(folder=folder, peer=peer, port=port), encoding="utf-8"
        )
        serve = [python, "-m", "uvicorn", "peer:app", "--port", str(peer), "--log-level", "error"]
        nginx = ["nginx", "-p", name, "-c", str(folder / "nginx.conf")]
        environ = {**os.environ, "UPSTREAM": upstream}
        for command in (serve, nginx):
            process = subprocess.Popen(command, cwd=folder, env=environ)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for waiting in (peer, port):
            _await_port(waiting)
        yield f"http://127.0.0.1:{port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise SystemExit(f"nothing listens on port {port}") from None
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", help="Python with fastapi, uvicorn and httpx")
    peer = parser.parse_args().peer
    rows: list[tuple[str, Latency]] = []
    classify, infer = "/v1/classify/digits?width=8&height=8", "/v2/models/digits/infer"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        backend = stack.enter_context(
            running_backend(ROOT / "gpu-backend" / "models", folder / "backend.log")
        )
        rows.append(("backend directly, infer", measure(backend.url, infer, tensor)))
        if peer and shutil.which("nginx"):
            with plain_proxy(peer, backend.url) as url:
                rows.append(("nginx + FastAPI, infer", measure(url, infer, tensor)))
        address = urlsplit(backend.url)
        target = (address.hostname or "", address.port or 0)
        proxy = stack.enter_context(TcpProxy(target))
        variables = {"backend_url": proxy.url, "records_enabled": "false"}
        options = AppOptions(variables=variables, state_dir=folder / "state", threads=2)
        edge = stack.enter_context(EdgeHostProcess(ROOT / "spin.toml", options))
        rows.append(("edge, miss, infer", measure(edge.url, infer, tensor)))
        rows.append(("edge, miss, classify", measure(edge.url, classify, lambda: image(picture()))))
        known = picture()
        rows.append(("edge, hit, classify", measure(edge.url, classify, lambda: image(known))))
        proxy.cut()
        rows.append(
            ("edge, fallback, classify", measure(edge.url, classify, lambda: image(picture())))
        )
    print(machine("wasmtime", "onnxruntime"))
    for title, latency in rows:
        print(f"{title:<28} {latency}")


if __name__ == "__main__":
    main()

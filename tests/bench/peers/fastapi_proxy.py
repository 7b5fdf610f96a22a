"""The usual way to put something before a model server: nginx, and a FastAPI service behind it.

The service passes infer calls on with httpx and does nothing else: no cache, no limits, no
fallback. It runs in an environment of its own, as the other peers do.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.peers.catalogue import Peer, PeerError, free_ports

__all__ = ["FASTAPI", "running_fastapi"]

FASTAPI = Peer("fastapi", "/v2/models/{model}/infer", ("fastapi", "uvicorn", "httpx"))

_START_S = 30

_SERVICE = """
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

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream service {{ server 127.0.0.1:{service}; keepalive 8; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://service;
    proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""


@contextmanager
def running_fastapi(cache: Path, upstream: str, folder: Path) -> Iterator[str]:
    """URL of nginx before the service before `upstream`.

    Raises:
        PeerError: One of them cannot be installed, or did not start.
    """
    if shutil.which("nginx") is None:
        raise PeerError("nginx is not on PATH")
    python = FASTAPI.install(cache)
    (folder / "service.py").write_text(_SERVICE, encoding="utf-8")
    service, port = free_ports(1), free_ports(1)
    configuration = _NGINX.format(folder=folder, service=service, port=port)
    (folder / "nginx.conf").write_text(configuration, encoding="utf-8")
    serve = [str(python), "-m", "uvicorn", "service:app", "--port", str(service)]
    commands = (
        [*serve, "--log-level", "error", "--loop", "uvloop", "--http", "httptools"],
        ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")],
    )
    with ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, "UPSTREAM": upstream}
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for waited in (service, port):
            _await_port(waited)
        yield f"http://127.0.0.1:{port}"


def _await_port(port: int) -> None:
    deadline_s = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as exc:
            if time.monotonic() > deadline_s:
                raise PeerError(f"nothing listens on port {port} after {_START_S} s") from exc
            time.sleep(0.05)

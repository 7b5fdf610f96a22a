"""A `FakeBackend` behind a socket, for components that make real outbound calls."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fakes.inference_backend import FakeBackend, Fault, Reply

__all__ = ["serve_backend"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        reply = self.server.backend.answer(self.command, self.path, self.headers.items(), body)
        if reply.fault in (Fault.REFUSE, Fault.RESET):
            self._cut()
            return
        if reply.fault is Fault.HANG:
            self.server.stopping.wait(30)
            self._cut()
            return
        self._send(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if reply.fault is Fault.BREAK_BODY:
            self.wfile.write(reply.body[: len(reply.body) // 2])
            self._cut()
            return
        for chunk in reply.chunks():
            self.wfile.write(chunk)
            self.wfile.flush()

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: the tests read what was received."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, backend: FakeBackend) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend = backend
        self.stopping = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is part of the tests."""


@contextlib.contextmanager
def serve_backend(backend: FakeBackend) -> Iterator[str]:
    """URL of a server that answers as `backend` does, for the time of the block."""
    server = _Server(backend)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(5)

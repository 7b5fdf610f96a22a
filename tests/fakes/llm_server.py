"""A `FakeEngine` behind a socket: it generates at a pace, and notices when its caller leaves."""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fakes.llm_upstream import EngineReply, FakeEngine

__all__ = ["EngineServer", "serve_engine"]


class EngineServer:
    """A running engine.

    Attributes:
        url: Where it listens.
        gate: Each chunk after the first takes one permit; None lets all of them through.
        pause_s: Time between two chunks.
        left: Monotonic time at which a caller was gone before its answer was complete.
        streaming: Streams that are being written now.
        written: Chunks that have been written to all of them.
    """

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.url = ""
        self.gate: threading.Semaphore | None = None
        self.pause_s = 0.0
        self.left: queue.Queue[float] = queue.Queue()
        self.streaming = 0
        self.written = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    def reset(self) -> None:
        """No pace, nobody left, the engine as made."""
        self.engine.reset()
        self.gate = None
        self.pause_s = 0.0
        self.left = queue.Queue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        owner = self.server.owner
        reply = owner.engine.answer(self.command, self.path, self.headers.items(), body)
        if reply.refused or (reply.silent and not reply.chunks):
            if reply.silent:
                self._await_departure()
            self._cut()
            return
        with owner.lock:
            owner.streaming += 1
        try:
            self._send(reply)
        except OSError:
            owner.left.put(time.monotonic())
            self.close_connection = True
        finally:
            with owner.lock:
                owner.streaming -= 1

    do_GET = do_POST = _answer  # noqa: N815

    def _send(self, reply: EngineReply) -> None:
        streamed = len(reply.chunks) > 1 or reply.broken or reply.silent
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if streamed:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        for number, chunk in enumerate(reply.chunks):
            if number:
                self._pace()
            if streamed:
                chunk = b"%x\r\n%s\r\n" % (len(chunk), chunk)
            self.wfile.write(chunk)
            self.server.owner.written += 1
        if reply.silent:
            self._await_departure()
        if reply.broken or reply.silent:
            self._cut()
        elif streamed:
            self.wfile.write(b"0\r\n\r\n")

    def _pace(self) -> None:
        """Wait as long as the test wants; an `OSError` says that the caller has left."""
        owner = self.server.owner
        if owner.pause_s and self._gone(owner.pause_s):
            raise ConnectionAbortedError
        gate = owner.gate
        while gate is not None and not gate.acquire(timeout=0.005):
            if self._gone(0) or owner.stopping.is_set():
                raise ConnectionAbortedError

    def _await_departure(self) -> None:
        while not self.server.owner.stopping.is_set():
            if self._gone(0.005):
                raise ConnectionAbortedError

    def _gone(self, wait_s: float) -> bool:
        """True as soon as the caller has closed the connection; False after `wait_s`."""
        if not select.select([self.connection], [], [], wait_s)[0]:
            return False
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: the tests read what was received."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, owner: EngineServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that leaves is part of the tests."""


@contextlib.contextmanager
def serve_engine(engine: FakeEngine) -> Iterator[EngineServer]:
    """A server that answers as `engine` does, for the time of the block."""
    owner = EngineServer(engine)
    server = _Server(owner)
    owner.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield owner
    finally:
        owner.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(5)

"""Both ends of HTTP for tests: a guest's way with bodies, raw clients, scripted upstreams.

Everything is a real socket on 127.0.0.1 with a port the system chose, and every wait ends.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

from edgehost.http.exchange import Exchange
from edgehost.http.loop import LoopThread
from edgehost.http.server import HttpServer, ServerLimits
from edgehost.ports import (
    BodyEndedError,
    BodyReader,
    BodyWriter,
    Headers,
    PendingResponse,
    Wakeup,
)

WAIT_S = 60.0
"""Longest wait for what has to happen, on a machine that does other things as well."""


def read_all(body: BodyReader, chunk: int = 16 * 1024) -> bytes:
    """Read a body to its end the way a guest does. Raises `BodyFailedError` as the body does."""
    wakeup = Wakeup()
    body.watch(wakeup)
    received = b""
    while True:
        try:
            data = body.read(chunk)
        except BodyEndedError:
            return received
        received += data
        if not data and not body.ready():
            assert wakeup.wait(WAIT_S), f"nothing arrived within {WAIT_S} s"


def write_all(body: BodyWriter, data: bytes, chunk: int = 4096) -> None:
    """Write `data` as capacity allows, the way a guest does."""
    wakeup = Wakeup()
    body.watch(wakeup)
    while data:
        room = min(body.capacity(), chunk)
        if room:
            body.write(data[:room])
            data = data[room:]
        else:
            assert wakeup.wait(WAIT_S), f"no capacity within {WAIT_S} s"


def wait_ready(pending: PendingResponse) -> PendingResponse:
    """Wait for the head of an outbound call."""
    wakeup = Wakeup()
    pending.watch(wakeup)
    while not pending.ready():
        assert wakeup.wait(WAIT_S), f"no response within {WAIT_S} s"
    return pending


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for another thread to bring about `condition`."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {WAIT_S} s"
        time.sleep(0.001)


class RawClient:
    """A TCP connection that sends what it is told to, and reads responses by their framing."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=WAIT_S)
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def address(self) -> tuple[str, int]:
        """This end of the connection."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self._socket.sendall(data)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def shut_down_sending(self) -> None:
        """Half-close."""
        self._socket.shutdown(socket.SHUT_WR)

    def shrink_receive_buffer(self) -> None:
        """Let the peer feel back-pressure early."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def receive(self) -> bytes:
        """Whatever arrives next; empty at the end."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return self._socket.recv(65536)

    def receive_head(self) -> tuple[int, dict[str, str]]:
        """Status and fields of the next response head."""
        while b"\r\n\r\n" not in self._buffer:
            data = self._socket.recv(65536)
            assert data, f"closed before a head arrived: {self._buffer!r}"
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        return int(lines[0].split(" ")[1]), {k.lower(): v for k, v in fields.items()}

    def receive_exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        while len(self._buffer) < count:
            data = self._socket.recv(65536)
            assert data, f"closed {count - len(self._buffer)} bytes early"
            self._buffer += data
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def receive_response(self) -> tuple[int, dict[str, str], bytes]:
        """The next response, read by its content-length."""
        status, fields = self.receive_head()
        return status, fields, self.receive_exactly(int(fields["content-length"]))

    def receive_to_end(self) -> bytes:
        """All bytes until the peer closes; a reset counts as the end."""
        received, self._buffer = self._buffer, b""
        while True:
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                return received
            if not data:
                return received
            received += data


class RunningServer:
    """An `HttpServer` whose application runs `handler` on a thread per exchange."""

    def __init__(
        self,
        handler: Callable[[Exchange], None],
        limits: ServerLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handler = handler
        self.exchanges: list[Exchange] = []
        self.over: list[Exchange] = []
        self.io = LoopThread()
        self.server = HttpServer(
            self.io, self._dispatch, limits=limits, on_over=self.over.append, clock=clock
        )

    def __enter__(self) -> RunningServer:
        self.io.start()
        self.address = self.server.listen("127.0.0.1", 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.server.shut_down(0)
        self.io.stop()

    def client(self) -> RawClient:
        """A new connection to the server."""
        return RawClient(self.address)

    def _dispatch(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        threading.Thread(target=self._handler, args=(exchange,), daemon=True).start()


class Upstream:
    """A scripted server: `script(connection, n)` plays the n-th accepted connection."""

    def __init__(self, script: Callable[[RawClient, int], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.accepted = 0
        self.errors: list[BaseException] = []

    def __enter__(self) -> Upstream:
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        if self.errors:
            raise self.errors[0]

    @property
    def authority(self) -> str:
        """``host:port``."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.settimeout(WAIT_S)
            self.accepted += 1
            thread = threading.Thread(
                target=self._play, args=(accepted, self.accepted), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _play(self, accepted: socket.socket, number: int) -> None:
        connection = RawClient.__new__(RawClient)
        connection._socket, connection._buffer = accepted, b""
        with connection:
            try:
                self._script(connection, number)
            except BaseException as exc:
                self.errors.append(exc)


def respond(exchange: Exchange, body: bytes, headers: Headers | None = None) -> None:
    """Answer 200 with `body` and its content-length."""
    fields = [("content-length", b"%d" % len(body)), *(headers or [])]
    writer = exchange.start(200, fields)
    write_all(writer, body)
    writer.finish()

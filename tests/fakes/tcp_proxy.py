"""A TCP proxy whose cable can be pulled out: what a network does between edge and backend."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

__all__ = ["TcpProxy"]

_CHUNK = 65_536


class TcpProxy:
    """Forwards connections to `target`; `cut` ends them all and lets no new one through.

    Args:
        target: ``(host, port)``; may be changed at any time, for new connections.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self._up = True
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where to reach the target through this proxy."""
        host, port = self._listener.getsockname()[:2]
        return f"http://{host}:{port}"

    def cut(self) -> None:
        """Pull the cable out."""
        with self._lock:
            self._up = False
            broken, self._open = self._open, set()
        for connection in broken:
            _close(connection)

    def heal(self) -> None:
        """Put it in again."""
        with self._lock:
            self._up = True

    def close(self) -> None:
        """End everything."""
        self.cut()
        _close(self._listener)
        self._thread.join(5)

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                up = self._up
                if up:
                    self._open.add(client)
            if up:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
            else:
                _close(client)

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.target, timeout=5)
        except OSError:
            _close(client)
            return
        server.settimeout(None)
        with self._lock:
            if not self._up:
                _close(server)
            self._open.add(server)
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()
        with self._lock:
            self._open -= {client, server}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    _close(source)
    _close(sink)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

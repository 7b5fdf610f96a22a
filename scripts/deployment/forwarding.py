"""A local port that leads to a pod through the API server, as `kubectl port-forward` does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import quote

from kubernetes.client.exceptions import ApiException
from kubernetes.stream.ws_client import create_websocket, get_websocket_url
from websocket import ABNF, WebSocket, WebSocketException

from .cluster import Cluster

__all__ = ["forward"]

CHUNK = 64 * 1024
PROTOCOL = "v4.channel.k8s.io"
DATA_CHANNEL = b"\0"
MAX_CONNECTIONS = 32
ACCEPT_POLL_S = 0.2


@contextlib.contextmanager
def forward(cluster: Cluster, namespace: str, pod: str, port: int) -> Iterator[int]:
    """Listen on a free port of 127.0.0.1 while the context is entered; yields its number.

    Each connection gets a tunnel of its own, and ends with it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(ACCEPT_POLL_S)
        stopped = threading.Event()
        arguments = (cluster, namespace, pod, port, listener, stopped)
        acceptor = threading.Thread(target=_accept, args=arguments, daemon=True)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopped.set()
            acceptor.join()


def _accept(
    cluster: Cluster,
    namespace: str,
    pod: str,
    port: int,
    listener: socket.socket,
    stopped: threading.Event,
) -> None:
    permits = threading.BoundedSemaphore(MAX_CONNECTIONS)
    tunnels: list[threading.Thread] = []
    while not stopped.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if not permits.acquire(blocking=False):
            connection.close()
            continue
        arguments = (cluster, namespace, pod, port, connection, permits)
        tunnel = threading.Thread(target=_tunnel, args=arguments, daemon=True)
        tunnel.start()
        tunnels.append(tunnel)
    for tunnel in tunnels:
        tunnel.join(timeout=1)


def _tunnel(
    cluster: Cluster,
    namespace: str,
    pod: str,
    port: int,
    connection: socket.socket,
    permits: threading.BoundedSemaphore,
) -> None:
    try:
        with connection, _opened(cluster, namespace, pod, port) as channel:
            back = threading.Thread(target=_copy_back, args=(channel, connection), daemon=True)
            back.start()
            with contextlib.suppress(OSError, WebSocketException):
                while data := connection.recv(CHUNK):
                    channel.send_binary(DATA_CHANNEL + data)
            if channel.sock is not None:
                # Closing alone would not wake the thread that reads from it.
                with contextlib.suppress(OSError):
                    channel.sock.shutdown(socket.SHUT_RDWR)
            back.join()
    except (OSError, WebSocketException, ApiException):
        # The caller sees its connection end, and says what it was doing.
        return
    finally:
        permits.release()


@contextlib.contextmanager
def _opened(cluster: Cluster, namespace: str, pod: str, port: int) -> Iterator[WebSocket]:
    """Connect to a pod's port; the two channels open with a frame each that names the port."""
    path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/portforward"
    headers = {"sec-websocket-protocol": PROTOCOL, **cluster.credentials(path)}
    settings = cluster.api.configuration
    url = get_websocket_url(settings.host + path, [("ports", port)])  # type: ignore[no-untyped-call]
    channel: WebSocket = create_websocket(settings, url, headers)  # type: ignore[no-untyped-call]
    try:
        yield channel
    finally:
        channel.shutdown()  # type: ignore[no-untyped-call]


def _copy_back(channel: WebSocket, connection: socket.socket) -> None:
    """Copy what the pod sends until it ends or fails, then tell the local end."""
    opened: set[bytes] = set()
    with contextlib.suppress(OSError, WebSocketException):
        while True:
            opcode, frame = channel.recv_data(control_frame=True)
            if opcode == ABNF.OPCODE_CLOSE:
                break
            if opcode != ABNF.OPCODE_BINARY:
                continue
            number, data = frame[:1], frame[1:]
            if number not in opened:
                opened.add(number)
            elif number == DATA_CHANNEL:
                connection.sendall(data)
            else:
                break
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

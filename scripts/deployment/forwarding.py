"""A local port that leads to a pod through the API server, as `kubectl port-forward` does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from kubernetes import client
from kubernetes.stream import portforward

from .cluster import Cluster

__all__ = ["forward"]

CHUNK = 64 * 1024
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
        with connection:
            connect = client.CoreV1Api(cluster.api).connect_get_namespaced_pod_portforward
            tunnel = portforward(connect, pod, namespace, ports=str(port))
            remote = tunnel.socket(port)
            back = threading.Thread(target=_copy, args=(remote, connection), daemon=True)
            back.start()
            _copy(connection, remote)
            back.join()
            tunnel.close()
    except (OSError, client.ApiException):
        # The caller sees its connection end, and says what it was doing.
        return
    finally:
        permits.release()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends, then tell the target so."""
    try:
        while data := source.recv(CHUNK):
            target.sendall(data)
    except OSError:
        pass
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)

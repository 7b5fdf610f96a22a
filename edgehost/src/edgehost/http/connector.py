"""Opening outbound connections: name resolution, TCP to the first address that answers, TLS."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from edgehost.ports import OutboundError

__all__ = ["Connector", "Origin", "default_tls_context", "dns_failure", "split_authority"]

P = TypeVar("P", bound=asyncio.Protocol)


class Origin(NamedTuple):
    """Where a connection leads; connections to the same origin are interchangeable."""

    scheme: str
    host: str
    port: int


def split_authority(scheme: str, authority: str) -> Origin:
    """The origin of a URL's authority; the scheme gives the port where none is written.

    Raises:
        OutboundError: `HTTP-request-URI-invalid`.
    """
    host = authority.rpartition("@")[2]
    port = ""
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _uri_invalid(authority)
        port = rest[1:]
    elif ":" in host:
        host, _, port = host.partition(":")
    if (
        not host
        or not host.isascii()
        or (port and not (port.isascii() and port.isdigit() and int(port) < 65536))
    ):
        raise _uri_invalid(authority)
    default = 443 if scheme == "https" else 80
    return Origin(scheme, host.lower(), int(port) if port else default)


def dns_failure(reason: str) -> OutboundError:
    """`DNS-error` with the payload Spin gives it."""
    return OutboundError(reason, "DNS-error", ("address not available", 0))


def default_tls_context() -> ssl.SSLContext:
    """Trust what the system trusts, or certifi's roots where the system has none."""
    context = ssl.create_default_context()
    if not context.get_ca_certs() and not context.cert_store_stats()["x509_ca"]:
        try:
            import certifi
        except ImportError:
            return context
        context.load_verify_locations(certifi.where())
    return context


@dataclass(slots=True)
class Connector:
    """Connects protocols to origins.

    Attributes:
        tls_context: Makes the TLS context on the first https call.
        is_blocked: True for an IP address that must not be reached (Spin's
            `client_tls`-independent `block_networks`).
    """

    tls_context: Callable[[], ssl.SSLContext] = default_tls_context
    is_blocked: Callable[[str], bool] = lambda _address: False
    _context: ssl.SSLContext | None = None

    async def connect(self, origin: Origin, factory: Callable[[], P]) -> P:
        """A connected protocol.

        Raises:
            OutboundError: With the error code Spin would give.
        """
        loop = asyncio.get_running_loop()
        addresses = await self._resolve(loop, origin)
        sock_error: OSError | None = None
        for address in addresses:
            try:
                return await self._open(loop, origin, address, factory)
            except ssl.SSLError as exc:
                raise OutboundError(f"TLS with {origin.host}: {exc}", "TLS-protocol-error") from exc
            except OSError as exc:
                sock_error = exc
        raise _connect_failure(origin, sock_error) from sock_error

    async def _resolve(self, loop: asyncio.AbstractEventLoop, origin: Origin) -> list[str]:
        addresses = [origin.host]
        if not _is_address(origin.host):
            try:
                found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as exc:
                raise dns_failure(f"cannot resolve {origin.host}: {exc}") from exc
            addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        allowed = [address for address in addresses if not self.is_blocked(address)]
        if addresses and not allowed:
            raise OutboundError(
                f"every address of {origin.host} is in a blocked network",
                "destination-IP-prohibited",
            )
        return allowed

    async def _open(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        address: str,
        factory: Callable[[], P],
    ) -> P:
        if origin.scheme != "https":
            _, protocol = await loop.create_connection(factory, address, origin.port)
            return protocol
        if self._context is None:
            # Reads some hundred certificates: not on the thread that serves everybody.
            self._context = await loop.run_in_executor(None, self.tls_context)
        _, protocol = await loop.create_connection(
            factory, address, origin.port, ssl=self._context, server_hostname=origin.host
        )
        return protocol


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connect_failure(origin: Origin, error: OSError | None) -> OutboundError:
    if error is None or error.errno == errno.EADDRNOTAVAIL:
        return dns_failure(f"no address of {origin.host} is available")
    return OutboundError(
        f"cannot connect to {origin.host}:{origin.port}: {error}", "connection-refused"
    )


def _uri_invalid(authority: str) -> OutboundError:
    return OutboundError(f"not a valid authority: {authority!r}", "HTTP-request-URI-invalid")

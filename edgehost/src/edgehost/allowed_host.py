"""One entry of `allowed_outbound_hosts`, read as Spin reads it.

An entry is ``scheme://host[:port]``. Each part may be ``*``; the host may be a domain, an address,
a network in CIDR notation, ``*.domain`` for every subdomain, or ``self`` for the app itself; the
port may be a range ``first..end``, without its end. Without a port the scheme's own is meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from edgehost.url_host import Host, HostError, parse_host

__all__ = [
    "AUTHORITY",
    "MAX_PORT",
    "WELL_KNOWN_PORTS",
    "AllowedHost",
    "AllowedHostError",
    "Exactly",
    "Subdomains",
    "convert_allowed_http_hosts",
]

WELL_KNOWN_PORTS = {
    "postgres": 5432,
    "mysql": 3306,
    "redis": 6379,
    "mqtt": 1883,
    "http": 80,
    "https": 443,
}
AUTHORITY = re.compile(r"(?:.*@)?(\[[^\]]*\]|[^:\[\]@]*)(?::([0-9]*))?\Z", re.DOTALL)
"""Groups: host, port. User information is skipped, up to the last ``@``, as URLs do."""
MAX_PORT = 65_535
_SELF_HOSTS = ("self", "self.alt")


class AllowedHostError(ValueError):
    """A text that is no entry; the message says why."""


@dataclass(frozen=True, slots=True)
class _AnyHost:
    """`*`."""

    def allows(self, _: Host) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Subdomains:
    """`*.domain`."""

    suffix: str
    """The domain, with the dot before it."""

    def allows(self, host: Host) -> bool:
        """True for every domain under it, not for itself."""
        return isinstance(host, str) and host.endswith(self.suffix)


@dataclass(frozen=True, slots=True)
class _Itself:
    """`self`: only requests without an authority, or to `self.alt`."""

    def allows(self, _: Host) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Exactly:
    """One host."""

    host: Host

    def allows(self, host: Host) -> bool:
        """True for the host itself."""
        return host == self.host


@dataclass(frozen=True, slots=True)
class _Within:
    """A network in CIDR notation."""

    network: IPv4Network | IPv6Network

    def allows(self, host: Host) -> bool:
        return not isinstance(host, str) and host in self.network


_HostRule = _AnyHost | Subdomains | _Itself | Exactly | _Within


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry."""

    scheme: str | None
    """None: any."""
    host: _HostRule
    ports: range | None
    """None: any."""

    @classmethod
    def parse(cls, text: str) -> AllowedHost:
        """The entry written as `text`, without templates.

        Raises:
            AllowedHostError: It is none.
        """
        entry = text.strip()
        scheme, separator, rest = entry.partition("://")
        if not separator:
            raise AllowedHostError(_without_scheme(entry))
        try:
            host_text, port_text = _split_port(rest)
            ports = _parse_ports(port_text, scheme)
            return cls(_parse_scheme(scheme), _parse_host_rule(host_text), ports)
        except AllowedHostError as exc:
            raise AllowedHostError(f'"{entry}": {exc}') from None

    def allows(self, scheme: str, host: Host, port: int | None) -> bool:
        """True when a connection there is covered by this entry."""
        return (
            (self.scheme is None or self.scheme == scheme)
            and self.host.allows(host)
            and (self.ports is None or port in self.ports)
        )

    def allows_relative(self) -> bool:
        """True when requests to the app itself are covered, over HTTP or HTTPS."""
        return self.scheme in (None, "http", "https") and isinstance(self.host, _AnyHost | _Itself)


def _without_scheme(entry: str) -> str:
    if entry in ("*", ":", "", "?"):
        return (
            f'"{entry}" is not an allowed outbound host: write scheme://host[:port], each of which '
            "may be '*'. '*://*:*' allows all outbound networking"
        )
    return f"\"{entry}\" does not contain a scheme (e.g., 'http://' or '*://')"


def _parse_scheme(text: str) -> str | None:
    if text == "*":
        return None
    if text.startswith("{"):
        raise AllowedHostError("scheme lists are not supported")
    if not all(char.isalpha() for char in text):
        raise AllowedHostError(f'invalid scheme "{text}": only alphabetic characters are allowed')
    return text


def _split_port(rest: str) -> tuple[str, str]:
    host, colon, tail = rest.rpartition(":")
    if not colon:
        return rest, ""
    if not tail:
        return host, ""
    try:
        _parse_host_rule(rest)  # the colon may be one of an IPv6 address
    except AllowedHostError:
        port, _, path = tail.partition("/")
        if path:
            raise AllowedHostError("has a path but is not allowed to") from None
        return host, port
    return rest, ""


def _parse_ports(text: str, scheme: str) -> range | None:
    if not text:
        port = WELL_KNOWN_PORTS.get(scheme)
        if port is None:
            raise AllowedHostError(
                f'no port was provided and the scheme "{scheme}" does not have a known default '
                "port number"
            )
        return range(port, port + 1)
    if text == "*":
        return None
    if text.startswith("{"):
        raise AllowedHostError("port lists are not yet supported")
    first, dots, end = text.partition("..")
    if dots:
        return range(_parse_port(first, text), _parse_port(end, text))
    port = _parse_port(text, text)
    return range(port, port + 1)


def _parse_port(text: str, whole: str) -> int:
    # Six digits are enough to see that a number is too large, however long it is.
    if not (text.isascii() and text.isdigit()) or int(text[:6]) > MAX_PORT:
        raise AllowedHostError(f'invalid port "{whole}": ports are 0 to {MAX_PORT}')
    return int(text)


def _parse_host_rule(text: str) -> _HostRule:
    host = text.strip()
    if host == "*":
        return _AnyHost()
    if host in _SELF_HOSTS:
        return _Itself()
    if host.startswith("{"):
        raise AllowedHostError("host lists are not yet supported")
    network = _parse_network(host)
    if network is not None:
        return _Within(network)
    host = host.removesuffix("/")
    if "/" in host:
        raise AllowedHostError(f'invalid host "{host}": must not include a path')
    domain = host.removeprefix("*.")
    if "*" in domain:
        where = "prefixes" if domain != host else "subdomains"
        raise AllowedHostError(f'invalid host "{host}": wildcards are allowed only as {where}')
    try:
        parsed = parse_host(domain)
    except HostError as exc:
        raise AllowedHostError(f'invalid host "{host}": {exc}') from None
    if domain == host:
        return Exactly(parsed)
    if not isinstance(parsed, str):
        raise AllowedHostError(f'invalid host "{host}": wildcard suffix must be a domain')
    return Subdomains(f".{parsed}")


def _parse_network(text: str) -> IPv4Network | IPv6Network | None:
    address, slash, bits = text.partition("/")
    # Only a number of bits: Python would take a netmask and a zone as well.
    if not slash or not (bits.isascii() and bits.isdigit()) or "%" in address:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def convert_allowed_http_hosts(hosts: Sequence[str]) -> list[str]:
    """The deprecated `allowed_http_hosts` in the words of `allowed_outbound_hosts`.

    Raises:
        AllowedHostError: An entry is no ``host[:port]`` and no HTTP URL without a path.
    """
    if "insecure:allow-all" in hosts:
        return ["http://*:*", "https://*:*", "http://self"]
    return [entry for text in hosts for entry in _convert_allowed_http_host(text)]


def _convert_allowed_http_host(text: str) -> list[str]:
    scheme, separator, rest = text.partition("//")
    authority = (rest if separator else text).removesuffix("/")
    parts = AUTHORITY.match(authority)
    if "/" in authority:
        raise AllowedHostError(f"{text} contains a path, should be host and optional port only")
    try:
        if parts is None or scheme not in ("http:", "https:", text):
            raise HostError
        parse_host(parts[1])
    except HostError:
        raise AllowedHostError(f"{text} isn't a valid host or host:port string") from None
    if parts[1] == "self":
        return ["http://self"]
    implied = "443" if scheme == "https:" else "80"
    port = "" if parts[2] in (None, "", implied) else f":{parts[2]}"
    return [f"http://{parts[1]}{port}", f"https://{parts[1]}{port}"]

"""`allowed_outbound_hosts`: what a component may connect to, decided as Spin decides it.

An entry is ``scheme://host[:port]``. Each part may be ``*``; the host may be a domain, an
address, a network in CIDR notation, ``*.domain`` for every subdomain, or ``self`` for the app
itself; the port may be a range ``first..end``, without its end. Without a port the scheme's own is
meant. ``http://*.spin.internal`` allows every component of the app by name.

Entries with ``{{ variable }}`` are resolved when the app is loaded. When one of them resolves to
something that is no entry, the component may connect to nothing at all, as in Spin 3.6 to 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network

from edgehost.strict_toml import Report, did_you_mean
from edgehost.url_host import Host, HostError, parse_host
from edgehost.variables import Template, TemplateError, Variables

__all__ = [
    "AllowedHost",
    "AllowedHostError",
    "AllowedHosts",
    "convert_allowed_http_hosts",
    "resolve_allowed_hosts",
    "service_chaining_target",
]

_SERVICE_CHAINING_SUFFIX = ".spin.internal"
_SELF_HOSTS = ("self", "self.alt")
_WELL_KNOWN_PORTS = {
    "postgres": 5432,
    "mysql": 3306,
    "redis": 6379,
    "mqtt": 1883,
    "http": 80,
    "https": 443,
}
_AUTHORITY = re.compile(r"(?:.*@)?(\[[^\]]*\]|[^:\[\]@]*)(?::([0-9]*))?\Z", re.DOTALL)
_MAX_PORT = 65_535
# A component talks to few hosts; a guest that makes up names must not grow this for ever.
_MAX_REMEMBERED_DECISIONS = 1_024


class AllowedHostError(ValueError):
    """A text that is no entry; the message says why."""


@dataclass(frozen=True, slots=True)
class _AnyHost:
    """`*`."""

    def allows(self, _: Host) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class _Subdomains:
    """`*.domain`."""

    suffix: str

    def allows(self, host: Host) -> bool:
        return isinstance(host, str) and host.endswith(self.suffix)


@dataclass(frozen=True, slots=True)
class _Itself:
    """`self`: only requests without an authority, or to `self.alt`."""

    def allows(self, _: Host) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _Exactly:
    host: Host

    def allows(self, host: Host) -> bool:
        return host == self.host


@dataclass(frozen=True, slots=True)
class _Within:
    """A network in CIDR notation."""

    network: IPv4Network | IPv6Network

    def allows(self, host: Host) -> bool:
        return not isinstance(host, str) and host in self.network


_HostRule = _AnyHost | _Subdomains | _Itself | _Exactly | _Within


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
        port = _WELL_KNOWN_PORTS.get(scheme)
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
    if not (text.isascii() and text.isdigit()) or int(text[:6]) > _MAX_PORT:
        raise AllowedHostError(f'invalid port "{whole}": ports are 0 to {_MAX_PORT}')
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
        return _Exactly(parsed)
    if not isinstance(parsed, str):
        raise AllowedHostError(f'invalid host "{host}": wildcard suffix must be a domain')
    return _Subdomains(f".{parsed}")


def _parse_network(text: str) -> IPv4Network | IPv6Network | None:
    address, slash, bits = text.partition("/")
    # Only a number of bits: Python would take a netmask and a zone as well.
    if not slash or not (bits.isascii() and bits.isdigit()) or "%" in address:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


class AllowedHosts:
    """The policy of one component; an `OutboundPolicy`."""

    __slots__ = ("_allowed", "_broken", "_decisions", "_relative")

    def __init__(self, allowed: Iterable[AllowedHost], *, broken: str | None = None) -> None:
        """Allow what any of `allowed` covers; nothing at all when `broken` says why."""
        self._allowed = tuple(allowed)
        self._broken = broken
        self._relative = any(entry.allows_relative() for entry in self._allowed)
        self._decisions: dict[tuple[str, str], str | None] = {}

    def check(self, scheme: str, authority: str) -> str | None:
        """None when allowed, else Spin's text for the person who reads the log.

        Args:
            scheme: Of the request, e.g. ``https``.
            authority: Of the request, ``host[:port]``; empty for a request to the app itself.
        """
        key = (scheme, authority)
        try:
            return self._decisions[key]
        except KeyError:
            decision = self._decide(scheme.lower(), authority)
        if len(self._decisions) >= _MAX_REMEMBERED_DECISIONS:
            self._decisions.clear()
        self._decisions[key] = decision
        return decision

    def _decide(self, scheme: str, authority: str) -> str | None:
        if self._broken is not None:
            return (
                f"A component tried to make an outbound network connection to '{scheme}://"
                f"{authority}', but its allowed_outbound_hosts are invalid: {self._broken}"
            )
        parts = _AUTHORITY.match(authority)
        host_text = parts[1] if parts else ""
        if parts and host_text in ("", "self.alt"):
            return None if self._relative else _denied("http", "self")
        try:
            if parts is None or int(parts[2] or 0) > _MAX_PORT:
                raise HostError("not an authority")
            host = parse_host(host_text)
        except HostError:
            return (
                "A component tried to make a request to a url that could not be parsed: "
                f"{scheme}://{authority}"
            )
        default_port = _WELL_KNOWN_PORTS.get(scheme)
        port = int(parts[2]) if parts[2] else default_port
        if any(entry.allows(scheme, host, port) for entry in self._allowed):
            return None
        shown = f"[{host}]" if host_text.startswith("[") else str(host)
        return _denied(scheme, shown if port == default_port else f"{shown}:{port}")


def _denied(scheme: str, authority: str) -> str:
    pattern = f"{scheme}://{authority}"
    if authority == "self":
        fact = (
            "A component tried to make an HTTP request to its own app but it does not have "
            "permission."
        )
    else:
        fact = (
            "A component tried to make an outbound network connection to disallowed destination "
            f"'{pattern}'."
        )
    remedy = (
        f"To allow this request, add 'allowed_outbound_hosts = [\"{pattern}\"]' to the manifest "
        "component section."
    )
    return f"{fact}\n{remedy}"


def service_chaining_target(authority: str) -> str | None:
    """The component meant by ``<id>.spin.internal[:port]``; None for any other authority."""
    host = authority.rpartition(":")[0] if ":" in authority else authority
    component_id, _, rest = host.strip().partition(".")
    return component_id if f".{rest}" == _SERVICE_CHAINING_SUFFIX else None


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
    parts = _AUTHORITY.match(authority)
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


def resolve_allowed_hosts(
    hosts: Sequence[str],
    variables: Variables,
    component_ids: Iterable[str],
    file: str,
    key: str,
    report: Report,
) -> AllowedHosts:
    """The policy for `hosts`.

    An entry that is wrong as the manifest stands, literally or with the default of its variables,
    is a fault. One that becomes wrong by a value from outside is a warning, and denies everything.

    Args:
        hosts: The entries, in order.
        variables: Values for their templates.
        component_ids: Components reachable through service chaining.
        file: Manifest in messages.
        key: Field in messages.
        report: Receives faults and warnings.
    """
    if list(hosts) == ["insecure:allow-all"]:
        report.fault(
            file,
            key,
            "'insecure:allow-all' is not allowed - use '*://*:*' instead if you really want to "
            "allow all outbound traffic",
        )
        return AllowedHosts(())
    allowed: list[AllowedHost] = []
    broken: str | None = None
    for index, text in enumerate(hosts):
        where = f"{key}[{index}]"
        try:
            template = _checked_template(text, variables)
        except (TemplateError, AllowedHostError) as exc:
            report.fault(file, where, str(exc))
            continue
        try:
            allowed.append(AllowedHost.parse(template.resolve(variables.values)))
        except AllowedHostError as exc:
            reason = _unless_secret(exc, template, variables)
            broken = f'"{text}" with the value of its variables{reason}'
            report.warn(file, where, f"{broken}; the component may connect to nothing")
    return AllowedHosts(_expand_service_chaining(allowed, component_ids), broken=broken)


def _checked_template(text: str, variables: Variables) -> Template:
    """The entry as a template, which is right as far as the manifest alone can tell."""
    template = Template.parse(text)
    if template.is_literal:
        AllowedHost.parse(text)
        return template
    for name in template.names:
        if name not in variables.values:
            hint = did_you_mean(name, variables.values, what="the app has")
            raise TemplateError(f'unknown variable "{name}"; {hint}')
    _check_defaults(text, template, variables)
    return template


def _check_defaults(text: str, template: Template, variables: Variables) -> None:
    """Spin refuses to load an app whose defaults make no entry."""
    if not all(name in variables.defaults for name in template.names):
        return
    try:
        AllowedHost.parse(template.resolve(variables.defaults))
    except AllowedHostError as exc:
        reason = _unless_secret(exc, template, variables)
        raise AllowedHostError(
            f'"{text}" with the default value of its variables{reason}'
        ) from None


def _unless_secret(exc: AllowedHostError, template: Template, variables: Variables) -> str:
    """The reason, which shows the resolved value, unless a secret is in it."""
    if variables.secrets.isdisjoint(template.names):
        return f": {exc}"
    return " is no allowed host"


def _expand_service_chaining(
    allowed: Iterable[AllowedHost], component_ids: Iterable[str]
) -> list[AllowedHost]:
    ids = list(component_ids)
    expanded = []
    for entry in allowed:
        if entry.host == _Subdomains(_SERVICE_CHAINING_SUFFIX):
            names = (_Exactly(f"{name}{_SERVICE_CHAINING_SUFFIX}") for name in ids)
            expanded += [replace(entry, host=name) for name in names]
        else:
            expanded.append(entry)
    return expanded

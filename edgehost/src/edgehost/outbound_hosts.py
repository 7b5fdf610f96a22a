"""`allowed_outbound_hosts`: what a component may connect to, decided as Spin decides it.

Entries with ``{{ variable }}`` are resolved when the app is loaded. When one of them resolves to
something that is no entry, the component may connect to nothing at all, as in Spin 3.6 to 4.0.
``http://*.spin.internal`` allows every component of the app by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from edgehost.allowed_host import (
    AUTHORITY,
    MAX_PORT,
    WELL_KNOWN_PORTS,
    AllowedHost,
    AllowedHostError,
    Exactly,
    Subdomains,
)
from edgehost.strict_toml import Report, did_you_mean
from edgehost.url_host import HostError, parse_host
from edgehost.variables import Template, TemplateError, Variables

__all__ = ["AllowedHosts", "resolve_allowed_hosts", "service_chaining_target"]

_SERVICE_CHAINING_SUFFIX = ".spin.internal"
# A component talks to few hosts; a guest that makes up names must not grow this for ever.
_MAX_REMEMBERED_DECISIONS = 1_024


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
        parts = AUTHORITY.match(authority)
        host_text = parts[1] if parts else ""
        if parts and host_text in ("", "self.alt"):
            return None if self._relative else _denied("http", "self")
        try:
            if parts is None or int(parts[2] or 0) > MAX_PORT:
                raise HostError("not an authority")
            host = parse_host(host_text)
        except HostError:
            return (
                "A component tried to make a request to a url that could not be parsed: "
                f"{scheme}://{authority}"
            )
        default_port = WELL_KNOWN_PORTS.get(scheme)
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
            allowed.append(_resolved(template, variables.values, variables.secrets))
        except AllowedHostError as exc:
            broken = f'"{text}" with the value of its variables {exc}'
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
    if all(name in variables.defaults for name in template.names):
        try:
            _resolved(template, variables.defaults, variables.secrets)
        except AllowedHostError as exc:
            raise AllowedHostError(f'"{text}" with the default of its variables {exc}') from None


def _resolved(
    template: Template, values: Mapping[str, str], secrets: frozenset[str]
) -> AllowedHost:
    """The entry that `template` makes of `values`. The reason for none shows no secret."""
    text = template.resolve(values)
    if not text.strip():
        raise AllowedHostError("is empty")
    try:
        return AllowedHost.parse(text)
    except AllowedHostError as exc:
        reason = f": {exc}" if secrets.isdisjoint(template.names) else ""
        raise AllowedHostError(f"is no allowed host{reason}") from None


def _expand_service_chaining(
    allowed: Iterable[AllowedHost], component_ids: Iterable[str]
) -> list[AllowedHost]:
    ids = list(component_ids)
    expanded = []
    for entry in allowed:
        if entry.host == Subdomains(_SERVICE_CHAINING_SUFFIX):
            names = (Exactly(f"{name}{_SERVICE_CHAINING_SUFFIX}") for name in ids)
            expanded += [replace(entry, host=name) for name in names]
        else:
            expanded.append(entry)
    return expanded

"""`[[trigger.http]]`: routes, and what answers there."""

from __future__ import annotations

import re
from typing import Protocol

from edgehost.manifest.model import HttpTrigger, StaticResponse
from edgehost.strict_toml import Table, describe, did_you_mean

__all__ = ["Components", "read_http_triggers"]


class Components(Protocol):
    """The components triggers may refer to."""

    def check_reference(self, table: Table, component_id: str) -> None:
        """Report a `component` of the trigger `table` that does not exist."""
        ...

    def declare_inline(self, trigger_id: str, several: bool, table: Table) -> str:
        """Add the component defined in `table`; gives its new id."""
        ...


_EXECUTORS = ("http", "spin", "wagi")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2: token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*\Z")  # RFC 9110, 5.5


def read_http_triggers(tables: list[Table], components: Components) -> tuple[HttpTrigger, ...]:
    """Every readable trigger, each with an id as Spin would give it."""
    ids = _trigger_ids(tables)
    triggers = (
        _read_trigger(table, trigger_id, components)
        for table, trigger_id in zip(tables, ids, strict=True)
    )
    return tuple(trigger for trigger in triggers if trigger is not None)


def _trigger_ids(tables: list[Table]) -> list[str]:
    given = [table.string("id") or "" for table in tables]
    taken = set(given)
    counter = 1
    for index, table in enumerate(tables):
        if given[index]:
            continue
        component = table.raw("component")
        natural = f"{component}-http-trigger"
        if isinstance(component, str) and natural not in taken:
            given[index] = natural
        else:
            while f"http-trigger{counter}" in taken:
                counter += 1
            given[index] = f"http-trigger{counter}"
        taken.add(given[index])
    return given


def _read_trigger(table: Table, trigger_id: str, components: Components) -> HttpTrigger | None:
    faults_before = len(table.report.faults)
    route = _read_route(table)
    component = _read_component(table, trigger_id, components)
    static_response = _read_static_response(table)
    if ("component" in table) == ("static_response" in table):
        which = "both" if "component" in table else "neither"
        table.report.fault(
            table.file,
            table.key,
            f"must specify either component or static_response; it has {which}",
        )
    _read_executor(table)
    if table.table("dependencies"):
        table.fault("dependencies", "this host does not compose middleware")
    if table.table("components"):
        table.warn("components", "the HTTP trigger uses only `component`")
    table.finish()
    if len(table.report.faults) > faults_before:
        return None
    return HttpTrigger(trigger_id, table.key, route, component, static_response)


def _read_route(table: Table) -> str | None:
    if "route" not in table:
        table.raw("route")
        table.report.fault(table.file, table.key, 'missing field "route"')
        return None
    value = table.raw("route")
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        table.fault(
            "route", f"must be a string pattern or {{ private = true }}, not {describe(value)}"
        )
        return None
    private = table.child("route", value)
    if "private" in private and private.boolean("private") is False:
        private.fault("private", "must be true: a public route is a string pattern")
    elif "private" not in private:
        private.boolean("private")
        table.fault("route", "must be a string pattern or { private = true }")
    private.finish()
    return None


def _read_component(table: Table, trigger_id: str, components: Components) -> str | None:
    value = table.raw("component")
    if value is None:
        return None
    if isinstance(value, str):
        components.check_reference(table, value)
        return value
    if isinstance(value, dict):
        several = "components" in table
        return components.declare_inline(trigger_id, several, table.child("component", value))
    table.fault("component", f"must be a component id or a table, not {describe(value)}")
    return None


def _read_static_response(table: Table) -> StaticResponse | None:
    response = table.table("static_response")
    if response is None:
        return None
    status = response.integer("status_code", minimum=100, maximum=999)
    headers = response.string_map("headers")
    for name, value in headers.items():
        if not _HEADER_NAME.match(name):
            response.fault("headers", f"{name!r} is not a header name")
        elif not _HEADER_VALUE.match(value):
            response.fault(f"headers.{name}", "has control characters in its value")
    body = response.string("body") or ""
    # Spin reads this table leniently, so a stray field must not stop the app here either.
    for name in response.names():
        if name not in {"status_code", "headers", "body"}:
            hint = did_you_mean(name, ("status_code", "headers", "body"))
            response.warn(name, f"unknown field, ignored; {hint}")
    return StaticResponse(200 if status is None else status, headers, body.encode())


def _read_executor(table: Table) -> None:
    executor = table.table("executor")
    if executor is None:
        return
    kind = executor.required_string("type")
    if kind == "wagi":
        executor.fault("type", "this host does not serve the Wagi executor")
        return
    if kind is not None and kind not in _EXECUTORS:
        executor.fault("type", f'unknown executor "{kind}"; {did_you_mean(kind, _EXECUTORS)}')
        return
    executor.finish()

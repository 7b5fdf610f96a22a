"""Read a spin.toml, version 2, as strictly as Spin does."""

from __future__ import annotations

from pathlib import Path

from edgehost.manifest.component import read_component, read_tool
from edgehost.manifest.identifiers import kebab_fault, lower_snake_fault
from edgehost.manifest.model import Application, Component, HttpTrigger, Manifest, Variable
from edgehost.manifest.trigger import read_http_triggers
from edgehost.strict_toml import Report, Table, describe, did_you_mean, load_toml, parse_toml

__all__ = ["parse_manifest", "read_manifest"]


def read_manifest(path: Path, file: str, report: Report) -> Manifest | None:
    """What the manifest at `path` says; None when there is nothing to go on with.

    Args:
        path: The manifest.
        file: Its name in messages.
        report: Receives faults and warnings. With faults in it the manifest is partial, good
            only for finding further faults.
    """
    root = load_toml(path, file, report)
    return None if root is None else _read_root(root)


def parse_manifest(text: str, *, file: str = "spin.toml") -> Manifest:
    """The manifest in `text`.

    Raises:
        ConfigError: With every fault found.
    """
    report = Report()
    root = parse_toml(text, file, report)
    manifest = None if root is None else _read_root(root)
    report.raise_if_faulty()
    assert manifest is not None  # a root without faults always gives one
    return manifest


def _read_root(root: Table) -> Manifest | None:
    if not _check_version(root):
        return None
    components = _Components(root)
    manifest = Manifest(
        file=root.file,
        application=_read_application(root),
        variables=_read_variables(root),
        triggers=_read_triggers(root, components),
        components=components.read_all(),
    )
    root.finish()
    return manifest


def _check_version(root: Table) -> bool:
    """False when the rest of the file follows other rules."""
    version = root.raw("spin_manifest_version")
    name = "spin_manifest_version"
    if version == 2 and not isinstance(version, bool):
        return True
    if version is None:
        root.report.fault(root.file, "", f'missing field "{name}"')
    elif version in (1, "1"):
        root.fault(name, "this host reads version 2 only: `spin doctor` upgrades the file")
    else:
        shown = f'"{version}"' if isinstance(version, str) else describe(version)
        root.fault(name, f"must be 2, not {shown}")
    return False


def _read_application(root: Table) -> Application:
    table = root.table("application")
    if table is None:
        if "application" not in root:
            root.report.fault(root.file, "", 'missing field "application"')
        return Application()
    application = Application(
        name=table.required_string("name") or "",
        version=table.string("version") or "",
        description=table.string("description") or "",
        authors=table.strings("authors"),
    )
    table.array("targets")
    read_tool(table)
    settings = table.table("trigger")
    if settings is not None:
        _read_trigger_settings(settings)
    table.finish()
    return application


def _read_trigger_settings(settings: Table) -> None:
    for kind in settings.names():
        table = settings.table(kind)
        if kind != "http" or table is None:
            continue
        base = table.string("base")
        if base == "/":
            table.warn("base", 'deprecated, and "/" is what it would be without it')
        elif base is not None:
            table.fault("base", "is no longer used: put it in front of each trigger's route")
        table.finish()


def _read_variables(root: Table) -> dict[str, Variable]:
    table = root.table("variables")
    if table is None:
        return {}
    variables = {}
    for name in table.names():
        fault = lower_snake_fault(name)
        if fault:
            table.fault(name, fault)
        entry = table.table(name)
        if entry is not None:
            variables[name] = _read_variable(name, entry)
    return variables


def _read_variable(name: str, entry: Table) -> Variable:
    faults_before = len(entry.report.faults)
    default = entry.string("default")
    required = entry.boolean("required") or False
    secret = entry.boolean("secret") or False
    description = entry.string("description") or ""
    entry.finish()
    if len(entry.report.faults) == faults_before and required == (default is not None):
        which = "is both" if required else "is neither"
        entry.report.fault(
            entry.file, entry.key, f"must be `required` or have a `default`; it {which}"
        )
    if len(entry.report.faults) > faults_before:
        default = default or ""  # or it would be reported as without a value, too
    return Variable(name, default, secret, description)


def _read_triggers(root: Table, components: _Components) -> tuple[HttpTrigger, ...]:
    table = root.table("trigger")
    if table is None:
        if "trigger" not in root:
            root.report.fault(root.file, "", 'missing field "trigger"')
        return ()
    others = [kind for kind in table.names() if kind != "http"]
    tables = {kind: table.tables(kind) for kind in table.names()}
    for kind in others:
        table.warn(kind, "this host serves HTTP triggers only: these components get no events")
    if "http" not in table:
        table.report.fault(
            table.file, table.key, "has no [[trigger.http]]: this host serves HTTP triggers only"
        )
        return ()
    return read_http_triggers(tables["http"], components)


class _Components:
    """Components by id, from their own tables and from triggers that define them inline."""

    def __init__(self, root: Table) -> None:
        self._table = root.table("component")
        self._declared = set(self._table.names()) if self._table else set()
        self._inline: dict[str, Component] = {}
        self._inline_counter = 1

    def check_reference(self, table: Table, component_id: str) -> None:
        """Report an id that names no component."""
        fault = kebab_fault(component_id)
        if fault:
            table.fault("component", fault)
        elif component_id not in self._declared:
            hint = did_you_mean(component_id, self._declared, what="this manifest has")
            table.fault("component", f'there is no component "{component_id}"; {hint}')

    def declare_inline(self, trigger_id: str, several: bool, table: Table) -> str:
        """Add an inline component under the id Spin would give it."""
        component_id = f"{trigger_id}-component"
        if several or kebab_fault(component_id) or component_id in self._declared:
            while f"inline-component{self._inline_counter}" in self._declared:
                self._inline_counter += 1
            component_id = f"inline-component{self._inline_counter}"
        self._declared.add(component_id)
        component = read_component(component_id, table)
        if component is not None:
            self._inline[component_id] = component
        return component_id

    def read_all(self) -> dict[str, Component]:
        """Every usable component, those of the `component` table first."""
        found: dict[str, Component] = {}
        for component_id in self._table.names() if self._table else ():
            assert self._table is not None
            fault = kebab_fault(component_id)
            if fault:
                self._table.fault(component_id, fault)
            entry = self._table.table(component_id)
            component = read_component(component_id, entry) if entry else None
            if component is not None:
                found[component_id] = component
        return found | self._inline

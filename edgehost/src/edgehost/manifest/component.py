"""`[component.<id>]`, and components written inline in a trigger."""

from __future__ import annotations

from edgehost.manifest.identifiers import label_fault, lower_snake_fault
from edgehost.manifest.model import Build, Component
from edgehost.strict_toml import Table, describe

__all__ = ["read_component"]


def read_component(component_id: str, table: Table) -> Component | None:
    """The component, or None when it has no usable source; faults go to the table's report."""
    source = _read_source(table)
    component = Component(
        id=component_id,
        key=table.key,
        source=source or "",
        description=table.string("description") or "",
        environment=table.string_map("environment"),
        variables=_read_variables(table),
        allowed_outbound_hosts=table.strings("allowed_outbound_hosts"),
        allowed_http_hosts=table.strings("allowed_http_hosts"),
        key_value_stores=_read_labels(table, "key_value_stores"),
        build=_read_build(table),
    )
    _read_unserved(table)
    _read_ignored(table)
    table.finish()
    return component if source else None


def _read_source(table: Table) -> str | None:
    if "source" not in table:
        table.raw("source")
        table.report.fault(table.file, table.key, 'missing field "source"')
        return None
    value = table.raw("source")
    if isinstance(value, str):
        if not value:
            table.fault("source", "must not be empty")
        return value or None
    if not isinstance(value, dict):
        table.fault("source", f"must be a path, not {describe(value)}")
    elif "url" in value:
        table.fault(
            "source",
            "this host does not download components: fetch "
            f"{value['url']} yourself and give the path of the file",
        )
    elif "package" in value:
        table.fault(
            "source",
            "this host does not fetch components from a registry: give the path of the file",
        )
    else:
        table.fault("source", "must be a path")
    return None


def _read_variables(table: Table) -> dict[str, str]:
    variables = table.string_map("variables")
    for name in variables:
        fault = lower_snake_fault(name)
        if fault:
            table.fault(f"variables.{name}", fault)
    return variables


def _read_labels(table: Table, name: str) -> tuple[str, ...]:
    labels = []
    for index, label in enumerate(table.strings(name)):
        fault = label_fault(label)
        if fault:
            table.fault(f"{name}[{index}]", fault)
        else:
            labels.append(label)
    return tuple(labels)


def _read_build(table: Table) -> Build | None:
    build = table.table("build")
    if build is None:
        return None
    commands = read_commands(build)
    workdir = build.string("workdir")
    build.strings("watch")
    build.finish()
    return Build(commands, workdir)


def read_commands(build: Table) -> tuple[str, ...]:
    """`command`: one string or an array of them."""
    if "command" not in build:
        build.raw("command")
        build.report.fault(build.file, build.key, 'missing field "command"')
        return ()
    if isinstance(build.raw("command"), str):
        return (build.string("command") or "",)
    return build.strings("command")


def _read_unserved(table: Table) -> None:
    """Fields that are right in Spin and that this host does not serve."""
    if table.array("files"):
        table.fault(
            "files",
            "this host mounts no files: read them when the component is built "
            "(module level in Python), or keep them in a key-value store",
        )
    table.strings("exclude_files")
    dependencies = table.table("dependencies")
    if dependencies is not None and dependencies.names():
        table.fault(
            "dependencies",
            "this host does not compose dependencies: compose them when the component is built",
        )
    table.boolean("dependencies_inherit_configuration")
    for name in ("sqlite_databases", "ai_models"):
        labels = table.strings(name) if name == "ai_models" else _read_labels(table, name)
        if labels:
            table.warn(name, "this host does not serve this interface: a call of it traps")


def _read_ignored(table: Table) -> None:
    """Fields that change nothing at run time; their form is still checked."""
    table.array("targets")
    read_tool(table)
    profiles = table.table("profile")
    if profiles is not None:
        for name in profiles.names():
            profile = profiles.table(name)
            if profile is not None:
                _read_profile(profile)


def read_tool(table: Table) -> None:
    """`tool`: settings of other programs; each must be a table."""
    tools = table.table("tool")
    if tools is not None:
        for name in tools.names():
            tools.table(name)


def _read_profile(profile: Table) -> None:
    profile.raw("source")
    profile.string_map("environment")
    profile.table("dependencies")
    build = profile.table("build")
    if build is not None:
        read_commands(build)
        build.finish()
    profile.finish()

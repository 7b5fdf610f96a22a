"""runtime-config.toml: where stores and variables come from on this machine.

Spin reads it for every app the same way; the manifest knows nothing of it. What is set there and
not served here is refused where leaving it out could surprise (another store, a network block),
and a warning where it could not (limits of interfaces that trap anyway).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from edgehost.dotenv import DotenvError, parse_dotenv
from edgehost.strict_toml import Report, Table, did_you_mean, load_toml
from edgehost.variables import (
    DEFAULT_PREFIX,
    EnvironmentProvider,
    StaticProvider,
    VariableProvider,
)

__all__ = [
    "MemoryStoreConfig",
    "OutboundHttpConfig",
    "RedisStoreConfig",
    "RuntimeConfig",
    "SqliteStoreConfig",
    "StoreConfig",
    "read_dotenv",
    "read_runtime_config",
]

_REDIS_SCHEMES = ("redis", "rediss", "unix")
_STORE_TYPES = ("spin", "redis", "azure_cosmos", "aws_dynamo")
_PROVIDER_TYPES = ("static", "env", "vault", "azure_key_vault")
_OTHER_STORES = ("sqlite_database", "llm_compute")
_OTHER_LIMITS = ("outbound_redis", "outbound_pg", "outbound_mysql", "outbound_mqtt")


@dataclass(frozen=True, slots=True)
class MemoryStoreConfig:
    """`type = "spin"` without a path: lives as long as the host."""


@dataclass(frozen=True, slots=True)
class SqliteStoreConfig:
    """`type = "spin"`: a SQLite file, shared by every label that names it."""

    path: Path


@dataclass(frozen=True, slots=True)
class RedisStoreConfig:
    """`type = "redis"`."""

    url: str = field(repr=False)  # may carry a password

    @property
    def address(self) -> str:
        """Host and port, or the socket's path; never user or password."""
        parts = urlsplit(self.url)
        return parts.netloc.rpartition("@")[2] or parts.path


StoreConfig = MemoryStoreConfig | SqliteStoreConfig | RedisStoreConfig


@dataclass(frozen=True, slots=True)
class OutboundHttpConfig:
    """`[outbound_http]`."""

    connection_pooling: bool = True
    max_connections: int | None = None
    """None: as many as the host's own bound allows; 0 denies every call."""


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """The whole file; an absent file is one without fields."""

    state_dir: str | None = None
    """None: not set. Empty: nothing is kept on disk."""
    log_dir: str | None = None
    max_instance_memory: int | None = None
    """Bytes."""
    variable_providers: tuple[VariableProvider, ...] = ()
    key_value_stores: Mapping[str, StoreConfig] = field(default_factory=dict)
    outbound_http: OutboundHttpConfig = field(default_factory=OutboundHttpConfig)


def read_runtime_config(
    path: Path, file: str, environment: Mapping[str, str], working_dir: Path, report: Report
) -> RuntimeConfig:
    """What the file at `path` says; faults and warnings go to `report`.

    Args:
        path: The file. Paths of stores are relative to its directory.
        file: Its name in messages.
        environment: For `type = "env"` providers.
        working_dir: What a `dotenv_path` is relative to.
        report: Receives faults and warnings.
    """
    root = load_toml(path, file, report)
    if root is None:
        return RuntimeConfig()
    config = RuntimeConfig(
        state_dir=root.string("state_dir"),
        log_dir=root.string("log_dir"),
        max_instance_memory=root.integer("max_instance_memory", minimum=1),
        variable_providers=_read_providers(root, environment, working_dir),
        key_value_stores=_read_stores(root, path.parent),
        outbound_http=_read_outbound_http(root),
    )
    _read_unserved(root)
    root.finish()
    return config


def _read_providers(
    root: Table, environment: Mapping[str, str], working_dir: Path
) -> tuple[VariableProvider, ...]:
    name = "variables_provider" if "variables_provider" in root else "config_provider"
    if name == "variables_provider" and "config_provider" in root:
        root.raw("config_provider")
        root.fault("config_provider", "is the old name of variables_provider: use only one of them")
    providers = []
    for table in root.tables(name):
        provider = _read_provider(table, environment, working_dir)
        if provider is not None:
            providers.append(provider)
    return tuple(providers)


def _read_provider(
    table: Table, environment: Mapping[str, str], working_dir: Path
) -> VariableProvider | None:
    kind = _read_type(table, _PROVIDER_TYPES, ("static", "env"))
    if kind is None:
        return None
    provider: VariableProvider
    if kind == "static":
        if "values" not in table:
            table.report.fault(table.file, table.key, 'missing field "values"')
        provider = StaticProvider(table.string_map("values"))
    else:
        prefix = table.string("prefix")
        dotenv_path = table.string("dotenv_path")
        dotenv = {}
        if dotenv_path is not None:
            dotenv = read_dotenv(working_dir / dotenv_path, dotenv_path, environment, table.report)
        provider = EnvironmentProvider(
            environment, dotenv, DEFAULT_PREFIX if prefix is None else prefix
        )
    table.finish()
    return provider


def read_dotenv(
    path: Path, file: str, environment: Mapping[str, str], report: Report
) -> dict[str, str]:
    """Assignments of a dotenv file; an absent file has none."""
    try:
        return parse_dotenv(path.read_bytes().decode("utf-8"), environment)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        report.fault(file, "", f"cannot be read: {exc.strerror or exc}")
    except UnicodeDecodeError as exc:
        report.fault(file, "", f"is not UTF-8 (byte {exc.start})")
    except DotenvError as exc:
        report.fault(file, "", str(exc))
    return {}


def _read_stores(root: Table, directory: Path) -> dict[str, StoreConfig]:
    stores = root.table("key_value_store")
    found: dict[str, StoreConfig] = {}
    for label in stores.names() if stores else ():
        assert stores is not None
        table = stores.table(label)
        kind = _read_type(table, _STORE_TYPES, ("spin", "redis")) if table else None
        if table is None or kind is None:
            continue
        store = _read_spin_store(table, directory) if kind == "spin" else _read_redis_store(table)
        table.finish()
        if store is not None:
            found[label] = store
    return found


def _read_spin_store(table: Table, directory: Path) -> StoreConfig:
    path = table.string("path")
    return MemoryStoreConfig() if path is None else SqliteStoreConfig((directory / path).absolute())


def _read_redis_store(table: Table) -> StoreConfig | None:
    url = table.required_string("url")
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        has_host = parts.scheme == "unix" or bool(parts.hostname)
        _ = parts.port  # raises when it is no port
    except ValueError:
        has_host, parts = False, urlsplit("")
    if parts.scheme not in _REDIS_SCHEMES or not has_host:
        # Not the value: it may carry a password.
        table.fault("url", "must be redis://[user:password@]host[:port][/database], or rediss://…")
        return None
    return RedisStoreConfig(url)


def _read_outbound_http(root: Table) -> OutboundHttpConfig:
    table = root.table("outbound_http")
    if table is None:
        return OutboundHttpConfig()
    # Spin's default changes with the presence of the table: absent true, present false.
    pooling = table.boolean("connection_pooling")
    if pooling is None:
        table.warn(
            "connection_pooling",
            "is off because this table exists and does not set it: set it to true or false",
        )
    connections = table.integer("max_connections")
    requests = table.integer("max_concurrent_requests")
    if connections is not None and requests is not None:
        table.fault(
            "max_concurrent_requests", "is the old name of max_connections: use only that one"
        )
    elif requests is not None:
        table.warn("max_concurrent_requests", "is deprecated: use max_connections")
        connections = requests + 1  # as Spin: 0 had allowed one call at a time
    table.finish()
    return OutboundHttpConfig(bool(pooling), connections)


def _read_unserved(root: Table) -> None:
    for name in _OTHER_STORES:
        if root.table(name) is not None:
            root.warn(name, "this host does not serve this interface: a call of it traps")
    for name in _OTHER_LIMITS:
        table = root.table(name)
        if table is not None:
            table.integer("max_connections")
            table.finish()
            root.warn(name, "this host does not serve this interface: a call of it traps")
    if root.table("outbound_networking") is not None:
        root.fault("outbound_networking", "this host does not block networks or count connections")
    if root.tables("client_tls"):
        root.fault("client_tls", "this host does not set up client TLS per component")


def _read_type(table: Table, known: tuple[str, ...], served: tuple[str, ...]) -> str | None:
    """The table's `type` when this host serves it."""
    kind = table.required_string("type")
    if kind is None or kind in served:
        return kind
    if kind in known:
        names = " or ".join(f'"{name}"' for name in served)
        table.fault("type", f'this host does not serve "{kind}": use {names}')
    else:
        table.fault("type", f'unknown type "{kind}"; {did_you_mean(kind, served)}')
    return None

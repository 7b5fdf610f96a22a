"""An app, resolved: what the server routes to and what every component may do.

`App.load` is the one place where manifest, flags, runtime config and environment meet. It reads
everything, collects every fault, and either raises them all or gives a value that nothing later
has to check again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgehost.allowed_host import AllowedHostError, convert_allowed_http_hosts
from edgehost.keyvalue.provider import AppStores, ComponentStores, redis_fault
from edgehost.manifest import Component, HttpTrigger, Manifest, read_manifest
from edgehost.outbound_hosts import AllowedHosts, resolve_allowed_hosts
from edgehost.ports import ComponentSpec, InstanceLimits
from edgehost.routes import WELL_KNOWN_PREFIX, Route, RouteError, RouteTable
from edgehost.runtime_config import (
    OutboundHttpConfig,
    RedisStoreConfig,
    RuntimeConfig,
    read_dotenv,
    read_runtime_config,
)
from edgehost.strict_toml import Report, did_you_mean
from edgehost.variables import (
    EnvironmentProvider,
    StaticProvider,
    Variables,
    resolve_variables,
)

__all__ = ["App"]

_MANIFEST_NAME = "spin.toml"
_STATE_DIR_NAME = ".spin"


@dataclass(frozen=True, slots=True)
class App:
    """Everything the host needs to know; made by `load`."""

    name: str
    version: str
    manifest_path: Path
    routes: RouteTable
    components: Mapping[str, ComponentSpec]
    descriptions: Mapping[str, str]
    """Descriptions of components that have one, by id."""
    stores: AppStores
    outbound_http: OutboundHttpConfig
    state_dir: Path | None
    """Absolute; None when nothing is to be kept on disk."""
    log_dir: Path | None
    """Where the runtime config wants logs of components; None when it does not say."""
    warnings: tuple[str, ...]
    """What the user should know; each a line with file and key."""

    @classmethod
    def load(
        cls,
        manifest_path: Path,
        *,
        variables: Mapping[str, str] | None = None,
        runtime_config: Path | None = None,
        state_dir: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        component_env: Mapping[str, str] | None = None,
        limits: InstanceLimits | None = None,
        working_dir: Path | None = None,
    ) -> App:
        """Read and resolve an app.

        Args:
            manifest_path: The spin.toml, or the directory it is in.
            variables: Values given as flags (`--variable`); they go before all others.
            runtime_config: The runtime-config.toml, if there is one.
            state_dir: Where stores are kept. None: what the runtime config says, else `.spin`
                beside the manifest. An empty string: nothing is kept.
            env: The process environment, for `SPIN_VARIABLE_<NAME>`. None: the real one.
            component_env: Environment variables for every component (`--env`).
            limits: What one instance may use. A memory limit of the runtime config applies where
                this sets none.
            working_dir: Where `.env` is read from and relative paths start. None: the current
                directory.

        Raises:
            ConfigError: With every fault found in any of the inputs.
        """
        directory = Path.cwd() if working_dir is None else working_dir
        loader = _Loader(directory, os.environ if env is None else env)
        return loader.load(
            manifest_path,
            variables or {},
            runtime_config,
            state_dir,
            component_env or {},
            limits or InstanceLimits(),
        )

    def close(self) -> None:
        """Close the stores; call it when no guest runs any more."""
        self.stores.close()


class _Loader:
    """One run of `App.load`: carries the report through its steps."""

    def __init__(self, working_dir: Path, environment: Mapping[str, str]) -> None:
        self._report = Report()
        self._working_dir = working_dir
        self._environment = environment

    def load(
        self,
        manifest_path: Path,
        flags: Mapping[str, str],
        runtime_config_path: Path | None,
        state_dir: Path | str | None,
        component_env: Mapping[str, str],
        limits: InstanceLimits,
    ) -> App:
        if (self._working_dir / manifest_path).is_dir():
            manifest_path = manifest_path / _MANIFEST_NAME
        # Not `resolve`: links stay, as in Spin.
        path = Path(os.path.abspath(self._working_dir / manifest_path))
        manifest = read_manifest(path, str(manifest_path), self._report)
        config = self._read_config(runtime_config_path)
        if manifest is None:
            self._report.raise_if_faulty()
            raise AssertionError("a manifest is missing only with a fault")
        resolved = self._resolve_variables(manifest, flags, config, path.parent)
        resolved_state_dir = self._state_dir(state_dir, config, path.parent)
        stores = AppStores(config.key_value_stores, resolved_state_dir)
        if limits.memory_bytes is None and config.max_instance_memory is not None:
            limits = replace(limits, memory_bytes=config.max_instance_memory)
        components = {
            component.id: self._component(
                component, manifest, path.parent, resolved, stores, component_env, limits
            )
            for component in manifest.components.values()
        }
        routes = self._routes(manifest)
        self._report.raise_if_faulty()
        return App(
            name=manifest.application.name,
            version=manifest.application.version,
            manifest_path=path,
            routes=routes,
            components=components,
            descriptions={
                c.id: c.description for c in manifest.components.values() if c.description
            },
            stores=stores,
            outbound_http=config.outbound_http,
            state_dir=resolved_state_dir,
            log_dir=Path(config.log_dir) if config.log_dir else None,
            warnings=tuple(self._report.warnings),
        )

    def _read_config(self, path: Path | None) -> RuntimeConfig:
        if path is None:
            return RuntimeConfig()
        config = read_runtime_config(
            self._working_dir / path,
            str(path),
            self._environment,
            self._working_dir,
            self._report,
        )
        for label, store in config.key_value_stores.items():
            fault = redis_fault() if isinstance(store, RedisStoreConfig) else None
            if fault:
                self._report.fault(str(path), f"key_value_store.{label}", fault)
        return config

    def _resolve_variables(
        self,
        manifest: Manifest,
        flags: Mapping[str, str],
        config: RuntimeConfig,
        app_dir: Path,
    ) -> Variables:
        for name in flags:
            if name not in manifest.variables:
                hint = did_you_mean(name, manifest.variables, what="the app has")
                self._report.warn("--variable", name, f"the app has no such variable; {hint}")
        dotenv = read_dotenv(self._working_dir / ".env", ".env", self._environment, self._report)
        if (app_dir / ".env").is_file() and not (self._working_dir / ".env").exists():
            self._report.warn(
                str(app_dir / ".env"), "", "is not read: only the current directory's .env is"
            )
        providers = (
            StaticProvider(flags),
            *config.variable_providers,
            EnvironmentProvider(self._environment, dotenv),
        )
        return resolve_variables(manifest.variables, providers, manifest.file, self._report)

    def _state_dir(
        self, given: Path | str | None, config: RuntimeConfig, app_dir: Path
    ) -> Path | None:
        chosen = config.state_dir if given is None else given
        if chosen is None:
            return app_dir / _STATE_DIR_NAME
        return None if chosen == "" else (self._working_dir / chosen).absolute()

    def _component(
        self,
        component: Component,
        manifest: Manifest,
        app_dir: Path,
        variables: Variables,
        stores: AppStores,
        component_env: Mapping[str, str],
        limits: InstanceLimits,
    ) -> ComponentSpec:
        source = app_dir / component.source
        if not source.is_file():
            self._report.fault(manifest.file, f"{component.key}.source", _missing(component))
        self._check_labels(component, manifest.file, stores.labels)
        labels = frozenset(component.key_value_stores)
        return ComponentSpec(
            id=component.id,
            source=source,
            environment={**component.environment, **component_env},
            variables=variables.for_component(component, manifest.file, self._report),
            key_value_stores=labels,
            stores=ComponentStores(stores, labels),
            outbound=self._outbound(component, manifest, variables),
            limits=limits,
        )

    def _check_labels(self, component: Component, file: str, defined: Iterable[str]) -> None:
        for index, label in enumerate(component.key_value_stores):
            if label not in defined:
                self._report.fault(
                    file,
                    f"{component.key}.key_value_stores[{index}]",
                    f'there is no store "{label}": add [key_value_store.{label}] to the runtime '
                    f"config; {did_you_mean(label, defined, what='there is')}",
                )

    def _outbound(
        self, component: Component, manifest: Manifest, variables: Variables
    ) -> AllowedHosts:
        converted: list[str] = []
        if component.allowed_http_hosts:
            key = f"{component.key}.allowed_http_hosts"
            try:
                converted = convert_allowed_http_hosts(component.allowed_http_hosts)
            except AllowedHostError as exc:
                self._report.fault(manifest.file, key, str(exc))
            else:
                listed = ", ".join(f'"{entry}"' for entry in converted)
                self._report.warn(
                    manifest.file,
                    key,
                    f"is deprecated: write allowed_outbound_hosts = [{listed}]",
                )
        return resolve_allowed_hosts(
            [*component.allowed_outbound_hosts, *converted],
            variables,
            manifest.components,
            manifest.file,
            f"{component.key}.allowed_outbound_hosts",
            self._report,
        )

    def _routes(self, manifest: Manifest) -> RouteTable:
        routes: list[Route] = []
        by_pattern: dict[str, HttpTrigger] = {}
        for trigger in manifest.triggers:
            if trigger.route is None:
                continue
            key = f"{trigger.key}.route"
            try:
                route = Route(trigger.route, trigger.id, trigger.component, trigger.static_response)
            except RouteError as exc:
                self._report.fault(manifest.file, key, f'"{trigger.route}": {exc}')
                continue
            first = by_pattern.setdefault(route.matched_route, trigger)
            if first is not trigger:
                self._report.fault(
                    manifest.file, key, f'"{trigger.route}" is already the route of {first.key}'
                )
                continue
            self._warn_about(route, manifest.file, key)
            routes.append(route)
        table = RouteTable(routes)
        for route, other in table.unreachable():
            self._report.warn(
                manifest.file,
                "trigger.http",
                f'route "{route.pattern}" is never reached: "{other.pattern}" matches the same '
                "paths",
            )
        return table

    def _warn_about(self, route: Route, file: str, key: str) -> None:
        if route.matched_route.startswith(WELL_KNOWN_PREFIX):
            self._report.warn(
                file, key, f"is never reached: the host answers paths under {WELL_KNOWN_PREFIX}"
            )
        if "..." in route.matched_route.removesuffix("/..."):
            self._report.warn(
                file, key, f'"{route.pattern}": "..." is a wildcard only as the last segment'
            )


def _missing(component: Component) -> str:
    remedy = "build the component first"
    if component.build is not None and component.build.commands:
        workdir = f" in {component.build.workdir}" if component.build.workdir else ""
        remedy = f"build it first{workdir}: {' && '.join(component.build.commands)}"
    return f'"{component.source}" does not exist; {remedy}'

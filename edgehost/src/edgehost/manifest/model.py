"""What a spin.toml says, as read: no template resolved, no path made absolute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "Application",
    "Build",
    "Component",
    "HttpTrigger",
    "Manifest",
    "StaticResponse",
    "Variable",
]


@dataclass(frozen=True, slots=True)
class Application:
    """The `[application]` table."""

    name: str = ""
    version: str = ""
    description: str = ""
    authors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Variable:
    """One entry of `[variables]`; without a default it is required."""

    name: str
    default: str | None = None
    secret: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Build:
    """`[component.<id>.build]`: how the source comes to be."""

    commands: tuple[str, ...]
    workdir: str | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """One component. `key` is where it stands in the manifest, for messages."""

    id: str
    key: str
    source: str
    description: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    """Templates over application variables."""
    allowed_outbound_hosts: tuple[str, ...] = ()
    allowed_http_hosts: tuple[str, ...] = ()
    """Deprecated spelling of the former; hosts without a scheme."""
    key_value_stores: tuple[str, ...] = ()
    build: Build | None = None


@dataclass(frozen=True, slots=True)
class StaticResponse:
    """An answer given by the host itself."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpTrigger:
    """One `[[trigger.http]]`: a route (None: private) and what answers there.

    Exactly one of `component` and `static_response` is set.
    """

    id: str
    key: str
    route: str | None
    component: str | None = None
    static_response: StaticResponse | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole spin.toml, version 2."""

    file: str
    application: Application
    variables: Mapping[str, Variable]
    triggers: tuple[HttpTrigger, ...]
    components: Mapping[str, Component]

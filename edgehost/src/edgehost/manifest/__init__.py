"""spin.toml, version 2."""

from edgehost.manifest.identifiers import kebab_fault, label_fault, lower_snake_fault
from edgehost.manifest.model import (
    Application,
    Build,
    Component,
    HttpTrigger,
    Manifest,
    StaticResponse,
    Variable,
)
from edgehost.manifest.reader import parse_manifest, read_manifest

__all__ = [
    "Application",
    "Build",
    "Component",
    "HttpTrigger",
    "Manifest",
    "StaticResponse",
    "Variable",
    "kebab_fault",
    "label_fault",
    "lower_snake_fault",
    "parse_manifest",
    "read_manifest",
]

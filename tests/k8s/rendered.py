"""The manifests under test: every overlay, every combination, rendered once."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from kustomization import Manifest, render

__all__ = [
    "COMBINATIONS",
    "COMPONENTS",
    "OVERLAYS",
    "REPOSITORY",
    "SPINKUBE",
    "Objects",
    "component_pairs",
    "load",
    "pod_spec",
    "write_combination",
]

REPOSITORY = Path(__file__).resolve().parents[2]
SPINKUBE = REPOSITORY / "spinkube"
OVERLAYS = sorted(path.name for path in (SPINKUBE / "overlays").iterdir())
COMBINATIONS = sorted(path.name for path in (SPINKUBE / "tests").iterdir() if path.is_dir())

# In the order in which an overlay lists them: `edge-only` takes away what others gave.
COMPONENTS = (
    "shim-manual",
    "shim-rcm",
    "gpu",
    "model-volume",
    "ollama",
    "ollama-gpu",
    "records",
    "observability",
    "autoscaling-hpa",
    "autoscaling-keda",
    "ingress",
    "gateway",
    "multi-site",
    "edge-only",
)
EXCLUSIVE = (
    {"shim-manual", "shim-rcm"},
    {"autoscaling-hpa", "autoscaling-keda"},
    # One brings the other.
    {"ollama", "ollama-gpu"},
    # Ollama serves the backend, which such a site does not have.
    {"ollama", "edge-only"},
    {"ollama-gpu", "edge-only"},
    # One file of records has one writer.
    {"records", "autoscaling-hpa"},
    {"records", "autoscaling-keda"},
    {"records", "edge-only"},
    # One brings the other.
    {"multi-site", "edge-only"},
)


@dataclass(frozen=True)
class Objects:
    """Rendered objects with the look-ups tests need."""

    manifests: tuple[Manifest, ...]

    def __iter__(self) -> Iterator[Manifest]:
        return iter(self.manifests)

    def of_kind(self, *kinds: str) -> list[Manifest]:
        return [one for one in self.manifests if one["kind"] in kinds]

    def find(self, kind: str, name: str) -> Manifest | None:
        found = [one for one in self.of_kind(kind) if one["metadata"]["name"] == name]
        return found[0] if found else None

    def get(self, kind: str, name: str) -> Manifest:
        found = self.find(kind, name)
        assert found is not None, f"{kind} {name} is not rendered"
        return found

    def generated(self, kind: str, name: str) -> Manifest:
        """The generated object whose name before its hash is `name`."""
        found = [
            one for one in self.of_kind(kind) if one["metadata"]["name"].rpartition("-")[0] == name
        ]
        assert len(found) == 1, f"{len(found)} generated {kind}s named {name}"
        return found[0]


@functools.cache
def _rendered(directory: Path) -> tuple[Manifest, ...]:
    return tuple(render(directory))


def load(name: str) -> Objects:
    """Objects of `base`, an overlay, a combination, or a directory; copies, free to change."""
    for parent in (SPINKUBE / "overlays", SPINKUBE / "tests", SPINKUBE):
        if (parent / name).is_dir():
            return Objects(copy.deepcopy(_rendered(parent / name)))
    raise AssertionError(f"no kustomization {name}")


def component_pairs() -> list[tuple[str, ...]]:
    """Every component with every other it may stand beside."""
    return [pair for pair in combinations(COMPONENTS, 2) if set(pair) not in EXCLUSIVE]


def write_combination(folder: Path, components: tuple[str, ...]) -> Path:
    """Write a kustomization of base and components into `folder`."""
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", "resources:"]
    lines += [f"  - {os.path.relpath(SPINKUBE / 'base', folder.resolve())}", "components:"]
    for name in components:
        target = os.path.relpath(SPINKUBE / "components" / name, folder.resolve())
        lines.append(f"  - {target}")
    (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")
    return folder


def pod_spec(manifest: Manifest) -> dict[str, Any] | None:
    """The pod spec of a built-in workload; None for other kinds."""
    if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
        return spec
    return None

"""Makes the objects of one release: an overlay rendered, with the images and checksums of today."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kustomization import KustomizationError, Manifest, render

from .cluster import Cluster
from .errors import PreconditionError
from .objects import Ref, pod_template, secret_names

__all__ = ["OVERLAYS", "add_checksums", "namespace_of", "placeholders", "prepare"]

OVERLAYS = Path(__file__).resolve().parents[2] / "spinkube" / "overlays"
RUNTIME_CONFIG_CHECKSUM = "checksum/runtime-config"
SECRETS_CHECKSUM = "checksum/secrets"

# Stands in the manifests where every site has something of its own.
EXAMPLE = re.compile(r"(?:^|[/.@])example\.(?:com|org|net)\b|\b203\.0\.113\.")


def overlay_directory(overlay: str) -> Path:
    """The directory of an overlay, by its name here or by its path.

    Raises:
        PreconditionError: There is no such overlay; the message lists those there are.
    """
    for candidate in (OVERLAYS / overlay, Path(overlay)):
        if candidate.is_dir():
            return candidate
    names = ", ".join(sorted(path.name for path in OVERLAYS.iterdir() if path.is_dir()))
    raise PreconditionError(f"no overlay {overlay!r}: give a directory or one of {names}")


def prepare(overlay: str, images: Mapping[str, str] | None = None) -> list[Manifest]:
    """Render an overlay and set its images.

    Args:
        overlay: A name under spinkube/overlays, or a directory.
        images: Image name (its last part: `edge`, `gpu-backend`) to the reference to use.

    Raises:
        PreconditionError: It cannot be rendered, or an image of `images` is not in it.
    """
    try:
        manifests = render(overlay_directory(overlay))
    except KustomizationError as exc:
        raise PreconditionError(str(exc)) from exc
    for name, reference in (images or {}).items():
        if not _replace_image(manifests, name, reference):
            known = ", ".join(sorted({_short(image) for image in _images(manifests)}))
            raise PreconditionError(f"--image {name}: no such image here; there are {known}")
    return manifests


def namespace_of(manifests: Sequence[Manifest]) -> str:
    """The namespace of a release: that of its SpinApp.

    Raises:
        PreconditionError: There is not exactly one SpinApp.
    """
    found = [one["metadata"].get("namespace", "") for one in manifests if one["kind"] == "SpinApp"]
    if len(found) != 1 or not found[0]:
        raise PreconditionError(f"a release has one SpinApp in a namespace; this has {len(found)}")
    return str(found[0])


def placeholders(manifests: Sequence[Manifest]) -> list[str]:
    """Values that only stand for a site's own: example registries, hosts and addresses."""
    return [
        f"{Ref.of(manifest)}: {path} is still {value!r}: set it in an overlay of yours"
        + (", or with --image" if path.endswith("image") else "")
        for manifest in manifests
        for path, value in _strings(manifest, "")
        if EXAMPLE.search(value)
    ]


def add_checksums(manifests: Sequence[Manifest], cluster: Cluster) -> None:
    """Write digests of the Secrets that live in the cluster into the pods that use them.

    Nothing watches these Secrets: a changed one changes the annotation, hence the pods.
    """
    rendered = {Ref.of(one) for one in manifests if one["kind"] == "Secret"}
    for manifest in manifests:
        namespace = manifest["metadata"].get("namespace", "")
        refs = {
            Ref("v1", "Secret", namespace, name) for name in secret_names(manifest, optional=True)
        }
        outside = sorted(refs - rendered, key=lambda ref: ref.name)
        if not outside:
            continue
        checksum = _checksum(cluster, outside)
        if manifest["kind"] == "SpinApp":
            manifest["spec"].setdefault("podAnnotations", {})[RUNTIME_CONFIG_CHECKSUM] = checksum
        elif (template := pod_template(manifest)) is not None and manifest["kind"] != "Job":
            metadata = template.setdefault("metadata", {})
            metadata.setdefault("annotations", {})[SECRETS_CHECKSUM] = checksum


def _checksum(cluster: Cluster, refs: Sequence[Ref]) -> str:
    found = {ref.name: (cluster.find(ref) or {}).get("data", {}) for ref in refs}
    return "sha256:" + hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _replace_image(manifests: Sequence[Manifest], name: str, reference: str) -> bool:
    replaced = False

    def change(image: str) -> str:
        nonlocal replaced
        if _short(image) != name:
            return image
        replaced = True
        return reference

    for manifest in manifests:
        _each_image(manifest, change)
    return replaced


def _images(manifests: Sequence[Manifest]) -> list[str]:
    found: list[str] = []

    def note(image: str) -> str:
        found.append(image)
        return image

    for manifest in manifests:
        _each_image(manifest, note)
    return found


def _each_image(manifest: Manifest, change: Callable[[str], str]) -> None:
    if manifest["kind"] == "SpinApp":
        manifest["spec"]["image"] = change(manifest["spec"]["image"])
    if (template := pod_template(manifest)) is not None:
        spec = template["spec"]
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            container["image"] = change(container["image"])


def _short(image: str) -> str:
    """The last part of an image's name: `edge` of `registry:5000/team/edge:1.0@sha256:…`."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def _strings(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _strings(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _strings(value, f"{path}[{index}]")

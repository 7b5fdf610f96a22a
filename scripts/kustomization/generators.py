"""ConfigMaps and Secrets made from files, and the hash of their content in their names."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import KustomizationError
from .loading import Manifest, check_inside, only_fields

__all__ = ["content_hash", "generate"]

GENERATOR_FIELDS = ("name", "namespace", "behavior", "files", "literals", "envs", "options", "type")
BASE64_LINE = 70
OPTION_FIELDS = ("disableNameSuffixHash", "labels", "annotations", "immutable")

# Kubernetes' alphabet for generated names: no vowels and nothing that looks like one.
_HASH_ALPHABET = str.maketrans("013ae", "ghkmt")


def generate(
    kind: str, entry: Mapping[str, Any], options: Mapping[str, Any], kustomization: Path
) -> tuple[Manifest, bool]:
    """Return the ConfigMap or Secret of one generator entry, and whether its name gets a hash.

    Raises:
        KustomizationError: A source file is absent, or a key appears twice.
    """
    fields = only_fields(kustomization, entry, f"{kind} generator", GENERATOR_FIELDS)
    own = only_fields(kustomization, fields.get("options", {}), "options", OPTION_FIELDS)
    merged_options = _merged_options(options, own)
    data: dict[str, bytes] = {}
    for key, value in _sources(fields, kustomization):
        if key in data:
            problem = f"{fields['name']}: the key {key!r} appears twice"
            raise KustomizationError(kustomization, problem)
        data[key] = value
    manifest: Manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": fields["name"]}}
    if "namespace" in fields:
        manifest["metadata"]["namespace"] = fields["namespace"]
    for name in ("labels", "annotations"):
        if merged_options.get(name):
            manifest["metadata"][name] = dict(merged_options[name])
    if kind == "Secret":
        manifest["type"] = fields.get("type", "Opaque")
    manifest.update(_encoded(kind, data))
    if merged_options.get("immutable"):
        manifest["immutable"] = True
    return manifest, not merged_options.get("disableNameSuffixHash", False)


def _merged_options(general: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's own options win, but labels and annotations of both stay."""
    merged = {**general, **own}
    for name in ("labels", "annotations"):
        merged[name] = {**general.get(name, {}), **own.get(name, {})}
    return merged


def content_hash(manifest: Mapping[str, Any]) -> str:
    """Return the ten characters kustomize appends to a generated object's name.

    Source:
        kustomize api/hasher: SHA-256 over a canonical JSON of kind, name and data.
    """
    encoded: dict[str, Any] = {
        "kind": manifest["kind"],
        # Kustomize looks for a field literally called "metadata/name", so the name never counts.
        "name": "",
        "data": manifest.get("data", ""),
    }
    if manifest["kind"] == "Secret":
        encoded["type"] = manifest.get("type", "")
    for optional in ("binaryData", "stringData"):
        if optional in manifest:
            encoded[optional] = manifest[optional]
    text = json.dumps(encoded, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # Go's encoder escapes what is unsafe inside HTML, and two line separators.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return hashlib.sha256(text.encode()).hexdigest()[:10].translate(_HASH_ALPHABET)


def _sources(fields: Mapping[str, Any], kustomization: Path) -> Iterator[tuple[str, bytes]]:
    folder = kustomization.parent
    for name in fields.get("envs", ()):
        for line in _read(folder / name, kustomization).decode("utf-8-sig").splitlines():
            stripped = line.lstrip()
            if stripped and not stripped.startswith("#"):
                key, _, value = stripped.partition("=")
                yield key, value.encode()
    for source in fields.get("files", ()):
        key, separator, path = source.partition("=")
        if not separator:
            key, path = Path(source).name, source
        yield key, _read(folder / path, kustomization)
    for literal in fields.get("literals", ()):
        key, separator, value = literal.partition("=")
        if not key or not separator:
            raise KustomizationError(kustomization, f"the literal {literal!r} is not KEY=VALUE")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        yield key, value.encode()


def _read(path: Path, kustomization: Path) -> bytes:
    check_inside(path, kustomization)
    try:
        return path.read_bytes()
    except OSError as exc:
        raise KustomizationError(kustomization, f"cannot read {path}: {exc.strerror}") from exc


def _encoded(kind: str, data: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    if kind == "Secret":
        return {"data": {key: _base64_lines(value) for key, value in data.items()}}
    text, binary = {}, {}
    for key, value in data.items():
        try:
            text[key] = value.decode()
        except UnicodeDecodeError:
            binary[key] = _base64_lines(value)
    return ({"data": text} if text else {}) | ({"binaryData": binary} if binary else {})


def _base64_lines(value: bytes) -> str:
    """Encode as kustomize does, in lines of 70 characters: the hash in the name depends on it."""
    text = base64.b64encode(value).decode()
    if len(text) < BASE64_LINE:
        return text
    lines = (text[start : start + BASE64_LINE] for start in range(0, len(text), BASE64_LINE))
    return "".join(f"{line}\n" for line in lines)

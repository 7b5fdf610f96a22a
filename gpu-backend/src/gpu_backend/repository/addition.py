"""Put a model into a repository: copy its files, write its manifest, change nothing by halves.

A new model appears by one rename, a new version of an old one by another, so that a backend
that polls never sees part of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpu_backend.errors import InvalidInputError, ModelInvalidError
from gpu_backend.execution.providers import choose
from gpu_backend.execution.session import OnnxSession, SessionOptions
from gpu_backend.repository.files import MODEL_FILE, ModelFolder, digest_version, find_models
from gpu_backend.repository.inspection import Findings, inspect
from gpu_backend.repository.loader import check_hints
from gpu_backend.repository.manifest import (
    MANIFEST,
    NAME,
    ImageHints,
    read_manifest,
)

__all__ = ["Added", "ImageOverrides", "add_model"]

# A protobuf entry {key: "location", value: <file>}, as tensors kept outside the model have it.
_EXTERNAL_DATA = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")


@dataclass(frozen=True, slots=True)
class ImageOverrides:
    """What the person who adds the model knows better; None leaves it to the guess."""

    fit: str | None = None
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What was put where.

    Attributes:
        folder: Of the model.
        version: Number it got.
        digest: Of its files.
        notes: What was found and guessed; empty when the model was known already.
    """

    folder: Path
    version: int
    digest: str
    notes: tuple[str, ...]


def add_model(
    source: Path, root: Path, name: str, labels: Sequence[str], overrides: ImageOverrides
) -> Added:
    """Copy `source` into the repository `root` as the next version of `name`.

    Args:
        source: An ONNX file; external data is taken from beside it.
        root: Repository; made when it is not there.
        name: Of the model.
        labels: Of the classes, in the order of the scores; empty keeps numbers.
        overrides: Beat what is guessed.

    Raises:
        InvalidInputError: A name or labels that cannot be.
        ModelInvalidError: The file cannot be served.
    """
    if not NAME.fullmatch(name):
        raise InvalidInputError(
            f"name {name!r}: a letter, then up to 63 letters, digits, '.', '_' or '-'"
        )
    session = OnnxSession(source, choose("cpu", ("CPUExecutionProvider",)), SessionOptions())
    try:
        known = find_models((root,)).get(name)
        root.mkdir(parents=True, exist_ok=True)
        if known is None:
            return _add_new(session, source, root, name, labels, overrides)
        return _add_version(session, source, known)
    finally:
        session.close()


def _add_new(
    session: OnnxSession,
    source: Path,
    root: Path,
    name: str,
    labels: Sequence[str],
    overrides: ImageOverrides,
) -> Added:
    findings = inspect(session, labels)
    if labels and findings.classes and len(labels) != findings.classes:
        raise InvalidInputError(
            f"{len(labels)} labels are given, the model has {findings.classes} classes"
        )
    # A name that starts with a dot is no model's: nobody looks inside before it is renamed.
    with tempfile.TemporaryDirectory(prefix=".adding-", dir=root) as work:
        folder = Path(work) / name
        _copy(source, folder / "1")
        digest = digest_version(ModelFolder(name, folder, (1,)), 1)
        image = _override(findings.image, overrides)
        text = _manifest_text(name, replace(findings, image=image), labels, {"1": digest})
        (folder / MANIFEST).write_text(text, encoding="utf-8")
        check_hints(read_manifest(folder), session)
        folder.rename(root / name)
    return Added(root / name, 1, digest, findings.notes)


def _add_version(session: OnnxSession, source: Path, known: ModelFolder) -> Added:
    """A further version of a model that has a manifest: it must fit that manifest."""
    manifest = read_manifest(known.path)
    check_hints(manifest, session)
    version = max(known.versions, default=0) + 1
    with tempfile.TemporaryDirectory(prefix=".adding-", dir=known.path.parent) as work:
        target = Path(work) / known.name / str(version)
        _copy(source, target)
        staged = ModelFolder(known.name, target.parent, (version,))
        digest = digest_version(staged, version)
        _record_digest(known.path / MANIFEST, version, digest)
        target.rename(known.path / str(version))
    return Added(known.path, version, digest, ())


def _record_digest(path: Path, version: int, digest: str) -> None:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    changed = f'{text.rstrip()}\n\n[version."{version}"]\ndigest = "{digest}"\n'
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(changed.lstrip(), encoding="utf-8")
    os.replace(beside, path)


def _copy(source: Path, target: Path) -> None:
    """`source` and its external data into the folder `target`."""
    target.mkdir(parents=True)
    shutil.copyfile(source, target / MODEL_FILE)
    for location in _external_files(source):
        file = (source.parent / location).resolve()
        if not file.is_relative_to(source.parent.resolve()):
            raise ModelInvalidError(f"external data {location!r} is outside the model's folder")
        destination = target / location
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, destination)


def _external_files(source: Path) -> list[str]:
    content = source.read_bytes()
    found = set()
    for match in _EXTERNAL_DATA.finditer(content):
        length = match[1][0]
        value = content[match.end() : match.end() + length]
        candidate = value.decode("utf-8", "replace")
        if (source.parent / candidate).is_file():
            found.add(candidate)
    return sorted(found)


def _override(image: ImageHints | None, given: ImageOverrides) -> ImageHints | None:
    if image is None:
        return None
    if given.fit is not None:
        image = replace(image, fit=given.fit)
    if given.range is not None:
        image = replace(image, range=given.range, mean=given.mean, std=given.std)
    if given.mean is not None:
        image = replace(image, mean=given.mean)
    return image if given.std is None else replace(image, std=given.std)


def _manifest_text(
    name: str, findings: Findings, labels: Sequence[str], digests: dict[str, str]
) -> str:
    lines = [f"# {note}" for note in findings.notes]
    if labels:
        lines += ["", f"labels = {_toml(list(labels))}"]
    lines += ["", "[model]", f"name = {_toml(name)}"]
    if findings.task is not None:
        lines.append(f"task = {_toml(findings.task)}")
    for version, digest in digests.items():
        lines += ["", f'[version."{version}"]', f"digest = {_toml(digest)}"]
    if findings.image is not None:
        lines += ["", "[image]"]
        for key, value in findings.image.describe().items():
            if value is not None:
                lines.append(f"{key} = {_toml(value)}")
    if findings.output is not None:
        lines += ["", "[output]", f"name = {_toml(findings.output.name)}"]
        lines.append(f"kind = {_toml(findings.output.kind)}")
    return "\n".join(lines).lstrip() + "\n"


def _toml(value: object) -> str:
    """JSON's strings, numbers and lists are TOML's too, but for DEL and lone surrogates."""
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")

"""Model folders on disk: which models and versions there are, and the digest of a version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gpu_backend.errors import ModelInvalidError
from gpu_backend.repository.manifest import MANIFEST, NAME, is_served_elsewhere

__all__ = ["MODEL_FILE", "Fingerprint", "ModelFolder", "digest_version", "find_models"]

Fingerprint = tuple[tuple[str, int, int], ...]
"""Path, size and time of change of every file of a model."""

MODEL_FILE = "model.onnx"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model on disk.

    Attributes:
        name: Of the folder, and so of the model.
        path: The folder.
        versions: Numbers of its version folders that hold a model, ascending.
    """

    name: str
    path: Path
    versions: tuple[int, ...]

    def model_file(self, version: int) -> Path:
        """Where the graph of `version` is."""
        return self.path / str(version) / MODEL_FILE

    def size_bytes(self, version: int) -> int:
        """Bytes of all files of `version`.

        Raises:
            ModelInvalidError: A file cannot be read.
        """
        base = self.path / str(version)
        try:
            return sum(path.stat().st_size for path in base.rglob("*") if path.is_file())
        except OSError as exc:
            raise ModelInvalidError(f"cannot read version {version}: {exc.strerror}") from exc

    def fingerprint(self) -> Fingerprint:
        """Changes whenever a file of the model changes: names, sizes and times, no content."""
        found = []
        for file in sorted(self.path.rglob("*")):
            try:
                status = file.stat()
            except OSError:
                continue  # taken away between listing and looking: the next poll sees it gone
            if file.is_file():
                found.append((str(file.relative_to(self.path)), status.st_size, status.st_mtime_ns))
        return tuple(found)


def find_models(roots: tuple[Path, ...]) -> dict[str, ModelFolder]:
    """Every model in the repositories `roots`, by name.

    A folder is a model when it holds a manifest or a version. A name in two repositories is
    taken from the first.
    """
    found: dict[str, ModelFolder] = {}
    for root in roots:
        for path in _entries(root):
            if not path.is_dir() or not NAME.fullmatch(path.name) or path.name in found:
                continue
            versions = tuple(sorted(_versions(path)))
            has_model = bool(versions) or (path / MANIFEST).is_file()
            if has_model and not is_served_elsewhere(path):
                found[path.name] = ModelFolder(path.name, path, versions)
    return found


def _entries(folder: Path) -> list[Path]:
    """What `folder` holds, by name; nothing when it is not there or may not be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _versions(folder: Path) -> list[int]:
    return [
        int(entry.name)
        for entry in _entries(folder)
        # "01" and "1" would be the same version: only the plain form counts.
        if entry.name.isdecimal()
        and entry.name == str(int(entry.name))
        and (entry / MODEL_FILE).is_file()
    ]


def digest_version(folder: ModelFolder, version: int) -> str:
    """`sha256:<hex>` of what `version` consists of.

    One file: the SHA-256 of it. With external data beside it: the SHA-256 of the lines
    ``<hex>  <name>`` (as `sha256sum` prints them), ordered by name.

    Raises:
        ModelInvalidError: A file cannot be read.
    """
    base = folder.path / str(version)
    files = sorted(path for path in base.rglob("*") if path.is_file())
    try:
        if files == [base / MODEL_FILE]:
            return f"sha256:{_digest_file(files[0])}"
        lines = [f"{_digest_file(path)}  {path.relative_to(base)}\n" for path in files]
    except OSError as exc:
        raise ModelInvalidError(f"cannot read {base}: {exc}") from exc
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

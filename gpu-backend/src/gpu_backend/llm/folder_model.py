"""From a manifest to its engine: the one place that knows every kind of engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gpu_backend.errors import ModelInvalidError
from gpu_backend.llm.embedded import EmbeddedEngine
from gpu_backend.llm.engine import Capabilities, Engine, ModelCard
from gpu_backend.llm.genai import GUIDANCE
from gpu_backend.llm.genai_folder import GenAIFolder, read_genai_folder
from gpu_backend.llm.manifest import GENAI, OLLAMA, LanguageManifest, genai_version
from gpu_backend.llm.ollama import OllamaEngine
from gpu_backend.llm.openai_compatible import OpenAICompatibleEngine

__all__ = ["make_engine"]

_DIGEST_UP_TO_BYTES = 256 << 20
"""Larger folders have a digest only where their manifest gives one: start-up must stay fast."""


def make_engine(manifest: LanguageManifest, threads: int) -> Engine:
    """The engine that `manifest` asks for; nothing is loaded and nobody is called yet.

    Args:
        manifest: Of the model.
        threads: Inside one operator, where the manifest says nothing.

    Raises:
        ModelInvalidError: The folder cannot be used.
    """
    if manifest.platform == GENAI:
        return _make_embedded(manifest, threads)
    assert manifest.upstream is not None  # the manifest's reader made sure
    alias = manifest.name if manifest.upstream.model is not None else None
    if manifest.platform == OLLAMA:
        return OllamaEngine(manifest.upstream, alias)
    return OpenAICompatibleEngine(manifest.upstream, alias)


def _make_embedded(manifest: LanguageManifest, threads: int) -> EmbeddedEngine:
    found = genai_version(manifest.path)
    assert found is not None  # the manifest's reader made sure
    version, path = found
    folder = read_genai_folder(path)
    given = manifest.digests.get(version, "")
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    digest = given or (_digest(path) if size <= _DIGEST_UP_TO_BYTES else "")

    def verify() -> None:
        actual = _digest(path)
        if actual != given:
            raise ModelInvalidError(
                f"version {version} of {manifest.name!r} has digest {actual}, its manifest "
                f"expects {given}: the files are damaged or not the ones meant"
            )

    return EmbeddedEngine(
        _card(manifest, version, folder, digest, size),
        folder,
        manifest.limits,
        threads=threads,
        verify=verify if given else lambda: None,
    )


def _digest(path: Path) -> str:
    """Of every file in the folder, in the form of the repository's digests.

    Raises:
        ModelInvalidError: A file cannot be read.
    """
    try:
        lines = [
            f"{_digest_file(file)}  {file.relative_to(path)}\n"
            for file in sorted(file for file in path.rglob("*") if file.is_file())
        ]
    except OSError as exc:
        raise ModelInvalidError(f"cannot read {path}: {exc}") from exc
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _digest_file(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _card(
    manifest: LanguageManifest, version: str, folder: GenAIFolder, digest: str, size_bytes: int
) -> ModelCard:
    return ModelCard(
        manifest.name,
        "onnxruntime-genai",
        version=version,
        digest=digest,
        size_bytes=size_bytes,
        modified_s=folder.graph.stat().st_mtime,
        context_length=manifest.limits.context_length or folder.context_length,
        family=folder.family,
        template=folder.chat_template,
        capabilities=Capabilities(
            chat=bool(folder.chat_template),
            logprobs=not folder.paged,  # GenAI's engine tells no probabilities
            formats=frozenset(GUIDANCE),
        ),
    )

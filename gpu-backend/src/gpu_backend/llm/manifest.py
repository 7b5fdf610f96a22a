"""What `model.toml` says about a language model.

    phi/                          one folder per model
      model.toml                  this manifest; a GenAI folder needs none
      1/genai_config.json …       numbered versions, the highest serves
    llama/
      genai_config.json …         or the GenAI folder itself, put there as it is
    cluster-ollama/
      model.toml                  platform "ollama" or "openai": models of another server

    [model]
    platform = "onnxruntime_genai"     or "ollama", or "openai"

    [generation]                       bounds; each has a default
    [upstream]                         where the other server is

Reading is strict: an unknown key or a wrong type refuses the model and names the key.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gpu_backend.errors import ModelInvalidError
from gpu_backend.llm.genai_folder import CONFIG
from gpu_backend.repository.manifest import MANIFEST, NAME
from gpu_backend.repository.toml_fields import Table, number, one_of, text

__all__ = [
    "PLATFORMS",
    "GenerationLimits",
    "LanguageManifest",
    "Upstream",
    "genai_version",
    "is_language_model",
    "read_language_manifest",
]

GENAI, OLLAMA, OPENAI = "onnxruntime_genai", "ollama", "openai"

PLATFORMS = (GENAI, OLLAMA, OPENAI)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """Bounds of one model.

    Attributes:
        engine: ``auto``, ``batched``, ``genai`` or ``paged``; only for the embedded runtime.
        max_streams: Texts generated at a time.
        max_queue: Requests that may wait for one of them.
        max_wait_s: Longest time a request waits for its first token.
        max_duration_s: Longest time a generation may take.
        max_output_tokens: Of one text; also where a request does not say.
        context_length: Shorter than the model's own; 0 takes that.
        cache_mb: For keys and values of all texts.
        prefill_tokens: Read of a prompt per step.
        intra_op_threads: Inside one operator; 0 takes the backend's setting.
        idle_unload_s: Without a request for so long, the model leaves memory; 0 keeps it.
    """

    engine: str = "auto"
    max_streams: int = 8
    max_queue: int = 64
    max_wait_s: float = 60.0
    max_duration_s: float = 600.0
    max_output_tokens: int = 4096
    context_length: int = 0
    cache_mb: int = 1024
    prefill_tokens: int = 256
    intra_op_threads: int = 0
    idle_unload_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """Another server.

    Attributes:
        url: Its base, as ``http://ollama:11434`` or ``http://vllm:8000/v1``.
        model: Name of the one model there that this manifest stands for; None serves them all
            under their own names.
        api_key_file: File that holds its key; read at every request, so it may be renewed.
        connect_timeout_s: Until the connection stands.
        read_timeout_s: Between two pieces of an answer; loading a large model counts as one.
    """

    url: str
    model: str | None = None
    api_key_file: Path | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class LanguageManifest:
    """Everything said about one language model.

    Attributes:
        name: Of the folder.
        path: The folder.
        platform: One of `PLATFORMS`.
        digests: Expected ``sha256:<hex>`` of a version's files, by version.
        limits: Bounds.
        upstream: For ``ollama`` and ``openai``.
    """

    name: str
    path: Path
    platform: str = GENAI
    digests: dict[str, str] = field(default_factory=dict)
    limits: GenerationLimits = field(default_factory=GenerationLimits)
    upstream: Upstream | None = None


def is_language_model(path: Path) -> bool:
    """The folder is served by a language-model engine, not by tensors."""
    if genai_version(path) is not None:
        return True
    try:
        document = tomllib.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    model = document.get("model")
    return isinstance(model, dict) and model.get("platform") in PLATFORMS


def genai_version(path: Path) -> tuple[str, Path] | None:
    """Number and folder of the version that serves; None without a GenAI folder."""
    if (path / CONFIG).is_file():
        return "1", path
    numbers = [
        int(entry.name)
        for entry in path.iterdir()
        if entry.name.isdecimal() and (entry / CONFIG).is_file()
    ]
    return (str(max(numbers)), path / str(max(numbers))) if numbers else None


def read_language_manifest(path: Path) -> LanguageManifest:
    """The manifest of the language model in `path`; defaults when it has none.

    Raises:
        ModelInvalidError: The file cannot be read or has faults; the text lists them all.
    """
    file = path / MANIFEST
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        document = {}
    except (OSError, ValueError) as exc:
        raise ModelInvalidError(f"{file}: {exc}") from exc
    faults: list[str] = []
    manifest = _manifest(Table(document, "", faults), path)
    if not NAME.fullmatch(manifest.name):
        faults.append(f"model.name: {manifest.name!r} is no name of a model")
    elif manifest.name != path.name:
        faults.append(f"model.name: is {manifest.name!r}, but its folder is {path.name!r}")
    if manifest.platform == GENAI:
        if manifest.upstream is not None:
            faults.append(f"upstream: is for platforms {OLLAMA!r} and {OPENAI!r}")
        if genai_version(path) is None:
            faults.append(f"no {CONFIG} in the folder, nor in a numbered one below it")
    elif manifest.upstream is None:
        faults.append(f"upstream: is required for platform {manifest.platform!r}")
    if faults:
        raise ModelInvalidError("\n".join(f"{file}: {fault}" for fault in faults))
    return manifest


def _manifest(top: Table, path: Path) -> LanguageManifest:
    name, platform = path.name, GENAI
    model = top.table("model")
    if model is not None:
        name = model.take("name", text, name)
        platform = model.take("platform", one_of(*PLATFORMS), platform)
        model.take("task", one_of("text-generation"), None)
        model.close()
    manifest = LanguageManifest(
        name=name,
        path=path,
        platform=platform,
        digests=_digests(top.table("version")),
        limits=_limits(top.table("generation")),
        upstream=_upstream(top.table("upstream"), path),
    )
    top.close()
    return manifest


def _digests(table: Table | None) -> dict[str, str]:
    digests: dict[str, str] = {}
    if table is None:
        return digests
    for version in table.keys():  # noqa: SIM118  # a Table is no mapping
        entry = table.table(version)
        if entry is not None:
            digests[version] = entry.take("digest", _digest, "")
            entry.close()
    return {version: digest for version, digest in digests.items() if digest}


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("expected sha256: and 64 hexadecimal digits")
    return value


def _limits(table: Table | None) -> GenerationLimits:
    plain = GenerationLimits()
    if table is None:
        return plain
    seconds = number(0.1, 86_400, whole=False)
    limits = GenerationLimits(
        engine=table.take("engine", one_of("auto", "batched", "genai", "paged"), plain.engine),
        max_streams=table.take("max_streams", number(1, 1024), plain.max_streams),
        max_queue=table.take("max_queue", number(0, 100_000), plain.max_queue),
        max_wait_s=table.take("max_wait_s", seconds, plain.max_wait_s),
        max_duration_s=table.take("max_duration_s", seconds, plain.max_duration_s),
        max_output_tokens=table.take(
            "max_output_tokens", number(1, 1 << 24), plain.max_output_tokens
        ),
        context_length=table.take("context_length", number(8, 1 << 24), plain.context_length),
        cache_mb=table.take("cache_mb", number(1, 1 << 20), plain.cache_mb),
        prefill_tokens=table.take("prefill_tokens", number(1, 1 << 16), plain.prefill_tokens),
        intra_op_threads=table.take("intra_op_threads", number(0, 1024), plain.intra_op_threads),
        idle_unload_s=table.take(
            "idle_unload_s", number(0, 86_400, whole=False), plain.idle_unload_s
        ),
    )
    table.close()
    return limits


def _upstream(table: Table | None, path: Path) -> Upstream | None:
    if table is None:
        return None
    url = table.take("url", _url, "")
    if not url:
        table.fault("url", "is required")
    key_file = table.take("api_key_file", text, "")
    seconds = number(0.01, 3600, whole=False)
    upstream = Upstream(
        url=url,
        model=table.take("model", text, "") or None,
        api_key_file=path / key_file if key_file else None,
        connect_timeout_s=table.take("connect_timeout_s", seconds, 5.0),
        read_timeout_s=table.take("read_timeout_s", seconds, 120.0),
    )
    table.close()
    return upstream


def _url(value: object) -> str:
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://host:port or https://host")
    if parts.query or parts.fragment or parts.username:
        raise ValueError("expected a URL without user, query or fragment")
    return str(value).rstrip("/")

"""A GenAI model folder as its builder or its user left it: what `genai_config.json` says.

The folder is served unchanged. Only what the engines need is read; GenAI itself checks the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_backend.errors import ModelInvalidError

__all__ = ["CONFIG", "GenAIFolder", "read_genai_folder"]

CONFIG = "genai_config.json"


@dataclass(frozen=True, slots=True)
class GenAIFolder:
    """What a folder holds.

    Attributes:
        path: The folder.
        family: Type of the architecture, as ``llama``.
        context_length: Tokens of prompt and text together.
        vocab_size: Width of the logits.
        eos_tokens: Each ends a text.
        layers: Of the decoder.
        kv_heads: Key and value heads per layer.
        head_size: Of each head.
        hidden_size: Of the embeddings.
        decoder: The `decoder` table as it is: file names, names of inputs and outputs.
        search: Defaults for sampling.
        chat_template: Jinja; empty when the folder has none.
        provider: That it was built for, as GenAI calls it; ``cpu`` where it names none.
        paged: Built for the paged attention of GenAI's engine.
        block_size: Tokens of one block of the paged cache; 0 where the folder does not say.
        blocks: Of the paged cache; 0 where GenAI takes what memory allows.
    """

    path: Path
    family: str
    context_length: int
    vocab_size: int
    eos_tokens: frozenset[int]
    layers: int
    kv_heads: int
    head_size: int
    hidden_size: int
    decoder: Mapping[str, Any]
    search: Mapping[str, Any]
    chat_template: str
    provider: str = "cpu"
    paged: bool = False
    block_size: int = 0
    blocks: int = 0

    @property
    def graph(self) -> Path:
        """File of the decoder's graph."""
        return self.path / str(self.decoder["filename"])

    @property
    def does_sample(self) -> bool:
        """The folder asks for sampling where a request says nothing."""
        return bool(self.search.get("do_sample", False))


def read_genai_folder(path: Path) -> GenAIFolder:
    """What the folder `path` holds.

    Raises:
        ModelInvalidError: `genai_config.json` is missing or damaged.
    """
    file = path / CONFIG
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        model = document["model"]
        decoder = model["decoder"]
        eos = model["eos_token_id"]
        paging = document.get("engine", {}).get("dynamic_batching")
        return GenAIFolder(
            path=path,
            family=str(model["type"]),
            context_length=int(model["context_length"]),
            vocab_size=int(model["vocab_size"]),
            eos_tokens=frozenset(eos if isinstance(eos, list) else [eos]),
            layers=int(decoder["num_hidden_layers"]),
            kv_heads=int(decoder["num_key_value_heads"]),
            head_size=int(decoder["head_size"]),
            hidden_size=int(decoder["hidden_size"]),
            decoder=decoder,
            search=document.get("search", {}),
            chat_template=_chat_template(path),
            provider=_provider(decoder),
            paged=paging is not None or "block_table" in decoder.get("inputs", {}),
            block_size=int((paging or {}).get("block_size") or 0),
            blocks=int((paging or {}).get("num_blocks") or 0),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelInvalidError(f"{file} cannot be used: {exc!r}") from exc


def _provider(decoder: Mapping[str, Any]) -> str:
    """The first of the folder's provider options: GenAI falls back on none of the others."""
    options = decoder.get("session_options", {}).get("provider_options") or []
    return str(next(iter(options[0]), "cpu")).lower() if options else "cpu"


def _chat_template(path: Path) -> str:
    """From `chat_template.jinja`, or from the tokenizer's configuration."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = path / "tokenizer_config.json"
    if not config.is_file():
        return ""
    template = json.loads(config.read_text(encoding="utf-8")).get("chat_template", "")
    if isinstance(template, list):  # several, by name
        named = {entry["name"]: entry["template"] for entry in template}
        return str(named.get("default", ""))
    return str(template or "")

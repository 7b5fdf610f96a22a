"""The bytes behind each token, and text out of them that never ends inside a character.

A token of a byte-level vocabulary may be a third of a character. GenAI's own stream decoder holds
such tokens back too, but drops what follows an invalid sequence, and tells nothing about bytes.

Two kinds of `tokenizer.json` are read: byte-level BPE (GPT-2's table of printable stand-ins for
bytes; Llama 3, Qwen, Phi-2, Phi-4) and SentencePiece-like BPE with ``▁`` and ``<0x0A>`` tokens
(Llama 2, Phi-3, Mistral, Gemma).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpu_backend.errors import ModelInvalidError

__all__ = ["TextDecoder", "TokenBytes", "read_token_bytes"]

_SPACE = "▁"  # LOWER ONE EIGHTH BLOCK, SentencePiece's space

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """What each token of a vocabulary stands for.

    Args:
        table: Bytes by token id; special tokens are empty.
        strips_start: The first space of a text belongs to the tokenizer, not to the text.
    """

    def __init__(self, table: Sequence[bytes], strips_start: bool) -> None:
        self._table = table
        self.strips_start = strips_start

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, token: int) -> bytes:
        """Bytes of `token`; none for an id beyond the vocabulary, which padded models can draw."""
        return self._table[token] if 0 <= token < len(self._table) else b""

    def text(self, token: int) -> str:
        """The token by itself; parts of characters become U+FFFD."""
        return self[token].decode("utf-8", "replace")


class TextDecoder:
    """Text out of one stream of tokens."""

    def __init__(self, tokens: TokenBytes) -> None:
        self._tokens = tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokens.strips_start

    def push(self, token: int) -> str:
        """Text that `token` completes; empty while a character is open."""
        raw = self._tokens[token]
        if self._at_start and raw:
            self._at_start = False
            raw = raw.removeprefix(b" ")
        return self._utf8.decode(raw)

    def flush(self) -> str:
        """U+FFFD when the stream ends inside a character."""
        return self._utf8.decode(b"", final=True)


def read_token_bytes(folder: Path) -> TokenBytes:
    """The table for the tokenizer in `folder`.

    Raises:
        ModelInvalidError: There is no `tokenizer.json`, or it is of another kind.
    """
    path = folder / "tokenizer.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = _vocabulary(document["model"]["vocab"])
        added = document.get("added_tokens") or []
        steps = list(_steps(document.get("decoder")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelInvalidError(f"cannot read {path}: {exc!r}") from exc
    table = [b""] * (max((*vocabulary.values(), *(entry["id"] for entry in added))) + 1)
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        stand_ins = _byte_level_alphabet()
        for token, number in vocabulary.items():
            table[number] = _from_stand_ins(token, stand_ins)
    elif kinds & {"ByteFallback", "Metaspace", "Replace"}:
        for token, number in vocabulary.items():
            table[number] = _from_sentencepiece(token)
    else:
        raise ModelInvalidError(f"{path}: a decoder of {sorted(kinds)} is not supported")
    for entry in added:
        table[entry["id"]] = b"" if entry.get("special") else entry["content"].encode()
    return TokenBytes(table, bool(kinds & {"Strip", "Metaspace"}))


def _vocabulary(vocab: Any) -> dict[str, int]:
    """By token; Unigram models write a list of [token, score]."""
    if isinstance(vocab, dict):
        return vocab
    return {entry[0]: number for number, entry in enumerate(vocab)}


def _steps(decoder: Any) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for U+0100 and on."""
    printable = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


def _from_stand_ins(token: str, stand_ins: dict[str, int]) -> bytes:
    try:
        return bytes(stand_ins[character] for character in token)
    except KeyError:
        return token.encode()  # added to the vocabulary as it is


def _from_sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    if byte is not None:
        return bytes([int(byte[1], 16)])
    return token.replace(_SPACE, " ").encode()

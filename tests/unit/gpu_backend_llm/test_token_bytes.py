"""Bytes of tokens: whole characters come out, whatever the tokens cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.llm_folders import FAMILIES, FAMILY_ROOT
from gpu_backend.errors import ModelInvalidError
from gpu_backend.llm.genai_folder import read_genai_folder
from gpu_backend.llm.token_bytes import TextDecoder, TokenBytes, read_token_bytes
from gpu_backend.llm.tokenizer import FolderTokenizer

TEXTS = ("plain words", "Zwölf Boxkämpfer", "いろはにほへと", "🦊🦊", "tab\tnew\nline", "a  b")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_of_every_family_survives_encoding_and_decoding(family: str, text: str) -> None:
    tokenizer = FolderTokenizer(read_genai_folder(FAMILY_ROOT / family))
    decoder = tokenizer.decoder()
    pieces = [decoder.push(int(token)) for token in tokenizer.encode(text)]
    assert "".join(pieces) + decoder.flush() == text
    assert "\ufffd" not in "".join(pieces)


def test_character_in_three_tokens_comes_with_the_last() -> None:
    tokens = TokenBytes([b"\xe6", b"\x97", b"\xa5", b"!"], strips_start=False)
    decoder = TextDecoder(tokens)
    assert [decoder.push(token) for token in (0, 1, 2, 3)] == ["", "", "日", "!"]


def test_broken_character_is_replaced_and_costs_nothing_else() -> None:
    tokens = TokenBytes([b"\xe6", b"abc"], strips_start=False)
    decoder = TextDecoder(tokens)
    assert decoder.push(0) + decoder.push(1) == "\ufffdabc"


def test_character_open_at_the_end_is_replaced() -> None:
    decoder = TextDecoder(TokenBytes([b"a\xe6"], strips_start=False))
    assert (decoder.push(0), decoder.flush()) == ("a", "\ufffd")


def test_first_space_of_sentencepiece_belongs_to_the_tokenizer() -> None:
    decoder = TextDecoder(TokenBytes([b" one", b" two"], strips_start=True))
    assert decoder.push(0) + decoder.push(1) == "one two"


def test_token_beyond_the_vocabulary_has_no_bytes() -> None:
    assert TokenBytes([b"a"], strips_start=False)[7] == b""


def test_special_tokens_have_no_text() -> None:
    table = read_token_bytes(FAMILY_ROOT / "llama")
    document = json.loads((FAMILY_ROOT / "llama" / "tokenizer.json").read_text())
    special = [entry["id"] for entry in document["added_tokens"] if entry["special"]]
    assert special
    assert all(table[token] == b"" for token in special)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "not json",
        '{"model": {"vocab": {"a": 0}}, "decoder": {"type": "WordPiece"}}',
        '{"model": {"vocab": {"a": 0}}, "decoder": null}',
    ],
)
def test_tokenizer_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelInvalidError):
        read_token_bytes(tmp_path)


def test_unigram_vocabulary_is_a_list(tmp_path: Path) -> None:
    document = {
        "model": {"vocab": [["<unk>", 0.0], ["▁hi", -1.0], ["<0xC3>", -2.0]]},
        "decoder": {"type": "Metaspace"},
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    table = read_token_bytes(tmp_path)
    assert [table[0], table[1], table[2]] == [b"", b" hi", b"\xc3"]

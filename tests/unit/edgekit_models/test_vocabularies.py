"""`edgekit.models.vocabularies`: files beside the module, by their digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgekit.models.vocabularies import read_vocabularies

PIECES = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\n"


def test_vocabularies_are_found_by_the_digest_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(PIECES)
    ((digest, vocabulary),) = read_vocabularies(tmp_path).items()
    assert digest == f"sha256:{hashlib.sha256(PIECES).hexdigest()}"
    assert vocabulary.starts["cat"] == 5


def test_vocabularies_without_a_folder_are_none(tmp_path: Path) -> None:
    assert read_vocabularies(tmp_path / "absent") == {}


def test_vocabularies_file_of_something_else_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"cat\n")
    with pytest.raises(ValueError, match=r"lacks \[PAD\]"):
        read_vocabularies(tmp_path)

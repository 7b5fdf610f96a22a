"""BERT's WordPiece tokenizer (uncased), with the ids that the `tokenizers` library gives.

    text → special tokens out → clean → decompose, drop accents, lower case → words
         → longest known pieces from the left, "##" marking all but a word's first

A `Vocabulary` is built once, at module level of the component: the build's snapshot keeps it, so a
request pays nothing for its 30,000 entries.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edgekit.processing import bert_characters as characters

__all__ = ["Vocabulary", "encode", "pad"]

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CONTINUATION = "##"
_MAX_WORD_CHARACTERS = 100
"""A longer word is unknown as a whole, as in BERT."""

_SPECIAL = re.compile("(" + "|".join(map(re.escape, _SPECIAL_TOKENS)) + ")")
# JSON may hold lone surrogates, which are no characters and which no tokenizer sees.
_REMOVED = re.compile(rf"[{characters.REMOVED}\ud800-\udfff]+")
_MARKS = re.compile(f"[{characters.MARKS}]+")
_WORD = re.compile(
    rf"[{characters.PUNCTUATION}{characters.CJK}]"
    rf"|[^{characters.PUNCTUATION}{characters.CJK}{characters.SPACES}]+"
)
_ASCII_WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Pieces and their ids.

    Attributes:
        starts: Ids of the pieces that begin a word.
        continuations: Ids of the pieces that continue one, without their "##".
        longest: Characters of the longest piece.
        size: Number of pieces.
    """

    starts: dict[str, int]
    continuations: dict[str, int]
    longest: int
    size: int

    @classmethod
    def from_pieces(cls, pieces: Iterable[str]) -> Vocabulary:
        """The vocabulary whose ids are the positions in `pieces`, as in BERT's vocab.txt.

        Raises:
            ValueError: A special token is missing, or a piece occurs twice.
        """
        starts: dict[str, int] = {}
        continuations: dict[str, int] = {}
        for index, piece in enumerate(pieces):
            is_start = not piece.startswith(_CONTINUATION)
            table, key = (starts, piece) if is_start else (continuations, piece[2:])
            if table.setdefault(key, index) != index:
                raise ValueError(f"piece {piece!r} occurs twice, as {table[key]} and {index}")
        if missing := [token for token in _SPECIAL_TOKENS if token not in starts]:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}")
        longest = max(len(piece) for table in (starts, continuations) for piece in table)
        return cls(starts, continuations, longest, len(starts) + len(continuations))


def encode(text: str, vocabulary: Vocabulary, *, max_tokens: int) -> list[int]:
    """Ids of `text` between [CLS] and [SEP], cut to `max_tokens` (at least 2) in all.

    Special tokens that stand in the text, such as "[MASK]", become themselves. Work stops with
    the last token that fits, however long the text is.
    """
    ids = [vocabulary.starts["[CLS]"]]
    room = max_tokens - 1
    for piece in _pieces(text, vocabulary):
        ids += piece
        if len(ids) >= room:
            break
    return [*ids[:room], vocabulary.starts["[SEP]"]]


def pad(
    batch: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> tuple[list[list[int]], list[list[int]]]:
    """`batch` with all rows as long as the longest, and its mask: 1 for a token, 0 for padding."""
    width = max(map(len, batch), default=0)
    filler = vocabulary.starts["[PAD]"]
    ids = [[*row, *[filler] * (width - len(row))] for row in batch]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in batch]
    return ids, mask


def _pieces(text: str, vocabulary: Vocabulary) -> Iterator[Sequence[int]]:
    """Ids of one word or special token after the other."""
    known = vocabulary.starts
    for part in _SPECIAL.split(text):
        if part in _SPECIAL_TOKENS:
            yield (known[part],)
            continue
        for word in _words(part):
            found = known.get(word)
            # A special token's own characters never come as one word, so a hit is a plain piece.
            yield (found,) if found is not None else _split(word, vocabulary)


def _words(text: str) -> Iterator[str]:
    """Words and punctuation marks of `text`, cleaned, without accents, in lower case."""
    text = _REMOVED.sub("", text)
    if text.isascii():
        return map(re.Match.group, _ASCII_WORD.finditer(text.lower()))
    text = _MARKS.sub("", unicodedata.normalize("NFD", text))
    # Python lowers a capital sigma by its neighbours, the library one character at a time.
    return map(re.Match.group, _WORD.finditer(text.replace("Σ", "σ").lower()))


def _split(word: str, vocabulary: Vocabulary) -> Sequence[int]:
    """Longest pieces from the left; [UNK] for the whole word where none fits."""
    unknown = (vocabulary.starts["[UNK]"],)
    length = len(word)
    if length > _MAX_WORD_CHARACTERS:
        return unknown
    ids: list[int] = []
    start = 0
    pieces = vocabulary.starts
    while start < length:
        for end in range(min(length, start + vocabulary.longest), start, -1):
            found = pieces.get(word[start:end])
            if found is not None:
                break
        else:
            return unknown
        ids.append(found)
        start = end
        pieces = vocabulary.continuations
    return ids

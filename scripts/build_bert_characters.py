"""Write `edgekit/processing/bert_characters.py`: how BERT's tokenizer sees each character.

    .venv/bin/python scripts/build_bert_characters.py

The classes are asked of the `tokenizers` library, character by character, because its Unicode
tables are older than those of any Python we run on (and of each other): taking `unicodedata`'s
categories would give other tokens for some thousand characters.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import tokenizers
from tokenizers import normalizers, pre_tokenizers

TARGET = Path(__file__).resolve().parent.parent / "components/edgekit/processing/bert_characters.py"

HEADER = '''\
"""Character classes of BERT's tokenizer as pieces of regular expressions.

Written by scripts/build_bert_characters.py from tokenizers {version}; do not edit.
"""

from __future__ import annotations

__all__ = ["CJK", "MARKS", "PUNCTUATION", "REMOVED", "SPACES"]

'''


def all_characters() -> Iterable[str]:
    """Every Unicode scalar value."""
    return map(chr, chain(range(0xD800), range(0xE000, 0x110000)))


def ranges(belongs: Callable[[str], bool]) -> list[tuple[int, int]]:
    """First and last code point of each run of characters for which `belongs` holds."""
    found: list[tuple[int, int]] = []
    for code in (ord(character) for character in all_characters() if belongs(character)):
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


def escape(code: int) -> str:
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def render(name: str, doc: str, spans: list[tuple[int, int]]) -> str:
    text = " ".join(
        escape(first) if first == last else f"{escape(first)}-{escape(last)}"
        for first, last in spans
    )
    lines = "\n".join(f'    r"{line.replace(" ", "")}"' for line in textwrap.wrap(text, 90))
    return f'{name} = (\n{lines}\n)\n"""{doc}"""\n'


def main() -> None:
    normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=False
    )
    cleaner = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    splitter = pre_tokenizers.BertPreTokenizer()

    def cleaned(character: str) -> str:
        return cleaner.normalize_str(f"a{character}b")[1:-1]

    def is_mark(character: str) -> bool:
        return cleaned(character) != "" and normalizer.normalize_str(f"a{character}b") == "ab"

    def is_punctuation(character: str) -> bool:
        return len(splitter.pre_tokenize_str(f"a{character}b")) == 3

    classes = [
        ("REMOVED", "Control and format characters, NUL, U+FFFD.", lambda c: cleaned(c) == ""),
        ("SPACES", "What separates words.", lambda c: cleaned(c) == " "),
        ("CJK", "Ideographs, each a word of its own.", lambda c: cleaned(c) == f" {c} "),
        ("MARKS", "Combining marks, dropped after decomposition.", is_mark),
        ("PUNCTUATION", "Punctuation and ASCII symbols, each a word.", is_punctuation),
    ]
    parts = [render(name, doc, ranges(belongs)) for name, doc, belongs in classes]
    TARGET.write_text(HEADER.format(version=tokenizers.__version__) + "\n".join(parts))
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()

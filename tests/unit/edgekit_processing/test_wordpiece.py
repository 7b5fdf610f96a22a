"""The tokenizer gives the ids of the `tokenizers` library for any text."""

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgekit.processing import bert_characters
from edgekit.processing.wordpiece import Vocabulary, encode, pad

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789αβγσςожя한ᄒ漢字仮名ßıſ"
PIECES = [
    *SPECIAL,
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡«»…—。、€😀ᄀ",
    *(chr(code) for code in (0x1161, 0x11A8, 0x0E01, 0x05D0)),
    "the", "token", "##ization", "##ing", "un", "##able", "##able##", "embed", "##ding", "##s",
    "naive", "cafe", "##stanbul", "mask", "sep",
]  # fmt: skip
VOCABULARY_FILE = (
    Path(__file__).resolve().parents[3] / ".models" / "minilm-l6-v2" / "vocabulary.txt"
)


def reference(pieces: list[str]) -> Tokenizer:
    """The library's tokenizer, put together as MiniLM's tokenizer.json says."""
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


Pair = tuple[Tokenizer, Vocabulary]


def pair(pieces: list[str]) -> Pair:
    return reference(pieces), Vocabulary.from_pieces(pieces)


SMALL = pair(list(dict.fromkeys(PIECES)))


def disagreements(texts: list[str], tokenizers: Pair) -> Iterator[str]:
    library, vocabulary = tokenizers
    for text, expected in zip(texts, library.encode_batch(texts), strict=True):
        if encode(text, vocabulary, max_tokens=10_000) != expected.ids:
            yield text


def characters(*ranges: tuple[int, int]) -> st.SearchStrategy[str]:
    return st.one_of(
        *(st.characters(min_codepoint=low, max_codepoint=high) for low, high in ranges)
    )


CORPUS = st.lists(
    st.one_of(
        st.sampled_from([*PIECES, "[MASK]", "[sep]", " ", "\t\r\n", "ΣΑΣ", "İstanbul", "ﬁ", "Ǆ"]),
        st.sampled_from(["e\u0301", "\u0301", "a\u200db", "\ufffd", "\x00", "가각", "x" * 101]),
        characters((0x20, 0x7E)),
        characters((0x00, 0x9F), (0xA0, 0x5FF), (0x1E00, 0x1FFF)),
        characters((0x2000, 0x206F), (0x3000, 0x30FF), (0x3400, 0x9FFF), (0xAC00, 0xD7A3)),
        characters((0xF900, 0xFFEF), (0x1F300, 0x1FAFF), (0x20000, 0x2FA1F), (0xE0000, 0xE007F)),
    ),
    max_size=30,
).map("".join)


@settings(max_examples=500)
@given(CORPUS)
@example("Ünïcödé naïve café ἄλφα ЖОЯ")
@example("tokenization's un-embedding [MASK]s, e.g. [CLS]x[SEP]")
@example("漢字かな交じり文 한국어 \U0002b820\U0002b920")
@example("👩‍👩‍👧‍👦 \u202eabc\u202c \x1b[31mred\x07")
def test_encode_fuzzed_text_gives_the_librarys_ids(text: str) -> None:
    assert list(disagreements([text], SMALL)) == []


@pytest.mark.parametrize("form", ["a{}b", "{}"])
def test_encode_every_character_is_classed_as_in_the_library(form: str) -> None:
    texts = [
        "\n".join(form.format(chr(code)) for code in range(start, start + 256))
        for start in chain(range(0, 0xD800, 256), range(0xE000, 0x110000, 256))
    ]
    assert list(disagreements(texts, SMALL)) == []


@pytest.mark.skipif(
    not VOCABULARY_FILE.exists(), reason="MiniLM is not built; `make models` builds it"
)
@settings(max_examples=300)
@given(CORPUS | st.text(max_size=200))
def test_encode_with_minilms_vocabulary_gives_the_librarys_ids(text: str) -> None:
    assert list(disagreements([text], full_vocabulary())) == []


def full_vocabulary(cache: list[Pair] = []) -> Pair:  # noqa: B006  # one per process
    if not cache:
        cache.append(pair(VOCABULARY_FILE.read_text(encoding="utf-8").splitlines()))
    return cache[0]


def test_encode_lone_surrogates_are_dropped() -> None:
    _, vocabulary = SMALL
    assert encode("to\ud800ken", vocabulary, max_tokens=9) == encode(
        "token", vocabulary, max_tokens=9
    )


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("The tokenization", ["the", "token", "##ization"]),
        ("CAFÉ", ["cafe"]),
        ("a[MASK]b", ["a", "[MASK]", "b"]),
        ("the" * 34, ["[UNK]"]),
        ("qω", ["[UNK]"]),
        ("ΣΣ", ["σ", "##σ"]),
    ],
)
def test_encode_known_texts_give_known_pieces(text: str, pieces: list[str]) -> None:
    library, vocabulary = SMALL
    ids = [library.token_to_id(piece) for piece in ["[CLS]", *pieces, "[SEP]"]]
    assert encode(text, vocabulary, max_tokens=50) == ids


@pytest.mark.parametrize("max_tokens", range(2, 12))
def test_encode_long_text_is_cut_as_the_library_cuts_it(max_tokens: int) -> None:
    library, vocabulary = pair(list(dict.fromkeys(PIECES)))
    library.enable_truncation(max_tokens)
    text = "the tokenization, embedding the"
    assert encode(text, vocabulary, max_tokens=max_tokens) == library.encode(text).ids


def test_encode_stops_at_the_last_token_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(word: str, vocabulary: Vocabulary) -> list[int]:
        calls.append(word)
        return [0]

    monkeypatch.setattr("edgekit.processing.wordpiece._split", counted)
    encode("zz " * 100_000, SMALL[1], max_tokens=16)
    assert len(calls) == 14


def test_pad_rows_reach_the_longest_and_the_mask_tells_tokens() -> None:
    filler = SMALL[1].starts["[PAD]"]
    ids, mask = pad([[5, 6, 7], [8], []], SMALL[1])
    assert ids == [[5, 6, 7], [8, filler, filler], [filler] * 3]
    assert mask == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert pad([], SMALL[1]) == ([], [])


def test_from_pieces_counts_and_measures() -> None:
    vocabulary = Vocabulary.from_pieces([*SPECIAL, "ab", "##abcdefg"])
    assert (vocabulary.size, vocabulary.longest) == (7, 7)
    assert vocabulary.starts["ab"] == 5
    assert vocabulary.continuations == {"abcdefg": 6}


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([*SPECIAL, "a", "a"], "'a' occurs twice, as 5 and 6"),
        ([*SPECIAL, "##a", "##a"], "'##a' occurs twice, as 5 and 6"),
        (SPECIAL[1:4], r"lacks \[PAD\], \[MASK\]"),
    ],
)
def test_from_pieces_broken_vocabulary_raises(pieces: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Vocabulary.from_pieces(pieces)


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("SPACES", str.isspace),
        ("CJK", lambda character: ord(character) >= 0x3400),
        ("MARKS", lambda character: ord(character) >= 0x300),
        ("PUNCTUATION", lambda character: not character.isalnum()),
    ],
)
def test_character_class_holds_only_its_kind(name: str, belongs: Callable[[str], bool]) -> None:
    pattern = re.compile(f"[{getattr(bert_characters, name)}]")
    found = [chr(code) for code in range(0x110000) if pattern.match(chr(code))]
    assert found
    assert all(map(belongs, found))

"""`.env` files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.dotenv import DotenvError, parse_dotenv


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("\n\n# comment\n   # another\n", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\r\nC=3\n", {"A": "1", "B": "2", "C": "3"}),
        ("  export A = 1  \n", {"A": "1"}),
        ("A=", {"A": ""}),
        ("A= # nothing\nB=1", {"A": "", "B": "1"}),
        ("A=# nothing", {"A": ""}),
        ("A=1 # comment", {"A": "1"}),
        ("A=1#no-comment", {"A": "1#no-comment"}),
        ("A.b_1=x", {"A.b_1": "x"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=http://h:80/?a=b&c=d", {"A": "http://h:80/?a=b&c=d"}),
        ("A='single $B \\n \"x\"'", {"A": 'single $B \\n "x"'}),
        ('A="double \\"x\\" \\n \\$B"', {"A": 'double "x" \n $B'}),
        ('A="two\nlines"\nB=1', {"A": "two\nlines", "B": "1"}),
        ("A='two\nlines'", {"A": "two\nlines"}),
        ("A=a'b c'\"d e\"f", {"A": "ab cd ef"}),
        ("A=a\\ b", {"A": "a b"}),
        ("A=$HOME/x", {"A": "/home/me/x"}),
        ("A=${HOME}x", {"A": "/home/mex"}),
        ('A="${HOME}"', {"A": "/home/me"}),
        ("A=1\nB=$A$A", {"A": "1", "B": "11"}),
        ("HOME=here\nB=$HOME", {"HOME": "here", "B": "/home/me"}),
        ("A=$UNKNOWN.", {"A": "."}),
        ("A=$", {"A": ""}),
        ("\ufeffA=1", {"A": "1"}),
        ("A=ключ", {"A": "ключ"}),
    ],
)
def test_text_gives_assignments(text: str, found: dict[str, str]) -> None:
    assert parse_dotenv(text, {"HOME": "/home/me"}) == found


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("A=1\nnonsense\n", 2, "expected NAME=VALUE"),
        ("1A=1", 1, "expected NAME=VALUE"),
        ("=1", 1, "expected NAME=VALUE"),
        ("A=1#no comment", 1, "white space in a value needs quotes"),
        ("A=a b", 1, "white space in a value needs quotes"),
        ("A='open\nB=1", 1, "quote ' is not closed"),
        ('B=1\nA="open\nC=1', 2, 'quote " is not closed'),
        ("A=\\x", 1, "unknown escape \\x"),
        ("A=x\\", 1, "unknown escape \\"),
        ("A=${open", 1, "${ is not closed"),
    ],
)
def test_bad_line_is_named(text: str, line: int, reason: str) -> None:
    with pytest.raises(DotenvError) as caught:
        parse_dotenv(text, {})
    assert str(caught.value) == f"line {line}: {reason}"


@given(st.text(alphabet="Aa1=$ {}\"'\\#\n\tж."))
def test_any_text_is_read_or_refused_at_one_of_its_lines(text: str) -> None:
    try:
        line = len(parse_dotenv(text, {}))
    except DotenvError as exc:
        line = exc.line
    assert 0 <= line <= text.count("\n") + 1

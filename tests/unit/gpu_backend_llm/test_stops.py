"""Stop sequences: nothing of them is ever passed on, and nothing else is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_backend.llm.stops import StopFilter


def passed(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, str | None]:
    """What a filter lets through of `pieces`, and the stop it found."""
    filter_ = StopFilter(stops)
    text = "".join(filter_.push(piece) for piece in pieces)
    return (text if filter_.matched else text + filter_.flush()), filter_.matched


def test_stop_inside_one_piece_ends_the_text_before_it() -> None:
    assert passed(("END",), ["one END two"]) == ("one ", "END")


def test_stop_split_over_pieces_is_held_back() -> None:
    stop = StopFilter(("END",))
    assert [stop.push(piece) for piece in ("one E", "N", "D two")] == ["one ", "", ""]
    assert stop.matched == "END"


def test_beginning_that_does_not_go_on_is_passed_late() -> None:
    stop = StopFilter(("END",))
    assert [stop.push("E"), stop.push("N"), stop.push("!")] == ["", "", "EN!"]


def test_end_of_text_releases_what_was_held() -> None:
    stop = StopFilter(("END",))
    assert stop.push("the EN") + stop.flush() == "the EN"
    assert stop.matched is None


def test_two_stops_at_one_place_match_the_longer() -> None:
    assert passed(("\n", "\n\n"), ["a\n\nb"]) == ("a", "\n\n")


def test_earlier_stop_wins_over_the_first_named() -> None:
    assert passed(("two", "one"), ["x one two"]) == ("x ", "one")


def test_repeated_beginning_is_found() -> None:
    assert passed(("aab",), ["a", "a", "a", "b"]) == ("a", "aab")


def test_filter_without_stops_passes_at_once() -> None:
    assert StopFilter(()).push("anything") == "anything"


def test_text_after_a_match_is_dropped() -> None:
    stop = StopFilter(("x",))
    stop.push("ax")
    assert stop.push("more") == ""


@given(
    text=st.text("abc\n", max_size=40),
    stops=st.lists(st.text("abc\n", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_pieces_of_any_size_give_what_the_first_stop_leaves(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    ends = [text.find(stop) for stop in stops if stop in text]
    got, matched = passed(tuple(stops), pieces)
    # A short stop inside a longer one is complete first, and then no longer can be waited for.
    if ends:
        assert matched is not None
        assert not any(stop in got for stop in stops)
        assert text.startswith(got + matched)
    else:
        assert (got, matched) == (text, None)


@pytest.mark.parametrize("piece", ["日", "é", "🦊"])
def test_stop_of_several_bytes_matches_characters(piece: str) -> None:
    assert passed((piece,), ["a" + piece + "b"]) == ("a", piece)

"""One text: when it ends, why, and that nothing is lost on the way."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_backend.llm.engine import Chunk, FinishReason, TokenScore
from gpu_backend.llm.sampling import Choice
from gpu_backend.llm.sequence import Drawn, Outlet, Sequence, Task
from gpu_backend.llm.token_bytes import TextDecoder, TokenBytes

VOCABULARY = TokenBytes([b"", b"Hel", b"lo", b"\xe6\x97", b"\xa5", b" END", b"\xe6"], False)

EOS = 0


def text_of(limit: int = 10, stops: tuple[str, ...] = ()) -> Sequence:
    task = Task(np.array([1, 2], np.int32), limit, Choice(), frozenset({EOS}), stops)
    return Sequence(task, TextDecoder(VOCABULARY))


def run(sequence: Sequence, tokens: list[int]) -> list[Chunk]:
    chunks = [sequence.accept(Drawn(token)) for token in tokens]
    return [chunk for chunk in chunks if chunk is not None]


def test_end_token_ends_with_stop_and_is_not_counted() -> None:
    *texts, last = run(text_of(), [1, 2, EOS])
    assert [chunk.text for chunk in texts] == ["Hel", "lo"]
    assert last.finish is not None
    assert last.finish.reason is FinishReason.STOP
    assert (last.finish.usage.prompt_tokens, last.finish.usage.completion_tokens) == (2, 2)


def test_limit_ends_with_length() -> None:
    last = run(text_of(limit=2), [1, 2])[-1]
    assert last.text == "lo"
    assert last.finish is not None
    assert last.finish.reason is FinishReason.LENGTH


def test_stop_sequence_ends_the_text_before_it() -> None:
    chunks = run(text_of(stops=("loEN", "EN")), [1, 2, 5])
    assert "".join(chunk.text for chunk in chunks) == "Hello "
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.STOP


def test_open_character_is_held_until_it_is_whole() -> None:
    sequence = text_of()
    assert sequence.accept(Drawn(3)) is None
    chunk = sequence.accept(Drawn(4))
    assert chunk is not None
    assert chunk.text == "日"


def test_limit_inside_a_character_shows_that_one_is_missing() -> None:
    last = run(text_of(limit=1), [6])[-1]
    assert last.text == "\ufffd"


def test_text_held_for_a_stop_comes_with_the_end() -> None:
    chunks = run(text_of(stops=("lot",)), [1, 2, EOS])
    assert "".join(chunk.text for chunk in chunks) == "Hello"


def test_runtime_that_says_it_is_done_ends_with_stop() -> None:
    sequence = text_of()
    sequence.accept(Drawn(1))
    last = sequence.end()
    assert last.finish is not None
    assert last.finish.reason is FinishReason.STOP


def test_scores_come_with_the_text_of_their_tokens() -> None:
    sequence = text_of(stops=("lox",))
    scores = [TokenScore(str(number), -1.0, b"") for number in range(4)]
    first = sequence.accept(Drawn(5, scores[0]))
    assert first is not None
    assert first.scores == (scores[0],)
    assert sequence.accept(Drawn(2, scores[1])) is None
    last = sequence.accept(Drawn(EOS))
    assert last is not None
    assert (last.text, last.scores) == ("lo", (scores[1],))


def test_scores_of_a_stop_are_dropped() -> None:
    sequence = text_of(stops=("END",))
    sequence.accept(Drawn(1, TokenScore("Hel", -1.0, b"Hel")))
    last = sequence.accept(Drawn(5, TokenScore(" END", -1.0, b" END")))
    assert last is not None
    assert last.text == " "
    assert len(last.scores) == 1  # the token begins before the stop


async def test_outlet_hands_over_in_order_and_then_raises() -> None:
    outlet = Outlet()
    outlet.put(Chunk("a"))
    outlet.put(Chunk("b"))
    outlet.put(ValueError("over"))
    assert (await outlet.get()).text == "ab"
    with pytest.raises(ValueError, match="over"):
        await outlet.get()

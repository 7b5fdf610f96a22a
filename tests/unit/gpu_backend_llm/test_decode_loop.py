"""The generating thread: late texts, leavers, failures and the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from fakes.llm_engines import ScriptedDecoder
from gpu_backend.errors import ExecutionFailedError
from gpu_backend.llm.decode_loop import DecodeLoop
from gpu_backend.llm.engine import Chunk
from gpu_backend.llm.sampling import Choice
from gpu_backend.llm.sequence import Sequence, Task
from gpu_backend.llm.token_bytes import TextDecoder, TokenBytes

LETTERS = TokenBytes([bytes([64 + number]) for number in range(27)], strips_start=False)


def text_of(limit: int) -> Sequence:
    task = Task(np.array([1], np.int32), limit, Choice(), frozenset({0}))
    return Sequence(task, TextDecoder(LETTERS))


async def read(sequence: Sequence) -> str:
    text = ""
    while True:
        chunk: Chunk = await asyncio.wait_for(sequence.outlet.get(), 10)
        text += chunk.text
        if chunk.finish is not None:
            return text


@asynccontextmanager
async def running(decoder: ScriptedDecoder) -> AsyncIterator[DecodeLoop]:
    loop = DecodeLoop(decoder, asyncio.get_running_loop(), "test")
    try:
        yield loop
    finally:
        if decoder.permits is not None:
            decoder.permits.release(1000)
        await loop.close()
        assert decoder.closed


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # another thread makes it true
            await asyncio.sleep(0.001)


async def test_texts_are_generated_to_their_limits() -> None:
    async with running(ScriptedDecoder(max_streams=3)) as loop:
        texts = [text_of(limit) for limit in (1, 5, 3)]
        for text in texts:
            loop.submit(text)
        assert [await read(text) for text in texts] == ["A", "ABCDE", "ABC"]


async def test_late_text_joins_before_the_early_one_ends() -> None:
    permits = threading.Semaphore(0)
    decoder = ScriptedDecoder(permits=permits)
    async with running(decoder) as loop:
        early, late = text_of(20), text_of(2)
        loop.submit(early)
        permits.release(3)
        await until(lambda: early.generated == 3)
        loop.submit(late)
        permits.release(6)
        assert await read(late) == "AB"
        assert early.generated < 20


async def test_text_beyond_the_slots_waits_for_one() -> None:
    decoder = ScriptedDecoder(max_streams=2)
    async with running(decoder) as loop:
        texts = [text_of(4) for _ in range(6)]
        for text in texts:
            loop.submit(text)
        assert [await read(text) for text in texts] == ["ABCD"] * 6
        assert decoder.most_held == 2


async def test_cancelled_text_frees_its_slot_before_the_next_step() -> None:
    permits = threading.Semaphore(0)
    decoder = ScriptedDecoder(permits=permits)
    async with running(decoder) as loop:
        leaver, stayer = text_of(20), text_of(4)
        loop.submit(leaver)
        loop.submit(stayer)
        permits.release(3)
        await until(lambda: len(decoder.held) == 2)
        loop.cancel(leaver)
        permits.release(20)
        assert await read(stayer) == "ABCD"
        assert leaver not in decoder.held
        assert leaver.generated < 20


async def test_text_cancelled_while_it_waits_is_never_started() -> None:
    permits = threading.Semaphore(0)
    decoder = ScriptedDecoder(max_streams=1, permits=permits)
    async with running(decoder) as loop:
        first, second, third = text_of(2), text_of(2), text_of(1)
        for text in (first, second, third):
            loop.submit(text)
        loop.cancel(second)
        permits.release(20)
        assert await read(third) == "A"
        assert second.generated == 0


async def test_cancelling_the_reading_of_a_prompt_interrupts_it() -> None:
    permits = threading.Semaphore(0)
    decoder = ScriptedDecoder(permits=permits)
    async with running(decoder) as loop:
        text = text_of(5)
        loop.submit(text)
        await asyncio.to_thread(decoder.reading.wait, 10)
        loop.cancel(text)
        await until(lambda: not decoder.held)
        assert text.generated == 0


async def test_failing_step_fails_every_text_in_it_and_no_other() -> None:
    permits = threading.Semaphore(0)
    decoder = ScriptedDecoder(permits=permits)
    async with running(decoder) as loop:
        both = [text_of(5), text_of(5)]
        for text in both:
            loop.submit(text)
        permits.release(3)
        await until(lambda: both[1].generated == 1)
        decoder.failures.append(RuntimeError("broken kernel"))
        permits.release(1)
        for text in both:
            with pytest.raises(ExecutionFailedError, match="broken kernel"):
                await read(text)
        assert decoder.held == []
        later = text_of(2)
        loop.submit(later)
        permits.release(5)
        assert await read(later) == "AB"


async def test_failing_prompt_fails_alone() -> None:
    decoder = ScriptedDecoder(failures=[RuntimeError("bad prompt")])
    async with running(decoder) as loop:
        bad, good = text_of(3), text_of(3)
        loop.submit(bad)
        loop.submit(good)
        with pytest.raises(ExecutionFailedError, match="bad prompt"):
            await read(bad)
        assert await read(good) == "ABC"


async def test_closing_ends_what_runs_with_an_error() -> None:
    permits = threading.Semaphore(0)
    decoder = ScriptedDecoder(permits=permits)
    loop = DecodeLoop(decoder, asyncio.get_running_loop(), "test")
    text = text_of(20)
    loop.submit(text)
    permits.release(2)
    await until(lambda: text.generated == 2)
    closing = asyncio.create_task(loop.close())
    await asyncio.sleep(0)
    permits.release(5)
    await closing
    with pytest.raises(ExecutionFailedError, match="unloaded"):
        await read(text)
    assert not loop.is_alive
    with pytest.raises(ExecutionFailedError):
        loop.submit(text_of(1))

"""The list of another server's models: asked for once for all, and believed for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gpu_backend.errors import BackendError, ExecutionFailedError, UpstreamUnavailableError
from gpu_backend.llm.engine import ModelCard
from gpu_backend.llm.model_list import ModelList


class Server:
    """Lists `names`, or fails; waits for `gate` where there is one."""

    def __init__(self) -> None:
        self.names = ["a"]
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.asked = 0
        self.now_s = 100.0
        self.list = ModelList("server", self.cards, lambda: self.now_s)

    async def cards(self) -> Sequence[ModelCard]:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return [ModelCard(name, "ollama") for name in self.names]

    async def fresh(self) -> list[str]:
        return [card.name for card in await self.list.fresh()]


async def test_requests_at_the_same_time_ask_once() -> None:
    server = Server()
    server.gate = asyncio.Event()
    waiting = [asyncio.create_task(server.fresh()) for _ in range(20)]
    await asyncio.sleep(0)
    server.gate.set()
    assert await asyncio.gather(*waiting) == [["a"]] * 20
    assert server.asked == 1


async def test_request_that_is_cancelled_leaves_the_others_their_answer() -> None:
    server = Server()
    server.gate = asyncio.Event()
    first, second = [asyncio.create_task(server.fresh()) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    server.gate.set()
    assert await second == ["a"]


async def test_list_is_asked_for_again_when_it_is_old() -> None:
    server = Server()
    assert await server.fresh() == ["a"]
    server.names = ["a", "b"]
    server.now_s += 9
    assert await server.fresh() == ["a"]
    server.now_s += 2
    assert await server.fresh() == ["a", "b"]


async def test_failure_is_remembered_for_a_moment_and_hides_nothing_known() -> None:
    server = Server()
    await server.fresh()
    server.now_s += 11
    server.failure = UpstreamUnavailableError("down")
    for _ in range(3):
        with pytest.raises(UpstreamUnavailableError, match="down"):
            await server.fresh()
    assert server.asked == 2
    assert [card.name for card in server.list.known] == ["a"]
    server.failure = None
    server.now_s += 3
    assert await server.fresh() == ["a"]


async def test_failure_of_another_kind_is_told_as_ours() -> None:
    server = Server()
    server.failure = RuntimeError("odd")
    with pytest.raises(ExecutionFailedError, match="odd"):
        await server.fresh()


async def test_refreshing_does_not_wait_and_closing_ends_it() -> None:
    server = Server()
    server.gate = asyncio.Event()
    server.list.refresh()
    server.list.refresh()
    await asyncio.sleep(0)
    assert server.asked == 1
    assert server.list.known == ()
    await server.list.close()
    server.gate.set()
    assert server.list.known == ()


async def test_list_that_was_closed_while_asked_for_is_an_error_and_no_empty_list() -> None:
    server = Server()
    server.gate = asyncio.Event()
    waiting = asyncio.create_task(server.fresh())
    await asyncio.sleep(0)
    await server.list.close()
    with pytest.raises((BackendError, asyncio.CancelledError)):
        await waiting

"""Idle and open outbound connections: bounds, expiry, whose turn it is."""

from __future__ import annotations

import asyncio

import pytest

from edgehost.http.connector import Origin
from edgehost.http.pool import ConnectionPool, PoolLimits
from edgehost.ports import OutboundError

HERE = Origin("http", "here", 80)
THERE = Origin("http", "there", 80)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Connection:
    def __init__(self, pool: ConnectionPool, origin: Origin = HERE) -> None:
        self._pool = pool
        self.origin = origin
        self.alive = True
        self.closed = False

    def is_alive(self) -> bool:
        return self.alive

    def close(self) -> None:
        self.closed = True
        self._pool.release_slot()


async def opened(pool: ConnectionPool, origin: Origin = HERE) -> Connection:
    assert await pool.acquire(origin, fresh=True) is None
    return Connection(pool, origin)


async def test_newest_idle_connection_of_the_origin_is_taken() -> None:
    pool = ConnectionPool()
    first, second, other = await opened(pool), await opened(pool), await opened(pool, THERE)
    for connection in (first, second, other):
        pool.put(connection)
    assert pool.take(HERE) is second
    assert pool.take(HERE) is first
    assert pool.take(HERE) is None
    assert pool.idle_count == 1


async def test_dead_connection_is_closed_and_the_next_one_taken() -> None:
    pool = ConnectionPool()
    good, dead = await opened(pool), await opened(pool)
    pool.put(good)
    pool.put(dead)
    dead.alive = False
    assert pool.take(HERE) is good
    assert dead.closed


async def test_connection_that_idles_too_long_is_closed() -> None:
    clock = Clock()
    pool = ConnectionPool(PoolLimits(idle_timeout_s=90), clock)
    old, young = await opened(pool), await opened(pool)
    pool.put(old)
    clock.now = 60
    pool.put(young)
    clock.now = 100
    pool.expire()
    assert (old.closed, young.closed) == (True, False)
    assert pool.open_count == 1


@pytest.mark.parametrize("limits", [PoolLimits(idle_per_origin=1), PoolLimits(idle=1)])
async def test_idle_bound_closes_the_oldest(limits: PoolLimits) -> None:
    pool = ConnectionPool(limits)
    first, second = await opened(pool), await opened(pool)
    pool.put(first)
    pool.put(second)
    assert (first.closed, second.closed) == (True, False)


async def test_caller_beyond_the_limit_waits_for_a_slot_in_turn() -> None:
    pool = ConnectionPool(PoolLimits(open=1))
    held = await opened(pool)
    order: list[int] = []

    async def caller(number: int) -> None:
        connection = await opened(pool)
        order.append(number)
        connection.close()

    callers = [asyncio.create_task(caller(number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    assert order == []
    held.close()
    await asyncio.gather(*callers)
    assert order == [1, 2, 3]
    assert pool.open_count == 0


async def test_cancelled_waiter_passes_its_turn_on() -> None:
    pool = ConnectionPool(PoolLimits(open=1))
    held = await opened(pool)
    cancelled = asyncio.create_task(pool.acquire(HERE))
    waiting = asyncio.create_task(pool.acquire(HERE))
    await asyncio.sleep(0)
    held.close()  # wakes the first waiter, which is cancelled before it runs
    cancelled.cancel()
    assert await asyncio.wait_for(waiting, 5) is None
    assert pool.open_count == 1


async def test_waiter_takes_the_connection_that_becomes_idle() -> None:
    pool = ConnectionPool(PoolLimits(open=1))
    held = await opened(pool)
    waiting = asyncio.create_task(pool.acquire(HERE))
    await asyncio.sleep(0)
    pool.put(held)
    assert await asyncio.wait_for(waiting, 5) is held
    assert not held.closed


async def test_waiter_for_another_origin_gets_the_slot_of_an_idle_connection() -> None:
    pool = ConnectionPool(PoolLimits(open=1))
    held = await opened(pool)
    waiting = asyncio.create_task(pool.acquire(THERE))
    await asyncio.sleep(0)
    pool.put(held)
    assert await asyncio.wait_for(waiting, 5) is None
    assert held.closed


async def test_limit_of_zero_denies_every_call() -> None:
    with pytest.raises(OutboundError) as caught:
        await ConnectionPool(PoolLimits(open=0)).acquire(HERE)
    assert caught.value.wasi_code == "connection-limit-reached"

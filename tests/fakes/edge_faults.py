"""Key-value stores that misbehave on demand, and a scheduler that decides who acts next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from edgekit.ports import StoreUnavailableError
from fakes.edge_ports import MemoryStore

__all__ = [
    "DeathError",
    "FaultyStore",
    "Interleaving",
    "LockedStore",
    "ScheduledStore",
    "every_schedule",
]


class DeathError(BaseException):
    """The process was killed: nothing in it may catch this, and nothing after it runs."""


class LockedStore(MemoryStore):
    """A store that many threads use at once, each operation atomic.

    Args:
        like_spin: Swap on an absent key overwrites and succeeds, as in Spin's stores.
    """

    def __init__(self, *, like_spin: bool = False) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._like_spin = like_spin

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._lock:
            return super().get_many(keys)

    def increment(self, key: str, delta: int) -> int:
        with self._lock:
            return super().increment(key, delta)

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        with self._lock:
            if self._like_spin and expected is None:
                self.items[key] = value
                return True
            return super().compare_and_swap(key, expected, value)


class FaultyStore(MemoryStore):
    """A store whose operations fail by name: `failing` holds those that do."""

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing = set(failing)

    def _enter(self, call: str) -> None:
        super()._enter(call)
        if call in self.failing:
            raise StoreUnavailableError(f"{call} fails")


class ScheduledStore(MemoryStore):
    """One actor's view of a shared store: every operation waits for its turn."""

    def __init__(self, items: dict[str, bytes], turn: Callable[[], None]) -> None:
        super().__init__()
        self.items = items
        self._turn = turn

    def _enter(self, call: str) -> None:
        self._turn()
        super()._enter(call)


class Interleaving:
    """Runs actors as threads of which one moves at a time, by one store operation.

    Args:
        choose: From the number of living actors to the one that moves next.
        dies: Called before each operation with the actor's number; True kills it there.
    """

    def __init__(self, choose: Callable[[int], int], dies: Callable[[int], bool]) -> None:
        self.items: dict[str, bytes] = {}
        self._choose = choose
        self._dies = dies
        self._paused = threading.Semaphore(0)

    def run(self, actors: Sequence[Callable[[ScheduledStore], None]]) -> list[bool]:
        """Run all to their end or death; for each, whether it lived.

        Raises:
            AssertionError: An actor raised something else than death.
        """
        go = [threading.Semaphore(0) for _ in actors]
        done = [False] * len(actors)
        lived = [True] * len(actors)
        faults: list[BaseException] = []

        def turn(number: int) -> None:
            self._paused.release()
            go[number].acquire()
            if self._dies(number):
                raise DeathError

        def body(number: int) -> None:
            go[number].acquire()
            try:
                actors[number](ScheduledStore(self.items, lambda: turn(number)))
            except DeathError:
                lived[number] = False
            except BaseException as error:
                faults.append(error)
            done[number] = True
            self._paused.release()

        threads = [threading.Thread(target=body, args=(n,), daemon=True) for n in range(len(go))]
        for thread in threads:
            thread.start()
        while living := [number for number in range(len(actors)) if not done[number]]:
            go[living[self._choose(len(living))]].release()
            self._paused.acquire()
        for thread in threads:
            thread.join()
        assert not faults, faults
        return lived


def every_schedule(run: Callable[[Callable[[int], int]], None]) -> int:
    """Call `run` once for each possible sequence of choices; how many there were.

    `run` gets a `choose` for `Interleaving`. Only schedules that differ are tried: after each one
    the last choice that had an alternative takes it, and what came before is repeated.
    """
    prefix: list[int] | None = []
    schedules = 0
    while prefix is not None:
        made: list[tuple[int, int]] = []
        run(_follow(prefix, made))
        schedules += 1
        while made and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        prefix = [*(choice for choice, _ in made[:-1]), made[-1][0] + 1] if made else None
    return schedules


def _follow(prefix: list[int], made: list[tuple[int, int]]) -> Callable[[int], int]:
    def choose(options: int) -> int:
        choice = prefix[len(made)] if len(made) < len(prefix) else 0
        made.append((choice, options))
        return choice

    return choose

"""Any sequence of calls answers as a dict would."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from edgehost.errors import StoreError
from fakes.keyvalue_backends import Backend, memory_backend, redis_backend, sqlite_backend
from fakes.redis_server import RedisServer

SETTINGS = settings(
    max_examples=25,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
_DECIMAL = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_CHARACTERS = st.characters(exclude_categories=["Cs"])

# Few keys, so that calls meet; one in four is any text.
keys = st.one_of(
    st.sampled_from(["a", "b", "ключ"]),
    st.sampled_from(["a", "A"]),
    st.text(_CHARACTERS, max_size=63),
)
values = st.one_of(
    st.binary(max_size=40), st.integers(-(2**63), 2**63 - 1).map(lambda n: b"%d" % n)
)
deltas = st.integers(-(2**63), 2**63 - 1)


class StoreMachine(RuleBasedStateMachine):
    """Calls a store and a dict with the same arguments."""

    def make_backend(self, stack: contextlib.ExitStack) -> Backend:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.backend = self.make_backend(self.stack)
        self.store = self.backend.open()
        self.model: dict[str, bytes] = {}

    def teardown(self) -> None:
        self.stack.close()

    def number_in(self, value: bytes | None) -> int | None:
        """What the store should read as a counter; None when it should refuse."""
        if value is None:
            return 0
        if self.backend.name == "redis":
            number = int(value) if _DECIMAL.fullmatch(value) else 2**63
            return number if -(2**63) <= number < 2**63 else None
        return int.from_bytes(value, "little", signed=True) if len(value) == 8 else None

    @rule(key=keys, value=values)
    def set(self, key: str, value: bytes) -> None:
        self.store.set(key, value)
        self.model[key] = value

    @rule(key=keys)
    def get(self, key: str) -> None:
        assert self.store.get(key) == self.model.get(key)
        assert self.store.exists(key) == (key in self.model)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(items=st.lists(st.tuples(keys, values), max_size=5))
    def set_many(self, items: list[tuple[str, bytes]]) -> None:
        self.store.set_many(items)
        self.model.update(items)

    @rule(names=st.lists(keys, max_size=5))
    def get_many(self, names: list[str]) -> None:
        assert self.store.get_many(names) == [(name, self.model.get(name)) for name in names]

    @rule(names=st.lists(keys, max_size=5))
    def delete_many(self, names: list[str]) -> None:
        self.store.delete_many(names)
        for name in names:
            self.model.pop(name, None)

    @rule(key=keys, delta=deltas)
    def increment(self, key: str, delta: int) -> None:
        number = self.number_in(self.model.get(key))
        if number is None or not -(2**63) <= number + delta < 2**63:
            with pytest.raises(StoreError):
                self.store.increment(key, delta)
            return
        assert self.store.increment(key, delta) == number + delta
        self.model[key] = self.backend.counter(number + delta)

    @rule(key=keys, expected=st.none() | values, value=values)
    def swap(self, key: str, expected: bytes | None, value: bytes) -> None:
        matches = self.model.get(key) == expected
        assert self.store.compare_and_swap(key, expected, value) == matches
        if matches:
            self.model[key] = value

    @precondition(lambda self: self.model)
    @rule(data=st.data(), value=values)
    def swap_of_what_is_there(self, data: st.DataObject, value: bytes) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        assert self.store.compare_and_swap(key, self.model[key], value)
        self.model[key] = value

    @invariant()
    def same_keys(self) -> None:
        assert sorted(self.store.get_keys()) == sorted(self.model)


def test_memory_store_answers_as_a_dict() -> None:
    class Machine(StoreMachine):
        def make_backend(self, stack: contextlib.ExitStack) -> Backend:
            return memory_backend()

    run(Machine, settings=SETTINGS)


def test_sqlite_store_answers_as_a_dict() -> None:
    class Machine(StoreMachine):
        def make_backend(self, stack: contextlib.ExitStack) -> Backend:
            directory = stack.enter_context(TemporaryDirectory())
            return sqlite_backend(Path(directory) / "kv.db", stack)

    run(Machine, settings=SETTINGS)


def test_redis_store_answers_as_a_dict(redis_server: RedisServer) -> None:
    class Machine(StoreMachine):
        def make_backend(self, stack: contextlib.ExitStack) -> Backend:
            return redis_backend(redis_server, stack)

    run(Machine, settings=SETTINGS)

import itertools
import json
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.policy.counters import read_counter
from edgekit.policy.spool import Appended, Batch, Spool, SpoolShape
from edgekit.ports import StoreUnavailableError
from fakes.edge_faults import FaultyStore, Interleaving, ScheduledStore, every_schedule
from fakes.edge_ports import CountingRandom, MemoryStore

SHAPE = SpoolShape(capacity=5, batch=3)


def _record(name: str) -> bytes:
    return json.dumps({"id": name}).encode()


class Sink:
    """A backend that keeps one record per id, and can be away."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.arrivals: Counter[str] = Counter()
        self.away = False

    def __call__(self, batch: Batch) -> bool:
        if self.away:
            return False
        self.batches.append(batch)
        self.arrivals.update(json.loads(record)["id"] for record in batch.records)
        return True

    @property
    def delivered(self) -> set[str]:
        return set(self.arrivals)


def _spool(store: MemoryStore, shape: SpoolShape = SHAPE) -> Spool:
    return Spool(store, CountingRandom(), shape)


def _drain(spool: Spool, sink: Sink) -> None:
    while spool.flush(sink):
        pass


def test_append_then_flush_delivers_in_order() -> None:
    spool, sink = _spool(MemoryStore()), Sink()
    assert [spool.append(_record(name)) for name in "abc"] == [Appended.ACCEPTED] * 3
    assert spool.depth() == 3
    assert spool.flush(sink) == 3
    assert spool.depth() == 0
    assert sink.batches[0].records == tuple(map(_record, "abc"))


def test_append_takes_four_operations_and_flush_four() -> None:
    store = MemoryStore()
    spool = _spool(store)
    spool.append(_record("a"))
    assert store.calls == ["get_many", "increment", "set", "get_many"]
    spool.flush(Sink())
    store.calls.clear()
    spool.append(_record("b"))
    store.calls.clear()
    spool.flush(Sink())
    assert store.calls == ["get_many", "delete_many", "get_many", "compare_and_swap"]


def test_flush_empty_spool_delivers_nothing() -> None:
    sink = Sink()
    assert _spool(MemoryStore()).flush(sink) == 0
    assert sink.batches == []


def test_append_to_a_full_spool_counts_the_drop_and_tells_the_backend() -> None:
    spool, sink = _spool(MemoryStore()), Sink()
    outcomes = [spool.append(_record(str(number))) for number in range(7)]
    assert outcomes == [Appended.ACCEPTED] * 5 + [Appended.DROPPED] * 2
    _drain(spool, sink)
    assert sink.delivered == {"0", "1", "2", "3", "4"}
    assert sink.batches[0].dropped == 2
    assert spool.append(_record("7")) is Appended.ACCEPTED


def test_flush_backend_away_keeps_everything() -> None:
    spool, sink = _spool(MemoryStore()), Sink()
    for name in "abcde":
        spool.append(_record(name))
    sink.away = True
    assert spool.flush(sink) == 0
    assert spool.depth() == 5
    sink.away = False
    _drain(spool, sink)
    assert sink.delivered == set("abcde")


def test_flush_keeps_a_batch_within_its_bytes_but_lets_a_large_record_through() -> None:
    spool, sink = _spool(MemoryStore(), SpoolShape(batch=10, batch_bytes=30)), Sink()
    for name in ("a", "b", "c" * 100, "d"):
        spool.append(_record(name))
    _drain(spool, sink)
    assert [len(batch.records) for batch in sink.batches] == [2, 1, 1]


def test_flush_leaves_no_more_than_one_batch_behind() -> None:
    store = MemoryStore()
    spool, sink = _spool(store, SpoolShape(capacity=100, batch=3)), Sink()
    for number in range(50):
        spool.append(_record(str(number)))
    _drain(spool, sink)
    left = [key for key in store.items if key.startswith(("spool/r/", "spool/s/"))]
    assert len(left) <= 3


def test_flush_passes_over_a_writer_that_died() -> None:
    store = MemoryStore()
    spool, sink = _spool(store), Sink()
    store.increment("spool/tail", 1)
    spool.append(_record("a"))
    _drain(spool, sink)
    assert sink.delivered == {"a"}
    assert spool.depth() == 0


def test_flush_passes_over_a_whole_batch_of_dead_writers() -> None:
    store = MemoryStore()
    spool, sink = _spool(store), Sink()
    store.increment("spool/tail", 4)
    spool.append(_record("a"))
    _drain(spool, sink)
    assert sink.delivered == {"a"}


def test_append_whose_number_was_passed_over_meanwhile_takes_another() -> None:
    sink = Sink()

    class Slow(MemoryStore):
        """Its second set comes only after another instance's flush."""

        def set(self, key: str, value: bytes) -> None:
            if not sink.batches and key == "spool/r/1":
                other = MemoryStore()
                other.items = self.items
                _spool(other).flush(sink)
            super().set(key, value)

    store = Slow()
    spool = _spool(store)
    spool.append(_record("a"))
    assert spool.append(_record("b")) is Appended.ACCEPTED
    _drain(spool, sink)
    assert sink.delivered == {"a", "b"}


def test_append_overtaken_every_time_is_a_counted_drop() -> None:
    class Hostile(MemoryStore):
        def set(self, key: str, value: bytes) -> None:
            super().set(key, value)
            super().set(key.replace("/r/", "/s/"), b"1")

    store = Hostile()
    assert _spool(store).append(_record("a")) is Appended.DROPPED
    assert read_counter(store.items["spool/dropped"]) == 1


@pytest.mark.parametrize("failing", ["get_many", "increment", "set"])
def test_append_store_failure_is_raised(failing: str) -> None:
    with pytest.raises(StoreUnavailableError):
        _spool(FaultyStore(failing)).append(_record("a"))


def test_flush_lost_to_another_flusher_moves_nothing() -> None:
    class Loser(MemoryStore):
        def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
            return False

    store = Loser()
    spool, sink = _spool(store), Sink()
    spool.append(_record("a"))
    assert spool.flush(sink) == 0
    assert sink.batches[0].spool == ""
    assert spool.depth() == 1


Actor = Callable[[ScheduledStore], None]
scripts = st.lists(st.sampled_from(["append", "flush"]), min_size=1, max_size=4)


class World:
    """Instances that append and flush on one store, and what each was told."""

    def __init__(self, capacity: int) -> None:
        self.shape = SpoolShape(capacity=capacity, batch=3)
        self.sink = Sink()
        self.outcomes: dict[str, Appended] = {}

    def instance(self, number: int, script: list[str]) -> Actor:
        def run(store: ScheduledStore) -> None:
            spool = _spool(store, self.shape)
            for step, action in enumerate(script):
                if action == "flush":
                    spool.flush(self.sink)
                else:
                    name = f"{number}.{step}"
                    self.outcomes[name] = spool.append(_record(name))

        return run

    def play(
        self, script_list: list[list[str]], choose: Callable[[int], int], deaths: set[int]
    ) -> None:
        """Run the scripts, one operation at a time, then recover and hold the books together."""
        operations = itertools.count()
        run = Interleaving(choose, lambda _: next(operations) in deaths)
        lived = run.run([self.instance(n, script) for n, script in enumerate(script_list)])

        store = MemoryStore()
        store.items = run.items
        self.sink.away = False
        spool = _spool(store, self.shape)
        _drain(spool, self.sink)

        told = Counter(self.outcomes.values())
        accepted = {name for name, told_ in self.outcomes.items() if told_ is Appended.ACCEPTED}
        refused = self.outcomes.keys() - accepted
        dropped = read_counter(store.items.get("spool/dropped"))
        assert accepted <= self.sink.delivered
        assert not refused & self.sink.delivered
        assert spool.depth() == 0
        # A record whose writer died before it was told may have arrived or been counted.
        untold = lived.count(False)
        assert told[Appended.DROPPED] <= dropped <= told[Appended.DROPPED] + untold
        assert len(self.sink.delivered) <= len(accepted) + untold


@settings(max_examples=300)
@given(st.data())
def test_spool_any_interleaving_with_deaths_loses_nothing_it_accepted(data: st.DataObject) -> None:
    """Accepted = delivered exactly once + spooled + counted drops."""
    script_list = data.draw(st.lists(scripts, min_size=1, max_size=4))
    deaths = data.draw(st.sets(st.integers(0, 60), max_size=3))
    world = World(capacity=data.draw(st.integers(1, 6)))
    world.sink.away = data.draw(st.booleans())
    world.play(script_list, lambda living: data.draw(st.integers(0, living - 1)), deaths)


@pytest.mark.parametrize(
    ("script_list", "schedules"),
    [
        ([["append"], ["flush"]], 100),
        pytest.param([["append"], ["flush", "flush"]], 500, marks=pytest.mark.slow),
        ([["append", "flush"], ["append"]], 500),
    ],
)
def test_spool_every_interleaving_loses_nothing(
    script_list: list[list[str]], schedules: int
) -> None:
    def run(choose: Callable[[int], int]) -> None:
        World(capacity=5).play(script_list, choose, set())

    assert every_schedule(run) >= schedules


def test_spool_every_interleaving_with_a_death_anywhere_loses_nothing() -> None:
    for death in range(10):

        def run(choose: Callable[[int], int], death: int = death) -> None:
            World(capacity=5).play([["append"], ["flush"]], choose, {death})

        assert every_schedule(run) > 1


@settings(max_examples=150)
@given(st.lists(st.sampled_from(["append", "flush", "away", "back", "die"]), max_size=80))
def test_spool_alone_accounts_for_every_record_at_every_moment(actions: list[str]) -> None:
    store, sink = MemoryStore(), Sink()
    spool = _spool(store)
    accepted = dropped = 0
    for number, action in enumerate(actions):
        if action == "append":
            outcome = spool.append(_record(str(number)))
            accepted += outcome is Appended.ACCEPTED
            dropped += outcome is Appended.DROPPED
        elif action == "flush":
            spool.flush(sink)
        elif action == "die":
            store.increment("spool/tail", 1)
            spool.flush(sink)
        else:
            sink.away = action == "away"
        head = read_counter(store.items.get("spool/head"))
        tail = read_counter(store.items.get("spool/tail"))
        spooled = sum(f"spool/r/{seq}" in store.items for seq in range(head, tail))
        assert accepted == len(sink.delivered) + spooled
        assert dropped == read_counter(store.items.get("spool/dropped"))
        assert all(count == 1 for count in sink.arrivals.values())

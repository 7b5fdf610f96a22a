import json
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import OverloadedError
from edgekit.policy.admission import Admission, AdmissionDesk, LimitExceededError
from edgekit.policy.ledger import Ledger, admit, decode_ledger, encode_ledger, settle
from edgekit.policy.snapshot import Snapshot
from edgekit.policy.tenants import ANONYMOUS, Limits, Tenant
from fakes.edge_faults import FaultyStore, LockedStore
from fakes.edge_ports import FakeClock, MemoryStore

NOW_S = 1_800_000_000.0


class Dice:
    """A real random source, seeded."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def random(self) -> float:
        return self._random.random()

    def token_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


class Desk:
    """A desk over a store, used as the pipeline does."""

    def __init__(
        self, limits: Limits, store: MemoryStore | None = None, *, fail_open: bool = True
    ) -> None:
        self.store = store or MemoryStore()
        self.clock = FakeClock()
        self.tenant = Tenant("acme", limits=limits)
        self.desk = AdmissionDesk(self.store, self.clock, Dice(), fail_open=fail_open)

    def admit(self, hold_s: float | None = None) -> Admission:
        snapshot = Snapshot.read(self.store, self.desk.keys(self.tenant))
        return self.desk.admit(snapshot, self.tenant, hold_s=hold_s)

    def ledger(self) -> Ledger:
        return decode_ledger(self.store.items.get("ledger/acme"))


def test_admit_without_limits_costs_no_operation() -> None:
    desk = Desk(Limits())
    assert desk.desk.keys(ANONYMOUS) == []
    assert desk.desk.admit(Snapshot({}), ANONYMOUS, hold_s=1) == Admission()
    assert desk.store.calls == []


def test_admit_costs_one_operation_when_alone() -> None:
    desk = Desk(Limits(rate_per_s=10, burst=10))
    desk.admit()
    desk.store.calls.clear()
    desk.admit()
    assert desk.store.calls == ["get_many", "compare_and_swap"]


def test_admit_beyond_the_rate_is_refused_without_a_write() -> None:
    desk = Desk(Limits(rate_per_s=2, burst=2))
    desk.admit()
    desk.admit()
    desk.store.calls.clear()
    with pytest.raises(LimitExceededError, match="'acme' has used up its limit 'rate'") as caught:
        desk.admit()
    assert caught.value.retry_after_s == pytest.approx(0.5)
    assert [use.remaining for use in caught.value.uses] == [0]
    assert desk.store.calls == ["get_many"]


def test_admit_after_retry_after_succeeds() -> None:
    desk = Desk(Limits(rate_per_s=2, burst=1))
    desk.admit()
    with pytest.raises(LimitExceededError) as caught:
        desk.admit()
    desk.clock.advance(caught.value.retry_after_s or 0)
    assert desk.admit().metered


def test_admit_daily_requests_end_and_come_back_at_midnight() -> None:
    desk = Desk(Limits(daily_requests=2))
    first = desk.admit()
    assert [use.remaining for use in first.uses] == [1]
    desk.admit()
    with pytest.raises(LimitExceededError, match="daily-requests") as caught:
        desk.admit()
    desk.clock.advance(caught.value.retry_after_s or 0)
    assert desk.admit().metered


def test_admit_another_limit_that_refuses_leaves_the_rate_uncharged() -> None:
    desk = Desk(Limits(rate_per_s=100, burst=100, daily_requests=1))
    desk.admit()
    before = desk.ledger()
    with pytest.raises(LimitExceededError, match="daily-requests"):
        desk.admit()
    assert desk.ledger() == before


def test_settle_charges_tokens_and_cost_that_end_the_day() -> None:
    desk = Desk(Limits(daily_tokens=100, daily_cost_micro=1000))
    admission = desk.admit()
    desk.desk.settle(desk.tenant, admission, tokens=40, cost_micro=1500)
    assert (desk.ledger().tokens, desk.ledger().cost_micro) == (40, 1500)
    with pytest.raises(LimitExceededError, match="daily-cost"):
        desk.admit()


def test_concurrency_is_freed_by_settling() -> None:
    desk = Desk(Limits(concurrency=2))
    first = desk.admit(hold_s=10)
    desk.admit(hold_s=10)
    with pytest.raises(LimitExceededError, match="concurrency") as caught:
        desk.admit(hold_s=10)
    assert caught.value.retry_after_s == 1.0
    desk.store.calls.clear()
    desk.desk.settle(desk.tenant, first)
    assert len(desk.ledger().slots) == 1
    assert desk.admit(hold_s=10).slot


def test_settle_costs_one_operation_when_alone() -> None:
    desk = Desk(Limits(concurrency=2))
    admission = desk.admit(hold_s=10)
    desk.store.calls.clear()
    desk.desk.settle(desk.tenant, admission)
    assert desk.store.calls == ["compare_and_swap"]


def test_settle_with_nothing_to_settle_costs_nothing() -> None:
    desk = Desk(Limits(rate_per_s=5, burst=5))
    admission = desk.admit()
    desk.store.calls.clear()
    desk.desk.settle(desk.tenant, admission)
    desk.desk.settle(desk.tenant, Admission(), tokens=5)
    assert desk.store.calls == []


def test_concurrency_slot_of_a_dead_instance_lapses_with_its_deadline() -> None:
    desk = Desk(Limits(concurrency=1))
    desk.admit(hold_s=0.5)
    with pytest.raises(LimitExceededError) as caught:
        desk.admit(hold_s=0.5)
    assert caught.value.retry_after_s == pytest.approx(0.5)
    desk.clock.advance(0.501)
    assert desk.admit(hold_s=0.5).slot


def test_concurrency_does_not_hold_up_cache_hits() -> None:
    desk = Desk(Limits(concurrency=1))
    desk.admit(hold_s=10)
    hit = desk.admit(hold_s=None)
    assert not hit.slot
    assert [use.remaining for use in hit.uses] == [0]


@pytest.mark.parametrize("failing", ["get_many", "compare_and_swap", "increment"])
def test_admit_without_store_lets_through_uncounted_or_refuses(failing: str) -> None:
    limits = Limits(rate_per_s=1, burst=1)
    store = FaultyStore(failing)
    if failing == "compare_and_swap":
        store.items["ledger/acme"] = encode_ledger(Ledger(), "w")
    assert not Desk(limits, store).admit().metered
    with pytest.raises(OverloadedError, match="does not serve unchecked"):
        Desk(limits, store, fail_open=False).admit()


def test_settle_without_store_is_given_up_quietly() -> None:
    desk = Desk(Limits(concurrency=1))
    admission = desk.admit(hold_s=10)
    desk.store.broken = True
    desk.desk.settle(desk.tenant, admission, tokens=1)
    assert desk.ledger().slots


class RivalStore(MemoryStore):
    """Another instance is quicker in each of the first `rivals` swaps."""

    def __init__(self, rivals: int) -> None:
        super().__init__()
        self.rivals = rivals

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        if self.rivals > 0:
            self.rivals -= 1
            ledger = decode_ledger(self.items.get(key))
            rival = settle(ledger, NOW_S, slot="", tokens=1, cost_micro=0)
            self.items[key] = encode_ledger(rival, f"rival-{self.rivals}")
        return super().compare_and_swap(key, expected, value)


def test_settle_against_rivals_loses_nothing() -> None:
    desk = Desk(Limits(daily_tokens=100))
    store = RivalStore(0)
    desk = Desk(Limits(daily_tokens=100), store)
    admission = desk.admit()
    store.rivals = 3
    desk.desk.settle(desk.tenant, admission, tokens=10)
    assert desk.ledger().tokens == 13


def test_settle_against_endless_rivals_gives_up() -> None:
    store = RivalStore(0)
    desk = Desk(Limits(daily_tokens=100), store)
    admission = desk.admit()
    store.rivals = 1000
    desk.desk.settle(desk.tenant, admission, tokens=10)
    assert store.rivals == 984


def test_admit_against_endless_rivals_is_overloaded() -> None:
    store = RivalStore(1000)
    store.items["ledger/acme"] = encode_ledger(Ledger(), "w")
    with pytest.raises(OverloadedError, match="at the same moment"):
        Desk(Limits(daily_requests=100), store).admit()


def test_admit_when_the_creator_of_the_ledger_died_does_not_wait_for_ever() -> None:
    desk = Desk(Limits(daily_requests=5))
    desk.store.increment("ledger/acme!", 1)
    assert desk.admit().metered
    assert desk.ledger().requests == 1


@pytest.mark.parametrize("raw", [b"", b"junk", b"[]", b'{"f":"x"}', b'{"s":[]}', b"\xff"])
def test_ledger_unreadable_counts_as_new(raw: bytes) -> None:
    assert decode_ledger(raw) == Ledger()


def test_ledger_round_trip_keeps_everything() -> None:
    ledger = Ledger(1, 2, 3, 4, 5, {"a": 6})
    raw = encode_ledger(ledger, "w1")
    assert decode_ledger(raw) == ledger
    assert json.loads(raw)["w"] == "w1"
    assert raw != encode_ledger(ledger, "w2")


def test_ledger_clock_back_over_midnight_keeps_the_counters() -> None:
    day_s = 86_400.0
    ledger, refusal, _ = admit(Ledger(), Limits(daily_requests=1), 10 * day_s + 5, None)
    assert refusal is None
    _, refusal, _ = admit(ledger, Limits(daily_requests=1), 10 * day_s - 5, None)
    assert refusal is not None
    _, refusal, _ = admit(ledger, Limits(daily_requests=1), 11 * day_s, None)
    assert refusal is None


@pytest.mark.parametrize("like_spin", [False, True])
def test_admit_from_many_threads_admits_exactly_the_burst(like_spin: bool) -> None:
    store = LockedStore(like_spin=like_spin)
    limits = Limits(rate_per_s=0.001, burst=40)
    admitted = []
    desks = [Desk(limits, store) for _ in range(8)]
    for number, desk in enumerate(desks):
        desk.desk = AdmissionDesk(store, FakeClock(), Dice(number))
    start = threading.Barrier(len(desks))

    def call(desk: Desk) -> None:
        start.wait()
        for _ in range(10):
            try:
                admitted.append(desk.admit())
            except LimitExceededError:
                continue

    threads = [threading.Thread(target=call, args=(desk,)) for desk in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 40


def test_concurrency_from_many_threads_never_exceeds_the_limit() -> None:
    store = LockedStore()
    limits = Limits(concurrency=3)
    lock = threading.Lock()
    at_work = peak = served = 0

    def call(seed: int) -> None:
        nonlocal at_work, peak, served
        desk = Desk(limits, store)
        desk.desk = AdmissionDesk(store, FakeClock(), Dice(seed))
        for _ in range(20):
            try:
                admission = desk.admit(hold_s=60)
            except (LimitExceededError, OverloadedError):
                continue
            with lock:
                at_work += 1
                peak = max(peak, at_work)
                served += 1
            with lock:
                at_work -= 1
            desk.desk.settle(desk.tenant, admission)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert peak <= 3
    assert served > 0
    assert decode_ledger(store.items["ledger/acme"]).slots == {}


limits_strategy = st.builds(
    Limits,
    rate_per_s=st.none() | st.sampled_from([0.5, 5.0]),
    burst=st.integers(1, 5),
    concurrency=st.none() | st.integers(1, 3),
    daily_requests=st.none() | st.integers(1, 10),
    daily_tokens=st.none() | st.integers(1, 50),
)
events = st.lists(
    st.tuples(st.sampled_from(["admit", "hit", "settle"]), st.integers(0, 3000)), max_size=60
)


@given(limits_strategy, events)
def test_admit_keeps_every_limit_in_any_order_of_events(
    limits: Limits, happenings: list[tuple[str, int]]
) -> None:
    ledger, now_s, requests, tokens = Ledger(), NOW_S, 0, 0
    held: list[str] = []
    for number, (kind, gap_ms) in enumerate(happenings):
        now_s += gap_ms / 1000
        if kind == "settle":
            freed = held.pop() if held else "none"
            ledger = settle(ledger, now_s, slot=freed, tokens=7, cost_micro=1)
            tokens += 7
            continue
        slot = (f"s{number}", int((now_s + 10_000) * 1000)) if kind == "admit" else None
        ledger, refusal, uses = admit(ledger, limits, now_s, slot)
        assert all(use.remaining >= 0 for use in uses)
        if refusal is not None:
            assert refusal.retry_after_s > 0
            continue
        requests += 1
        if slot and limits.concurrency is not None:
            held.append(slot[0])
            assert len(held) <= limits.concurrency
    assert limits.daily_requests is None or requests <= limits.daily_requests
    assert ledger.tokens == tokens

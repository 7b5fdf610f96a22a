import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.policy.cache_key import CacheKey, derive_key
from edgekit.policy.lease import (
    GROWTH,
    MAX_LOOKS,
    Lease,
    LeaseState,
    Role,
    decode_lease,
    ended_lease,
    lease_key,
    poll_times_s,
)
from fakes.edge_faults import FaultyStore, Interleaving, ScheduledStore
from fakes.edge_ports import FakeClock, MemoryStore

KEY = derive_key(tenant="acme", route="classify", request=[b"a"], model_digest="d1")
OTHER = CacheKey(KEY.address, "0" * 64)
NOW_S = FakeClock().now_s()


def _acquire(
    store: MemoryStore,
    key: CacheKey = KEY,
    clock: FakeClock | None = None,
    owner: str = "me",
    hold_s: float = 10,
) -> Lease:
    seen = store.items.get(lease_key(key))
    return Lease.acquire(store, clock or FakeClock(), key, seen, owner=owner, hold_s=hold_s)


@pytest.fixture
def used() -> MemoryStore:
    """A store whose lease was taken and ended before."""
    store = MemoryStore()
    store.items[lease_key(KEY)] = ended_lease()
    return store


def test_acquire_free_lease_makes_a_leader_with_one_operation(used: MemoryStore) -> None:
    assert _acquire(used).role is Role.LEADER
    assert used.calls == ["compare_and_swap"]


def test_acquire_lease_in_force_makes_a_follower_without_operation(used: MemoryStore) -> None:
    _acquire(used)
    used.calls.clear()
    lease = _acquire(used, owner="you")
    assert (lease.role, lease.state.owner) == (Role.FOLLOWER, "me")
    assert used.calls == []


def test_acquire_key_busy_with_another_request_goes_alone(used: MemoryStore) -> None:
    _acquire(used)
    assert _acquire(used, OTHER).role is Role.ALONE


def test_acquire_ended_lease_is_free_again(used: MemoryStore) -> None:
    _acquire(used)
    used.set(lease_key(KEY), ended_lease())
    assert _acquire(used).role is Role.LEADER


def test_acquire_leader_that_died_blocks_nobody_beyond_its_deadline(used: MemoryStore) -> None:
    clock = FakeClock()
    _acquire(used, clock=clock, hold_s=2)
    clock.advance(1.9)
    assert _acquire(used, clock=clock).role is Role.FOLLOWER
    clock.advance(0.1)
    assert _acquire(used, clock=clock).role is Role.LEADER


def test_acquire_lease_from_the_future_does_not_bind(used: MemoryStore) -> None:
    clock = FakeClock()
    _acquire(used, clock=clock)
    clock.wall_s -= 3600
    assert _acquire(used, clock=clock).role is Role.LEADER


def test_acquire_lost_to_a_quicker_instance_follows_it(used: MemoryStore) -> None:
    seen = used.get(lease_key(KEY))
    _acquire(used, owner="quick")
    lease = Lease.acquire(used, FakeClock(), KEY, seen, owner="slow", hold_s=9)
    assert (lease.role, lease.state.owner) == (Role.FOLLOWER, "quick")


def test_acquire_lost_to_a_lease_that_has_ended_already_goes_alone(used: MemoryStore) -> None:
    seen = used.get(lease_key(KEY))
    used.set(lease_key(KEY), b'["","x",0,0]')
    lease = Lease.acquire(used, FakeClock(), KEY, seen, owner="slow", hold_s=9)
    assert lease.role is Role.ALONE


def test_acquire_without_store_goes_alone() -> None:
    assert _acquire(FaultyStore("increment")).role is Role.ALONE


def test_acquire_first_use_whose_creator_died_is_taken_over() -> None:
    store, clock = MemoryStore(), FakeClock()
    store.increment(f"{lease_key(KEY)}!", 1)
    assert _acquire(store, clock=clock).role is Role.LEADER
    assert clock.slept == [0.005]
    assert _acquire(store, owner="you").role is Role.FOLLOWER


def test_acquire_hold_is_bounded(used: MemoryStore) -> None:
    assert _acquire(used, hold_s=1e9).state.ends_s == NOW_S + 120


@given(st.data())
def test_acquire_by_many_instances_at_once_has_one_leader(data: st.DataObject) -> None:
    warm = data.draw(st.booleans())
    roles: list[Role] = []
    # A creator that has not written yet within the waiting time would count as dead; so in a cold
    # start its claim and its write stay together here.
    run = Interleaving(lambda living: data.draw(st.integers(0, living - 1)), lambda _: False)
    if warm:
        run.items[lease_key(KEY)] = ended_lease()

    def instance(owner: str, store: ScheduledStore) -> None:
        [seen] = store.get_many([lease_key(KEY)])
        roles.append(Lease.acquire(store, FakeClock(), KEY, seen, owner=owner, hold_s=9).role)

    run.run([lambda store, n=n: instance(f"o{n}", store) for n in range(4)])  # type: ignore[misc]
    assert roles.count(Role.LEADER) >= 1
    if warm:
        assert roles.count(Role.LEADER) == 1
        assert roles.count(Role.FOLLOWER) == 3


@pytest.mark.parametrize("raw", [None, b"", b"junk", b"[1]", b"{}", b'["","",null,0]', b"\xff"])
def test_lease_unreadable_is_free(raw: bytes | None) -> None:
    assert not decode_lease(raw).live(NOW_S)


def test_lease_keys_are_bounded_in_number() -> None:
    keys = {
        lease_key(derive_key(tenant="t", route="r", request=[b"%d" % n], model_digest="d"))
        for n in range(5000)
    }
    assert len(keys) <= 1024


def _polls(predicted_ms: float | None, ends_in_s: float, budget_s: float = 100) -> list[float]:
    state = LeaseState("i", "o", NOW_S, NOW_S + ends_in_s)
    return list(poll_times_s(state, now_s=NOW_S, predicted_ms=predicted_ms, budget_s=budget_s))


def test_poll_times_begin_when_the_leader_should_be_done_and_end_with_the_lease() -> None:
    pauses = _polls(100.0, 2.7)
    assert pauses[0] == pytest.approx(0.1)
    assert sum(pauses) == pytest.approx(2.7)


def test_poll_times_make_a_follower_late_by_a_bounded_share_of_the_leaders_time() -> None:
    looks = list(itertools.accumulate(_polls(20.0, 120, budget_s=60)))
    for leader_s in (0.02, 0.05, 0.3, 1.0, 5.0, 17.0, 59.0):
        seen_s = next(look for look in looks if look >= leader_s)
        assert seen_s <= leader_s * GROWTH + 1e-9


def test_poll_times_without_prediction_begin_soon() -> None:
    assert _polls(None, 10)[0] == pytest.approx(0.02)


def test_poll_times_end_with_the_followers_own_budget() -> None:
    assert sum(_polls(100.0, 60, budget_s=0.5)) == pytest.approx(0.5)


def test_poll_times_of_an_ended_lease_are_none() -> None:
    assert _polls(100.0, 0) == []


def test_poll_times_that_coincide_are_made_once() -> None:
    assert _polls(5000.0, 1.0) == [pytest.approx(1.0)]


@given(st.none() | st.floats(0, 1e5), st.floats(0.001, 120), st.floats(0.001, 120))
def test_poll_times_are_few_and_never_outlast_lease_or_budget(
    predicted_ms: float | None, ends_in_s: float, budget_s: float
) -> None:
    pauses = _polls(predicted_ms, ends_in_s, budget_s)
    assert 1 <= len(pauses) <= MAX_LOOKS
    assert all(pause > 0 for pause in pauses)
    assert sum(pauses) <= min(ends_in_s, budget_s) * (1 + 1e-6) + 1e-6

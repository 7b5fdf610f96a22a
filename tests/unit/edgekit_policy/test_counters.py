import pytest

from edgekit.policy.counters import create_once, read_counter
from fakes.edge_ports import MemoryStore


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (None, 0),
        (b"", 0),
        ((7).to_bytes(8, "little"), 7),
        ((-2).to_bytes(8, "little", signed=True), -2),
        (b"42", 42),
        (b"-3", -3),
        (b"12345678", 12345678),
        (b"garbage", 0),
        (b"-", 0),
    ],
)
def test_counter_reads_back_from_sqlite_and_redis_alike(raw: bytes | None, value: int) -> None:
    assert read_counter(raw) == value


def test_counter_that_was_incremented_reads_back() -> None:
    store = MemoryStore()
    for _ in range(3):
        store.increment("n", 2)
    assert read_counter(store.get("n")) == 6


def test_create_once_has_one_winner_who_sets_the_value() -> None:
    store = MemoryStore()
    assert [create_once(store, "k", value) for value in (b"a", b"b", b"c")] == [True, False, False]
    assert store.get("k") == b"a"

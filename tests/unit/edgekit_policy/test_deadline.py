import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import DeadlineExceededError, InvalidInputError
from edgekit.http import Headers
from edgekit.policy.deadline import Deadline, parse_budget_ms
from edgekit.ports import Timeouts
from fakes.edge_ports import FakeClock


@pytest.mark.parametrize(
    ("field", "budget_ms"),
    [
        (None, 5000),
        ("250", 250),
        (" 250 ", 250),
        ("0001", 1),
        ("60000", 60_000),
        ("60001", 60_000),
        ("9" * 4000, 60_000),
    ],
)
def test_budget_is_the_clients_within_bounds(field: str | None, budget_ms: int) -> None:
    headers = Headers([] if field is None else [("Inference-Deadline-Ms", field)])
    assert parse_budget_ms(headers, default_ms=5000, maximum_ms=60_000) == budget_ms


def test_budget_default_obeys_the_maximum() -> None:
    assert parse_budget_ms(Headers(), default_ms=5000, maximum_ms=100) == 100


@pytest.mark.parametrize("field", ["", "0", "00", "-5", "1.5", "1e3", "soon", "٣", "5, 6"])
def test_budget_that_is_no_positive_integer_is_invalid(field: str) -> None:
    headers = Headers([("Inference-Deadline-Ms", field)])
    with pytest.raises(InvalidInputError, match="not a positive number") as caught:
        parse_budget_ms(headers, default_ms=1, maximum_ms=9)
    assert caught.value.param == "Inference-Deadline-Ms"


def test_deadline_counts_down_and_never_below_zero() -> None:
    clock = FakeClock()
    deadline = Deadline(clock, 1000)
    clock.advance(0.4)
    assert deadline.elapsed_ms() == pytest.approx(400)
    assert deadline.remaining_ms() == pytest.approx(600)
    clock.advance(10)
    assert deadline.remaining_s() == 0


def test_deadline_check_raises_once_the_budget_is_spent() -> None:
    clock = FakeClock()
    deadline = Deadline(clock, 1000)
    deadline.check("waiting")
    clock.advance(1)
    with pytest.raises(DeadlineExceededError, match="1000 ms ran out while waiting"):
        deadline.check("waiting")


def test_deadline_ignores_jumps_of_the_wall_clock() -> None:
    clock = FakeClock()
    deadline = Deadline(clock, 1000)
    clock.wall_s += 86_400
    assert deadline.remaining_ms() == pytest.approx(1000)


@given(st.integers(1, 600_000), st.floats(0, 1))
def test_deadline_timeouts_never_exceed_what_is_left(budget_ms: int, spent: float) -> None:
    clock = FakeClock()
    deadline = Deadline(clock, budget_ms)
    clock.advance(budget_ms / 1000 * spent * 0.99)
    timeouts = deadline.timeouts()
    # A millisecond is the least that hosts tell from "without limit".
    left_s = max(deadline.remaining_s(), 0.001)
    assert timeouts.connect_s == timeouts.first_byte_s == timeouts.between_bytes_s == left_s
    headers = Headers()
    deadline.forward_to(headers)
    assert 1 <= int(headers.get("inference-deadline-ms") or 0) <= max(1, left_s * 1000)


def test_deadline_timeouts_keep_to_other_limits_and_to_the_reserve() -> None:
    deadline = Deadline(FakeClock(), 1000)
    timeouts = deadline.timeouts(Timeouts(0.2, 5.0, 0.3), reserve_s=0.4)
    assert timeouts.connect_s == 0.2
    assert timeouts.first_byte_s == pytest.approx(0.6)
    assert timeouts.between_bytes_s == 0.3
    assert timeouts.total_s == pytest.approx(0.6)


def test_deadline_may_have_begun_before_it_was_known() -> None:
    clock = FakeClock()
    started_s = clock.monotonic_s()
    clock.advance(0.4)
    assert Deadline(clock, 1000, started_s).remaining_ms() == pytest.approx(600)


def test_deadline_spent_gives_no_timeouts() -> None:
    clock = FakeClock()
    deadline = Deadline(clock, 1)
    clock.advance(1)
    with pytest.raises(DeadlineExceededError, match="calling the upstream"):
        deadline.timeouts()


def test_deadline_over_three_hops_is_never_multiplied() -> None:
    clock = FakeClock()
    total_s = clock.monotonic_s()
    headers = Headers([("inference-deadline-ms", "1000")])
    for _ in range(3):
        deadline = Deadline(clock, parse_budget_ms(headers, default_ms=9999, maximum_ms=9999))
        clock.advance(deadline.remaining_s() / 2)
        deadline.forward_to(headers)
    assert clock.monotonic_s() - total_s < 1.0

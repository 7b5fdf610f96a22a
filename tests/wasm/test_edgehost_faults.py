"""A faulty guest costs one request: traps, limits, cancellation, and what is left behind."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from edgehost.errors import (
    ConfigError,
    GuestCancelledError,
    GuestError,
    GuestExitError,
    GuestTimeoutError,
    GuestTrapError,
)
from edgehost.keyvalue.memory import MemoryStore
from edgehost.ports import ComponentSpec, InstanceLimits, Store
from edgehost.wasm import Cancellation, CompiledComponent, WasmEngine
from fakes.edgehost_http import MemoryBody, MemorySink, request
from fakes.edgehost_runner import GuestHarness

pytestmark = pytest.mark.wasm

MEBIBYTE = 1 << 20


class OneStore:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def open(self, label: str) -> Store:
        return self.store


def assert_healthy(guest: GuestHarness) -> None:
    """The runner still serves, and nothing of earlier instances is left."""
    assert guest.run("/hello").body == b"hello"
    assert guest.runner._linker.guests == {}


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/raises", GuestTrapError, "wasm `unreachable` instruction executed"),
        ("/exits", GuestExitError, "the guest exited with status 1"),
        ("/empty-poll", GuestTrapError, "empty poll list"),
        ("/no-response", GuestError, "failed to produce a response prior to returning"),
        ("/error-code", GuestError, "failed to produce a response: internal-error(told so)"),
        ("/too-many-handles", GuestTrapError, "the guest holds too many resources"),
        ("/unknown-scenario", GuestTrapError, "wasm `unreachable` instruction executed"),
    ],
)
def test_guest_that_fails_before_its_answer_costs_one_request(
    probe: Any, path: str, kind: type[GuestError], text: str
) -> None:
    with probe() as guest:
        sink = guest.run(path)

        assert isinstance(sink.error, kind)
        assert text in str(sink.error)
        assert sink.status is None
        assert_healthy(guest)


@pytest.mark.parametrize(
    "path",
    [
        "/body-unfinished",
        "/body-too-short",
        "/body-too-long",
        "/write-after-finish",
        "/large-write",
        "/write-over-budget",
    ],
)
def test_body_that_ends_wrongly_is_aborted(probe: Any, path: str) -> None:
    with probe() as guest:
        sink = guest.run(path)

        assert sink.status == 200
        assert sink.writer.aborted
        assert not sink.writer.finished
        assert_healthy(guest)


def test_body_of_the_wrong_length_tells_the_guest(probe: Any) -> None:
    with probe() as guest:
        guest.run("/body-too-short")
        guest.run("/body-too-long")
        lines = [line for _, _, line in guest.lines]

    assert lines == ['["HttpResponseBodySize", 5]'] + ['["HttpResponseBodySize", 8]'] * 2


def test_second_answer_traps_and_leaves_the_first(
    probe: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with probe() as guest, caplog.at_level(logging.WARNING, "edgehost"):
        sink = guest.run("/set-twice")

        assert (sink.status, sink.writer.finished, sink.error) == (200, True, None)
        assert "component probe: error after response started" in caplog.text
        assert_healthy(guest)


@pytest.mark.parametrize("path", ["/loops", "/sleeps", "/spins-on-ready"])
def test_guest_past_its_deadline_is_stopped(probe: Any, path: str) -> None:
    with probe(limits=InstanceLimits(request_timeout_s=1.0)) as guest:
        sink = guest.run(path)

        assert isinstance(sink.error, GuestTimeoutError)
        assert str(sink.error) == "the guest ran longer than 1 s"
        assert_healthy(guest)


def test_guest_past_its_deadline_in_mid_body_breaks_the_body(probe: Any) -> None:
    with probe(limits=InstanceLimits(request_timeout_s=1.0)) as guest:
        sink = guest.run("/loops-after-head")

        assert (sink.status, sink.body) == (200, b"begun")
        assert sink.writer.aborted


def test_request_body_that_never_comes_ends_at_the_deadline(probe: Any) -> None:
    body = MemoryBody(ended=False)
    with probe(limits=InstanceLimits(request_timeout_s=0.2)) as guest:
        sink = guest.run("", request("/echo", method="POST", body=body))

    assert isinstance(sink.error, GuestTimeoutError)
    assert body.cancelled


def test_memory_limit_gives_the_guest_a_memory_error(probe: Any) -> None:
    with probe(limits=InstanceLimits(memory_bytes=64 * MEBIBYTE)) as guest:
        assert guest.run("/hogs").body == b"MemoryError"
        assert_healthy(guest)


def test_memory_limit_below_the_component_stops_the_start(probe: Any) -> None:
    with (
        pytest.raises(ConfigError, match=r"component 'probe': cannot instantiate .*memory"),
        probe(limits=InstanceLimits(memory_bytes=MEBIBYTE), prewarm=1),
    ):
        pass


def test_deep_recursion_is_the_guests_own_error(probe: Any) -> None:
    with probe() as guest:
        assert guest.run("/recurses").body == b"RecursionError"


def test_instances_share_nothing(probe: Any) -> None:
    stores = OneStore()
    with probe(key_value_stores=frozenset({"default"}), stores=stores) as guest:
        answers = [guest.run("/leaks").body for _ in range(3)]

        assert answers == [b"3", b"3", b"3"]
        assert_healthy(guest)


@pytest.mark.parametrize("path", ["/loops", "/sleeps"])
def test_cancelled_guest_ends_at_once(probe: Any, path: str) -> None:
    with probe() as guest:
        running = guest.start(path)
        while not guest.runner._linker.guests:
            running.thread.join(0.001)
        running.cancellation.cancel()
        running.join()

        assert isinstance(running.sink.error, GuestCancelledError)
        assert_healthy(guest)


def test_request_cancelled_before_it_starts_never_waits(probe: Any) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with probe() as guest:
        sink = guest.run("/sleeps", cancelled=cancellation)

    assert isinstance(sink.error, GuestCancelledError)


def test_plain_function_cancels_a_waiting_guest(probe: Any) -> None:
    answers = iter([False, False])
    with probe() as guest:
        sink = guest.run("/sleeps", cancelled=lambda: next(answers, True))

    assert isinstance(sink.error, GuestCancelledError)


def test_cancellation_after_the_answer_is_not_logged(
    probe: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with probe() as guest, caplog.at_level(logging.WARNING, "edgehost"):
        running = guest.start("/loops-after-head")
        assert running.sink.started.wait(60)
        running.cancellation.cancel()
        running.join()

    assert running.sink.writer.aborted
    assert caplog.text == ""


def make_guest(
    engine: WasmEngine, compiled: CompiledComponent, *, prewarm: int = 0, timeout_s: float = 30.0
) -> GuestHarness:
    limits = InstanceLimits(request_timeout_s=timeout_s)
    spec = ComponentSpec("probe", compiled.source, limits=limits)
    return GuestHarness(engine, compiled, spec, prewarm=prewarm)


@pytest.fixture
def small_engine(probe_component: CompiledComponent) -> Any:
    """An engine for two instances, and the probe compiled for it."""
    from fakes.guest_builder import BUILD_DIR

    engine = WasmEngine(cache_dir=BUILD_DIR / "compiled", pool_size=2)
    compiled = engine.load(probe_component.source)
    yield engine, compiled
    engine.close()


def test_request_beyond_the_pool_waits_for_a_slot(small_engine: Any) -> None:
    engine, compiled = small_engine
    with make_guest(engine, compiled) as guest:
        running = [guest.start("/sleeps") for _ in range(2)]
        while len(guest.runner._linker.guests) < 2:
            running[0].thread.join(0.001)
        waiting = guest.start("/hello")
        running[0].cancellation.cancel()
        waiting.join()
        running[1].cancellation.cancel()
        for other in running:
            other.join()

    assert waiting.sink.body == b"hello"


def test_request_beyond_the_pool_fails_when_no_slot_comes_free(small_engine: Any) -> None:
    engine, compiled = small_engine
    with (
        make_guest(engine, compiled) as busy,
        make_guest(engine, compiled, timeout_s=0.05) as late,
    ):
        running = [busy.start("/sleeps") for _ in range(2)]
        while len(busy.runner._linker.guests) < 2:
            running[0].thread.join(0.001)
        body = MemoryBody(ended=False)
        sink = late.run("", request("/hello", body=body))
        for other in running:
            other.cancellation.cancel()
            other.join()

    assert isinstance(sink.error, GuestError)
    assert str(sink.error) == "no instance became free in time: too many requests are running"
    assert body.cancelled


def test_idle_instance_gives_way_to_another_components_request(small_engine: Any) -> None:
    engine, compiled = small_engine
    with make_guest(engine, compiled, prewarm=2) as hoarder, make_guest(engine, compiled) as other:
        assert len(hoarder.runner._linker.guests) == 2

        assert other.run("/hello").body == b"hello"
        assert hoarder.run("/hello").body == b"hello"


def test_instances_are_made_ahead_of_requests(small_engine: Any) -> None:
    engine, compiled = small_engine
    with make_guest(engine, compiled, prewarm=1) as guest:
        (ready,) = guest.runner._linker.guests.values()
        guest.run("/hello")
        (next_ready,) = guest.runner._linker.guests.values()

    assert ready is not next_ready


def test_close_waits_for_running_requests(probe: Any) -> None:
    body = MemoryBody(ended=False)
    with probe() as guest:
        running = guest.start("", request("/echo", method="POST", body=body))
        while not guest.runner._linker.guests:
            running.thread.join(0.001)
        body.feed(b"late")
        body.end()
    running.join()

    assert running.sink.body == b"late"


def test_request_after_close_is_refused(probe: Any) -> None:
    with probe() as guest:
        pass

    sink = guest.run("/hello", sink=MemorySink())

    assert str(sink.error) == "component 'probe' is shutting down"

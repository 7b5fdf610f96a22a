import json
from collections.abc import Iterator

import pytest

from edgekit.http import Headers
from edgekit.policy.delivery import DeliveryRule, Recorder, encode_batch
from edgekit.policy.spool import Appended, Batch, Spool, SpoolShape
from edgekit.ports import UpstreamError, UpstreamRequest, UpstreamResponse
from fakes.edge_faults import FaultyStore
from fakes.edge_ports import CountingRandom, FakeClock, MemoryStore

RULE = DeliveryRule("http://backend.test:8080/v1/records", rounds=3)


class RecordsBackend:
    """Answers deliveries as told; keeps what arrived."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.requests: list[UpstreamRequest] = []
        self.status = 200
        self.refuses = False
        self.takes_s = 0.0

    def send(self, request: UpstreamRequest) -> UpstreamResponse:
        self.requests.append(request)
        self.clock.advance(self.takes_s)
        if self.refuses:
            raise UpstreamError("connection refused")

        def chunks() -> Iterator[bytes]:
            yield b"{}"

        return UpstreamResponse(self.status, Headers(), chunks())

    def records(self) -> list[str]:
        return [
            record["id"]
            for request in self.requests
            if isinstance(request.body, bytes)
            for record in json.loads(request.body)["records"]
        ]


class Setup:
    def __init__(self, store: MemoryStore | None = None, batch: int = 2) -> None:
        self.store = store or MemoryStore()
        self.clock = FakeClock()
        self.backend = RecordsBackend(self.clock)
        spool = Spool(self.store, CountingRandom(), SpoolShape(batch=batch))
        self.spool = spool
        self.recorder = Recorder(spool, self.store, self.backend, self.clock, RULE)

    def record(self, *names: str) -> None:
        for name in names:
            assert self.recorder.record(json.dumps({"id": name}).encode()) is Appended.ACCEPTED


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_flush_delivers_several_batches_per_turn(setup: Setup) -> None:
    setup.record(*"abcdefgh")
    assert setup.recorder.flush_if_due() == 6
    assert setup.backend.records() == list("abcdef")


def test_flush_request_carries_an_idempotency_key_and_a_deadline(setup: Setup) -> None:
    setup.record("a")
    setup.recorder.flush_if_due()
    [request] = setup.backend.requests
    assert request.method == "POST"
    assert request.url == RULE.url
    assert len(request.headers.get("idempotency-key") or "") == 64
    assert request.timeouts.first_byte_s <= 5
    assert isinstance(request.body, bytes)
    document = json.loads(request.body)
    assert document["dropped"] == 0
    assert document["spool"]


def test_flush_again_within_the_interval_is_not_due(setup: Setup) -> None:
    setup.record("a")
    setup.recorder.flush_if_due()
    setup.record("b")
    setup.store.calls.clear()
    assert setup.recorder.flush_if_due() == 0
    assert setup.store.calls == ["get"]
    setup.clock.advance(1)
    assert setup.recorder.flush_if_due() == 1


@pytest.mark.parametrize("refuses", [True, False])
def test_flush_backend_away_backs_off_and_delivers_when_it_is_back(
    setup: Setup, refuses: bool
) -> None:
    setup.record("a")
    setup.backend.refuses = refuses
    setup.backend.status = 503
    tries_s = []
    for second in range(120):
        attempts = len(setup.backend.requests)
        assert setup.recorder.flush_if_due() == 0
        if len(setup.backend.requests) > attempts:
            tries_s.append(second)
        setup.clock.advance(1)
    assert tries_s == [0, 1, 3, 7, 15, 31, 61, 91]
    setup.backend.refuses = False
    setup.backend.status = 200
    setup.clock.advance(31)
    assert setup.recorder.flush_if_due() == 1
    assert setup.spool.depth() == 0


def test_flush_by_two_instances_at_once_delivers_once(setup: Setup) -> None:
    setup.record("a")
    setup.store.items["spool/turn"] = b"[0, 0]"

    class Rival(MemoryStore):
        def get(self, key: str) -> bytes | None:
            value = super().get(key)
            if key == "spool/turn":
                setup.recorder.flush_if_due()
            return value

    rival = Rival()
    rival.items = setup.store.items
    spool = Spool(rival, CountingRandom(), SpoolShape())
    assert Recorder(spool, rival, setup.backend, setup.clock, RULE).flush_if_due() == 0
    assert setup.backend.records() == ["a"]


def test_flush_turn_that_died_lapses(setup: Setup) -> None:
    setup.record("a")
    until_s = setup.clock.now_s() + 10
    setup.store.items["spool/turn"] = json.dumps([until_s, 0]).encode()
    assert setup.recorder.flush_if_due() == 0
    setup.clock.advance(10)
    assert setup.recorder.flush_if_due() == 1


@pytest.mark.parametrize("raw", [b"junk", b"[1]", b"{}", b'["x", 1]'])
def test_flush_unreadable_turn_is_due(setup: Setup, raw: bytes) -> None:
    setup.record("a")
    setup.store.items["spool/turn"] = raw
    assert setup.recorder.flush_if_due() == 1


def test_flush_turn_from_the_future_is_due(setup: Setup) -> None:
    setup.record("a")
    setup.store.items["spool/turn"] = json.dumps([setup.clock.now_s() + 3600, 0]).encode()
    assert setup.recorder.flush_if_due() == 1


def test_flush_ends_when_its_time_is_spent(setup: Setup) -> None:
    setup.record(*"abcdef")
    setup.backend.takes_s = 6
    assert setup.recorder.flush_if_due() == 2
    assert len(setup.backend.requests) == 1


def test_flush_without_store_does_nothing() -> None:
    assert Setup(FaultyStore("get")).recorder.flush_if_due() == 0


def test_record_the_store_cannot_take_goes_to_the_backend_directly() -> None:
    setup = Setup(FaultyStore("set"))
    assert setup.recorder.record(b'{"id":"a"}') is Appended.ACCEPTED
    assert setup.backend.records() == ["a"]


def test_record_with_store_and_backend_away_is_lost_and_says_so() -> None:
    setup = Setup(FaultyStore("set"))
    setup.backend.refuses = True
    assert setup.recorder.record(b'{"id":"a"}') is None


def test_deliver_without_time_left_sends_nothing() -> None:
    setup = Setup()
    rule = DeliveryRule(RULE.url, budget_ms=0)
    store = FaultyStore("set")
    spool = Spool(store, CountingRandom(), SpoolShape())
    recorder = Recorder(spool, store, setup.backend, setup.clock, rule)
    assert recorder.record(b'{"id":"a"}') is None
    assert setup.backend.requests == []


@pytest.mark.parametrize("records", [(), (b'{"id":"a"}',), (b'{"id":"a"}', b'{"id":"b"}')])
def test_batch_is_one_json_object(records: tuple[bytes, ...]) -> None:
    document = json.loads(encode_batch(Batch("name", 3, records)))
    assert (document["spool"], document["dropped"]) == ("name", 3)
    assert len(document["records"]) == len(records)

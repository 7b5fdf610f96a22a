"""When to hand spooled records to the backend, and how.

Records are flushed after a response, by whichever instance finds that it is time. A turn, taken
by compare-and-swap, keeps instances from delivering the same records at once (which would be
harmless but useless), spaces deliveries out, and backs off while the backend is away.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from edgekit.http import Headers
from edgekit.policy.deadline import Deadline
from edgekit.policy.spool import Appended, Batch, Spool
from edgekit.ports import (
    Clock,
    HttpClient,
    KeyValueStore,
    StoreUnavailableError,
    UpstreamError,
    UpstreamRequest,
)

__all__ = ["DeliveryRule", "Recorder", "encode_batch"]

_TURN = "spool/turn"
_MAX_ANSWER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class DeliveryRule:
    """How deliveries are paced.

    Attributes:
        url: The backend's records endpoint.
        interval_s: Least time between two turns while all is well.
        budget_ms: Time one turn may take; its claim lapses after twice that.
        rounds: Batches per turn, so that a backlog drains faster than it grows.
        max_backoff_s: Longest pause while the backend is away; doubled up to there from 1 s.
    """

    url: str
    interval_s: float = 1.0
    budget_ms: int = 5_000
    rounds: int = 8
    max_backoff_s: float = 30.0


@dataclass(frozen=True, slots=True)
class _Turn:
    """Until when nobody else need try, and how many turns in a row failed."""

    until_s: float = 0.0
    failures: int = 0


class Recorder:
    """Writes records down, and passes them on when it is time. Never raises, never blocks long."""

    def __init__(
        self,
        spool: Spool,
        store: KeyValueStore,
        http: HttpClient,
        clock: Clock,
        rule: DeliveryRule,
    ) -> None:
        self._spool = spool
        self._store = store
        self._http = http
        self._clock = clock
        self._rule = rule

    def record(self, record: bytes) -> Appended | None:
        """Accept one record; None when it is lost: the store and the backend are both away.

        A record the store cannot take goes to the backend directly. Should the store have kept it
        after all, its id makes the second delivery a duplicate.
        """
        try:
            return self._spool.append(record)
        except StoreUnavailableError:
            deadline = Deadline(self._clock, self._rule.budget_ms)
            sent = self._deliver(Batch("", 0, (record,)), deadline)
            return Appended.ACCEPTED if sent else None

    def flush_if_due(self) -> int:
        """Deliver what waits, when it is this instance's turn; how many numbers were settled."""
        try:
            raw = self._store.get(_TURN)
            turn = _decode(raw)
            now_s = self._clock.now_s()
            if now_s < turn.until_s <= now_s + self._longest_s():
                return 0
            claim = _encode(_Turn(now_s + self._rule.budget_ms / 500, turn.failures))
            if not self._store.compare_and_swap(_TURN, raw, claim):
                return 0
            return self._take_turn(turn)
        except StoreUnavailableError:
            return 0

    def _take_turn(self, turn: _Turn) -> int:
        deadline = Deadline(self._clock, self._rule.budget_ms)
        failed = False
        settled = 0

        def deliver(batch: Batch) -> bool:
            nonlocal failed
            failed = not self._deliver(batch, deadline)
            return not failed

        for _ in range(self._rule.rounds):
            moved = self._spool.flush(deliver)
            settled += moved
            if not moved or deadline.remaining_s() <= 0:
                break
        failures = turn.failures + 1 if failed else 0
        pause_s = self._rule.interval_s
        if failed:
            pause_s = min(self._rule.max_backoff_s, 2.0 ** min(turn.failures, 16))
        self._store.set(_TURN, _encode(_Turn(self._clock.now_s() + pause_s, failures)))
        return settled

    def _deliver(self, batch: Batch, deadline: Deadline) -> bool:
        body = encode_batch(batch)
        headers = Headers(
            [
                ("content-type", "application/json"),
                ("idempotency-key", hashlib.sha256(body).hexdigest()),
            ]
        )
        if deadline.remaining_s() <= 0:
            return False
        request = UpstreamRequest("POST", self._rule.url, deadline.timeouts(), headers, body)
        try:
            response = self._http.send(request)
            response.read(_MAX_ANSWER_BYTES)
        except UpstreamError:
            return False
        return 200 <= response.status < 300

    def _longest_s(self) -> float:
        """A turn that ends later than this is the work of a clock that jumped."""
        return max(self._rule.max_backoff_s, self._rule.budget_ms / 500, self._rule.interval_s)


def encode_batch(batch: Batch) -> bytes:
    """Body of a delivery: the records as they were spooled, inside one JSON object."""
    head = json.dumps({"spool": batch.spool, "dropped": batch.dropped}, separators=(",", ":"))
    return b'%s,"records":[%s]}' % (head[:-1].encode(), b",".join(batch.records))


def _encode(turn: _Turn) -> bytes:
    return json.dumps([round(turn.until_s, 3), turn.failures]).encode()


def _decode(raw: bytes | None) -> _Turn:
    try:
        until_s, failures = json.loads(raw or b"[0, 0]")
        return _Turn(float(until_s), int(failures))
    except (ValueError, TypeError):
        return _Turn()

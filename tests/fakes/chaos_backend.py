"""A scripted backend that also keeps records, in the real book, and loses answers on demand."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from fakes.inference_backend import FakeBackend, FakeModel, Fault, Received, Reply, json_reply
from gpu_backend.records.book import RecordBook

__all__ = ["ChaosBackend"]

_HELD_S = 60.0


class ChaosBackend(FakeBackend):
    """Models `digits` (which the component has as well) and `pixels` (which it has not).

    Attributes:
        delay_s: Before every answer.
        open: Cleared, it holds infer calls back until it is set again.
        garbage: Infer calls are answered with something else.
        lose_answers: Every other delivery of records is kept, and its answer lost on the way.
    """

    def __init__(self, records: Path) -> None:
        super().__init__([FakeModel(), FakeModel(name="digits")])
        self.book = RecordBook(records)
        self.delay_s = 0.0
        self.open = threading.Event()
        self.open.set()
        self.garbage = False
        self.lose_answers = False
        self.override = self._chaos
        self._deliveries = 0
        self._lock = threading.Lock()

    def _chaos(self, received: Received) -> Reply | None:
        if self.delay_s:
            time.sleep(self.delay_s)
        if received.target.endswith("/infer"):
            self.open.wait(_HELD_S)
        if received.target == "/v1/records":
            return self._keep(received.body)
        if self.garbage:
            return Reply(200, [("content-type", "application/json")], b"\x00\xff garbage")
        return None

    def inference_calls(self) -> int:
        """How often it was asked for metadata or scores: all but deliveries of records."""
        return sum(call.target.startswith("/v2/") for call in list(self.received))

    def _keep(self, body: bytes) -> Reply:
        if self.fault is not Fault.NONE:
            return json_reply({}, 503)
        document = json.loads(body)
        with self._lock:
            self.book.add(document["records"], document["spool"], document["dropped"])
            self._deliveries += 1
            lost = self.lose_answers and self._deliveries % 2 == 0
        reply = json_reply({})
        if lost:
            reply.fault = Fault.RESET
        return reply

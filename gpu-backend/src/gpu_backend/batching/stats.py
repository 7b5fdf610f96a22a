"""What a model has done since it was loaded: plain numbers, written on the event loop alone."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

__all__ = ["BATCH_ROWS", "DURATION_S", "Histogram", "ModelStats"]

DURATION_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Bucket bounds in seconds: from a model that fits a cache to one that fills a GPU."""

BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Histogram:
    """Counts per bucket; much cheaper than a library's, which locks."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value` in the first bucket whose bound it does not exceed."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """Observations."""
        return sum(self.counts)


@dataclass(eq=False, slots=True)
class ModelStats:
    """Of one model; survives a change of its version.

    Attributes:
        executions: Runs of the runtime, by warm-up not counted.
        rows: Computed, in all executions.
        requests: Answered, by outcome: ``ok`` or the code of the error.
        collapsed: Requests that got the answer of an identical one in flight.
        dropped: Items nobody waited for any more, taken out before they ran.
        isolated: Batches that failed and were run again item by item.
        queue_s: Seconds from admission to execution, per item.
        compute_s: Seconds per execution.
        request_s: Seconds per request, from the complete body to the answer.
        batch_rows: Rows per execution.
        last_inference_ms: Wall-clock time of the last execution; 0 before the first.
    """

    executions: int = 0
    rows: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    collapsed: int = 0
    dropped: int = 0
    isolated: int = 0
    queue_s: Histogram = field(default_factory=lambda: Histogram(DURATION_S))
    compute_s: Histogram = field(default_factory=lambda: Histogram(DURATION_S))
    request_s: Histogram = field(default_factory=lambda: Histogram(DURATION_S))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(BATCH_ROWS))
    failed_s: float = 0.0
    last_inference_ms: int = 0

    def answered(self, outcome: str, seconds: float) -> None:
        """Count one request: `outcome` is ``ok`` or the code of an error."""
        self.requests[outcome] = self.requests.get(outcome, 0) + 1
        if outcome == "ok":
            self.request_s.observe(seconds)
        else:
            self.failed_s += seconds

"""What a warm-up learns: how long executions take, and how many rows are worth one.

Rows are measured in growing batches until the time for it is used up. Larger batches do not
always pay: a convolution whose activations leave the cache is slower by the row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.execution.datatypes import Array
from gpu_backend.execution.session import OnnxSession, TensorSpec
from gpu_backend.repository.manifest import Manifest, Warmup

__all__ = ["Calibration", "calibrate", "sample_feeds"]

_RUNS = 5
"""Per batch size; the best counts, because a busy machine only ever makes a run longer."""

_TOTAL_S = 1.0
"""For all sizes together: start-up should not wait longer for a number."""

_INLINE_BATCH_FACTOR = 10

_CAP_FROM_S = 0.001
"""Models faster than this are not capped: their batches are too short for a trustworthy rate."""

_CLEARLY_WORSE = 0.9

_AS_GOOD = 0.95


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured.

    Attributes:
        service: Expected durations.
        best_s: Rows and the best duration of an execution with so many, ascending.
        length: Units per row.
    """

    service: ServiceTime
    best_s: tuple[tuple[int, float], ...]
    length: int

    def inline_units(self, hint: bool | None, limit_s: float) -> float:
        """How many units an execution on the event loop may have.

        By the best times, not the expected ones: on a busy machine those would flutter.

        Args:
            hint: Of the manifest; None leaves it to the measurement.
            limit_s: What one item may take. A batch may take `_INLINE_BATCH_FACTOR` times as
                long: enough for a full batch of a small model, too short for others to notice.
        """
        if hint is not None:
            return float("inf") if hint else 0.0
        rows, first_s = self.best_s[0]
        if first_s > limit_s:
            return 0.0
        more_rows, more_s = self.best_s[-1]
        slope = max(0.0, more_s - first_s) / (more_rows - rows) if more_rows > rows else first_s
        spare_s = limit_s * _INLINE_BATCH_FACTOR - first_s
        return self.length * (rows + spare_s / slope) if slope else float("inf")

    def worthwhile_rows(self) -> int | None:
        """Batch size beyond which rows only become slower; None when there is no such size."""
        rates = [(rows, rows / seconds) for rows, seconds in self.best_s if seconds]
        if len(rates) < len(self.best_s) or self.best_s[0][1] < _CAP_FROM_S:
            return None
        best = max(rate for _, rate in rates)
        if rates[-1][1] >= _CLEARLY_WORSE * best:
            return None
        return next(rows for rows, rate in rates if rate >= _AS_GOOD * best)


def calibrate(manifest: Manifest, session: OnnxSession, batchable: bool) -> Calibration:
    """Run the manifest's first sample in growing batches.

    Raises:
        BackendError: A run failed.
    """
    service = ServiceTime()
    best: list[tuple[int, float]] = []
    length = 1
    end = perf_counter() + _TOTAL_S
    for rows in _sizes(manifest.batching.max_batch if batchable else 1):
        feeds = sample_feeds(session.inputs, replace(manifest.warmup[0], rows=rows))
        length = _length(manifest, session.inputs, feeds)
        session.run(feeds)  # the first of a new shape allocates
        best.append((rows, _best_time(session, feeds, service, rows * length, end)))
        if perf_counter() > end:
            break
    return Calibration(service, tuple(best), length)


def _sizes(most: int) -> list[int]:
    """1, 2, 4 … and `most`."""
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]


def _best_time(
    session: OnnxSession, feeds: dict[str, Array], service: ServiceTime, units: int, end: float
) -> float:
    times: list[float] = []
    while len(times) < _RUNS and (not times or perf_counter() < end):
        started = perf_counter()
        session.run(feeds)
        times.append(perf_counter() - started)
        service.observe(units, times[-1])
    return min(times)


def _length(manifest: Manifest, inputs: tuple[TensorSpec, ...], feeds: dict[str, Array]) -> int:
    padding = manifest.batching.padding
    if padding is None:
        return 1
    lengths = [
        feeds[spec.name].shape[padding.axis]
        for spec in inputs
        if len(spec.shape) > padding.axis and spec.shape[padding.axis] == -1
    ]
    return max(lengths, default=1)


def sample_feeds(inputs: tuple[TensorSpec, ...], sample: Warmup) -> dict[str, Array]:
    """Inputs for a warm-up run: `sample.rows` rows of what `sample.fill` says."""
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for spec in inputs:
        shape = [
            size if size >= 0 else _free(spec, axis, sample) for axis, size in enumerate(spec.shape)
        ]
        feeds[spec.name] = _filled(spec, shape, sample.fill, random)
    return feeds


def _free(spec: TensorSpec, axis: int, sample: Warmup) -> int:
    symbol = spec.symbols[axis]
    if symbol is not None and symbol in sample.dims:
        return sample.dims[symbol]
    return sample.rows if axis == 0 else 1


def _filled(spec: TensorSpec, shape: list[int], fill: str, random: np.random.Generator) -> Array:
    datatype = spec.datatype
    if datatype.kind == "text":
        return np.full(shape, "", dtype=object)
    if fill == "zeros":
        return np.zeros(shape, datatype.dtype)
    if fill == "ones":
        bits = 0x3F80 if datatype.name == "BF16" else 1
        return np.full(shape, bits, datatype.dtype)
    if datatype.kind == "float" and datatype.name != "BF16":
        return random.random(shape).astype(datatype.dtype)
    high = 256 if datatype.size == 1 and datatype.dtype.kind == "u" else 2
    return random.integers(0, high, shape).astype(datatype.dtype)

"""Power spectra in plain Python: a radix-2 FFT whose tables are made at build time."""

from __future__ import annotations

import cmath
import itertools
import math
import operator
from collections.abc import Sequence

__all__ = ["FRAME", "band_energies", "power_spectrum"]

FRAME = 1024
"""Samples per frame; a power of two."""


def _twiddles() -> dict[int, list[complex]]:
    """``exp(-2πik/n)`` for k below n/2, for each length n of the recursion."""
    tables = {}
    size = 2
    while size <= FRAME:
        tables[size] = [cmath.exp(-2j * math.pi * k / size) for k in range(size // 2)]
        size *= 2
    return tables


_TWIDDLES = _twiddles()
_WINDOW = [0.5 - 0.5 * math.cos(2 * math.pi * n / FRAME) for n in range(FRAME)]
"""Hann, periodic: keeps a strong line from leaking into every band."""


def power_spectrum(samples: Sequence[float]) -> list[float]:
    """Mean power per frequency bin over frames that overlap by half (Welch's method).

    Args:
        samples: At least `FRAME` of them; a rest shorter than half a frame is left out.

    Returns:
        ``FRAME // 2 + 1`` powers; bin k lies at ``k * sample_rate / FRAME``.

    Raises:
        ValueError: There are fewer samples than a frame.
    """
    if len(samples) < FRAME:
        raise ValueError(f"at least {FRAME} samples are needed, got {len(samples)}")
    starts = range(0, len(samples) - FRAME + 1, FRAME // 2)
    total = [0.0] * (FRAME // 2 + 1)
    for start in starts:
        frame = list(map(operator.mul, samples[start : start + FRAME], _WINDOW))
        spectrum = _fft(frame)
        power = [bin_.real * bin_.real + bin_.imag * bin_.imag for bin_ in spectrum]
        total = list(map(operator.add, total, power))
    return [power / len(starts) for power in total]


def band_energies(
    power: Sequence[float], sample_rate_hz: float, edges_hz: Sequence[float]
) -> list[float]:
    """Share of the energy in each band ``edges[i] <= f < edges[i+1]``, of the energy in all.

    Args:
        power: A power spectrum.
        sample_rate_hz: Of the samples it was made of.
        edges_hz: Ascending; n + 1 edges make n bands.

    Returns:
        Shares that sum to 1; all equal when there is no energy at all.
    """
    per_hz = FRAME / sample_rate_hz
    bins = [min(len(power), math.ceil(edge * per_hz)) for edge in edges_hz]
    energies = [sum(power[low:high]) for low, high in itertools.pairwise(bins)]
    total = sum(energies)
    if total <= 0:
        return [1 / len(energies)] * len(energies)
    return [energy / total for energy in energies]


def _fft(samples: Sequence[float]) -> list[complex]:
    """First half (and the middle) of the spectrum of a real frame.

    Two real halves make one complex signal of half the length (Numerical Recipes, section 12.3),
    which halves the work.
    """
    half = len(samples) // 2
    packed = _transform(list(map(complex, samples[0::2], samples[1::2])))
    mirrored = [packed[0], *packed[:0:-1]]
    twiddles = _TWIDDLES[len(samples)]
    first = []
    for value, mirror, twiddle in zip(packed, mirrored, twiddles, strict=True):
        other = mirror.conjugate()
        even, odd = (value + other) / 2, (value - other) / 2j
        first.append(even + twiddle * odd)
    middle = complex(packed[0].real - packed[0].imag, 0.0)
    assert len(first) == half
    return [*first, middle]


def _transform(values: list[complex]) -> list[complex]:
    """Complex FFT, decimation in time; the length is a power of two."""
    size = len(values)
    if size == 1:
        return values
    even, odd = _transform(values[0::2]), _transform(values[1::2])
    turned = list(map(operator.mul, _TWIDDLES[size], odd))
    return [*map(operator.add, even, turned), *map(operator.sub, even, turned)]

"""Features of a vibration signal, and the anomaly score a model makes of them.

Source:
    Randall & Antoni, "Rolling element bearing diagnostics - a tutorial", Mechanical Systems and
    Signal Processing 25 (2011): why RMS, kurtosis, crest factor and the energy of the bands where
    impacts make the structure ring tell a damaged bearing from a sound one.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.errors import InvalidInputError
from edgekit.models.classification import probabilities
from edgekit.models.document import EdgeModel
from edgekit.models.spectrum import band_energies, power_spectrum

__all__ = [
    "BAND_EDGES_HZ",
    "FEATURE_NAMES",
    "MAX_SAMPLES",
    "MIN_SAMPLES",
    "VibrationFeatures",
    "anomaly_score",
    "extract_features",
]

MIN_SAMPLES = 2048
"""0.17 s at 12 kHz: some four turns of a slow shaft, a dozen impacts of a damaged race."""
MAX_SAMPLES = 8192
"""Four times that; the cost of the spectra grows with it."""
MIN_RATE_HZ = 12_000.0
"""The highest band ends at 6 kHz."""
MAX_RATE_HZ = 51_200.0

BAND_EDGES_HZ = (0.0, 300.0, 1500.0, 3000.0, 6000.0)
"""Shaft and harmonics; gear mesh; two bands in which bearing housings ring."""

FEATURE_NAMES = (
    "rms",
    "kurtosis",
    "crest_factor",
    "jerk_kurtosis",
    "jerk_crest_factor",
    *(f"band_{low:g}_{high:g}_hz" for low, high in itertools.pairwise(BAND_EDGES_HZ)),
)
"""Of `VibrationFeatures.vector`, in order."""

_FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class VibrationFeatures:
    """What one window of samples looks like.

    Attributes:
        rms: Root mean square about the mean, in the unit of the samples.
        kurtosis: Fourth standardised moment; 3 for Gaussian noise, more for impacts.
        crest_factor: Peak over RMS.
        jerk_kurtosis: Kurtosis of the signal's differences, in which slow and strong motions of
            the shaft no longer hide weak impacts.
        jerk_crest_factor: Crest factor of the differences.
        band_energies: Share of energy in each band of `BAND_EDGES_HZ`.
    """

    rms: float
    kurtosis: float
    crest_factor: float
    jerk_kurtosis: float
    jerk_crest_factor: float
    band_energies: tuple[float, ...]

    def vector(self) -> list[float]:
        """The model's input: logarithms, because all of these vary over decades."""
        shares = (math.log10(max(share, 1e-6)) for share in self.band_energies)
        return [
            math.log10(max(self.rms, 1e-6)),
            math.log10(self.kurtosis),
            math.log10(self.crest_factor),
            math.log10(self.jerk_kurtosis),
            math.log10(self.jerk_crest_factor),
            *shares,
        ]


def extract_features(samples: Sequence[float], sample_rate_hz: float) -> VibrationFeatures:
    """Features of one window.

    Args:
        samples: Acceleration in g, `MIN_SAMPLES` to `MAX_SAMPLES` of them, evenly spaced.
        sample_rate_hz: Samples per second.

    Raises:
        InvalidInputError: Too few or too many samples, a number that is not finite or beyond a
            million g, a rate out of range, or a signal that never moves.
    """
    _check(samples, sample_rate_hz)
    mean = sum(samples) / len(samples)
    centred = [sample - mean for sample in samples]
    motion = _moments(centred)
    jerk = _moments(list(map(operator.sub, centred[1:], centred)))
    if motion is None or jerk is None:
        raise InvalidInputError(
            "the signal never moves; check the sensor and its cable", param="samples"
        )
    power = power_spectrum(centred)
    return VibrationFeatures(
        rms=motion.rms,
        kurtosis=motion.kurtosis,
        crest_factor=motion.crest_factor,
        jerk_kurtosis=jerk.kurtosis,
        jerk_crest_factor=jerk.crest_factor,
        band_energies=tuple(band_energies(power, sample_rate_hz, BAND_EDGES_HZ)),
    )


def anomaly_score(model: EdgeModel, features: VibrationFeatures) -> float:
    """Probability that the bearing is damaged, 0 to 1."""
    return probabilities(model, features.vector())[1]


@dataclass(frozen=True, slots=True)
class _Moments:
    """Of a signal about zero."""

    rms: float
    kurtosis: float
    crest_factor: float


def _moments(values: Sequence[float]) -> _Moments | None:
    """Moments of `values`; None when they carry no energy."""
    squares = list(map(operator.mul, values, values))
    mean_square = sum(squares) / len(squares)
    if mean_square <= _FLOOR:
        return None
    fourth = sum(map(operator.mul, squares, squares)) / len(squares)
    rms = math.sqrt(mean_square)
    return _Moments(rms, fourth / (mean_square * mean_square), math.sqrt(max(squares)) / rms)


def _check(samples: Sequence[float], sample_rate_hz: float) -> None:
    if not MIN_SAMPLES <= len(samples) <= MAX_SAMPLES:
        raise InvalidInputError(
            f"{len(samples)} samples; send {MIN_SAMPLES} to {MAX_SAMPLES}", param="samples"
        )
    if not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
        raise InvalidInputError(
            f"a sample rate of {sample_rate_hz} Hz; from {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g} Hz are "
            "taken",
            param="sample_rate_hz",
        )
    # One comparison catches NaN, infinities and values whose squares would lose all precision.
    if not all(-1e6 <= sample <= 1e6 for sample in samples):
        raise InvalidInputError("samples must be finite numbers within ±1e6", param="samples")

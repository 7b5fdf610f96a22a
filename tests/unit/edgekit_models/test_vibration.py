import cmath
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bearing_signals import FAULTS, make_window
from edgekit.errors import InvalidInputError
from edgekit.models.shipped import VIBRATION
from edgekit.models.spectrum import FRAME, band_energies, power_spectrum
from edgekit.models.vibration import (
    FEATURE_NAMES,
    MAX_SAMPLES,
    MIN_SAMPLES,
    anomaly_score,
    extract_features,
)

RATE_HZ = 12_000.0


def _sine(frequency_hz: float, count: int = 2048, amplitude: float = 1.0) -> list[float]:
    return [amplitude * math.sin(2 * math.pi * frequency_hz * n / RATE_HZ) for n in range(count)]


def test_spectrum_agrees_with_the_definition_of_the_transform() -> None:
    samples = np.random.default_rng(7).normal(size=FRAME).tolist()
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / FRAME) for n in range(FRAME)]
    power = power_spectrum(samples)
    assert len(power) == FRAME // 2 + 1
    for bin_ in (0, 1, 5, 255, 511, 512):
        direct = sum(
            sample * weight * cmath.exp(-2j * math.pi * bin_ * n / FRAME)
            for n, (sample, weight) in enumerate(zip(samples, window, strict=True))
        )
        assert power[bin_] == pytest.approx(abs(direct) ** 2, rel=1e-9, abs=1e-9)


def test_spectrum_of_too_few_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1024"):
        power_spectrum([0.0] * 1023)


@pytest.mark.parametrize(("frequency_hz", "band"), [(100, 0), (700, 1), (2000, 2), (4000, 3)])
def test_band_energies_find_a_tone_in_its_band(frequency_hz: float, band: int) -> None:
    shares = extract_features(_sine(frequency_hz), RATE_HZ).band_energies
    assert shares[band] > 0.98
    assert sum(shares) == pytest.approx(1)


def test_band_energies_of_silence_are_equal() -> None:
    assert band_energies([0.0] * 513, RATE_HZ, (0, 1000, 2000)) == [0.5, 0.5]


def test_features_of_a_sine_are_those_of_the_textbook() -> None:
    features = extract_features(_sine(120, amplitude=3.0), RATE_HZ)
    assert features.rms == pytest.approx(3 / math.sqrt(2), rel=0.01)
    assert features.kurtosis == pytest.approx(1.5, rel=0.02)
    assert features.crest_factor == pytest.approx(math.sqrt(2), rel=0.02)


def test_features_of_noise_have_a_kurtosis_of_three() -> None:
    noise = np.random.default_rng(1).normal(size=8192).tolist()
    features = extract_features(noise, RATE_HZ)
    assert features.kurtosis == pytest.approx(3, abs=0.25)
    assert features.jerk_kurtosis == pytest.approx(3, abs=0.25)


def test_features_impacts_show_in_the_jerk_though_a_strong_shaft_hides_them() -> None:
    signal = _sine(30, amplitude=20.0)
    for start in range(50, 2048, 200):
        for n in range(start, min(start + 12, 2048)):
            signal[n] += 2 * math.exp(-(n - start) / 4) * math.sin(1.5 * (n - start))
    features = extract_features(signal, RATE_HZ)
    assert features.kurtosis < 2
    assert features.jerk_kurtosis > 8


@settings(max_examples=20)
@given(st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_features_but_the_rms_depend_on_neither_gain_nor_offset(gain: float, offset: float) -> None:
    samples = np.random.default_rng(3).normal(size=MIN_SAMPLES)
    plain = extract_features(samples.tolist(), RATE_HZ)
    other = extract_features((samples * gain + offset).tolist(), RATE_HZ)
    assert other.rms == pytest.approx(plain.rms * gain, rel=1e-6)
    assert other.vector()[1:] == pytest.approx(plain.vector()[1:], rel=1e-5, abs=1e-6)


def test_features_come_in_the_order_of_their_names() -> None:
    assert len(extract_features(_sine(100), RATE_HZ).vector()) == len(FEATURE_NAMES)
    assert VIBRATION.parameters["features"] == list(FEATURE_NAMES)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "fact"),
    [
        ([0.1] * (MIN_SAMPLES - 1), RATE_HZ, "2047 samples; send 2048 to 8192"),
        ([0.1] * (MAX_SAMPLES + 1), RATE_HZ, "8193 samples"),
        (_sine(100), 11_999.0, "sample rate of 11999.0 Hz"),
        (_sine(100), math.nan, "sample rate of nan Hz"),
        (_sine(100), 1e9, "sample rate of"),
        ([*_sine(100), math.nan], RATE_HZ, "finite numbers"),
        ([*_sine(100), math.inf], RATE_HZ, "finite numbers"),
        ([*_sine(100), -1e7], RATE_HZ, "finite numbers"),
        ([5.0] * MIN_SAMPLES, RATE_HZ, "never moves"),
        ([0.0] * MIN_SAMPLES, RATE_HZ, "never moves"),
        ([n * 1e-8 for n in range(MIN_SAMPLES)], RATE_HZ, "never moves"),
    ],
)
def test_features_of_senseless_input_are_refused(
    samples: list[float], rate_hz: float, fact: str
) -> None:
    with pytest.raises(InvalidInputError, match=fact):
        extract_features(samples, rate_hz)


def test_model_tells_clear_damage_from_sound_bearings() -> None:
    random = np.random.default_rng(20260101)
    threshold = VIBRATION.parameters["anomaly_threshold"]

    def alarm(fault: str | None, severity_db: float | None) -> bool:
        window = make_window(random, fault, severity_db)
        features = extract_features(window.samples.tolist(), window.rate_hz)
        return bool(anomaly_score(VIBRATION, features) > threshold)

    found = [alarm(fault, 6.0) for fault in FAULTS for _ in range(30)]
    false_alarms = [alarm(None, None) for _ in range(100)]
    assert sum(found) >= 0.93 * len(found)
    assert sum(false_alarms) <= 5

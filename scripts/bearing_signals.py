"""Synthetic vibration of machines with rolling bearings, sound and damaged.

What is modelled, after Randall & Antoni, "Rolling element bearing diagnostics - a tutorial"
(Mechanical Systems and Signal Processing 25, 2011) and McFadden & Smith's model of a damaged race:

* the shaft: 15-40 Hz with five harmonics (unbalance, misalignment);
* a gear or motor tone at 18-60 times the shaft's frequency with sidebands, in 7 of 10 machines;
* broadband noise, part of it shaped by one structural resonance;
* disturbances that are no damage, in every fifth window: one or two knocks;
* damage: impacts at the rate of the damaged part with 1-2 % slip, each of which makes the housing
  ring at 1.8-5.5 kHz and die away within a millisecond or two. Impacts of an inner race swell and
  fade with the shaft, those of a ball with the cage. *Severity* is the power of the ringing over
  the power of everything else, in dB.

What is not: variable speed within a window, several faults at once, sensors that clip or are
loose, real transfer paths. A model trained on this shows the mechanism and has to be trained
again on the machine it is to watch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAULTS", "RATES_HZ", "Window", "make_window"]

Signal = NDArray[np.float64]

RATES_HZ = (12_000.0, 20_000.0, 25_600.0, 48_000.0)
"""Sample rates in common use for bearings."""

LENGTHS = (2048, 4096, 8192)

FAULTS = {"outer race": (3.0, 4.2), "inner race": (4.8, 6.2), "ball": (1.9, 2.7)}
"""Impacts per turn of the shaft, for common geometries."""


@dataclass(frozen=True)
class Window:
    """One window of samples.

    Attributes:
        samples: Acceleration in g.
        rate_hz: Samples per second.
        fault: Name of the damaged part; None when sound.
        severity_db: Power of the damage over that of the rest; None when sound.
    """

    samples: Signal
    rate_hz: float
    fault: str | None
    severity_db: float | None


def make_window(
    random: np.random.Generator, fault: str | None, severity_db: float | None = None
) -> Window:
    """One window of a machine drawn at random.

    Args:
        random: Draws machine, speed and noise.
        fault: A key of `FAULTS`, or None for a sound bearing.
        severity_db: Of the damage; drawn from -15 to 9 dB when None.
    """
    rate_hz = float(random.choice(RATES_HZ))
    times_s = np.arange(int(random.choice(LENGTHS))) / rate_hz
    shaft_hz = random.uniform(15, 40)
    signal = _machine(random, times_s, rate_hz, shaft_hz)
    if fault is None:
        return Window(signal * _gain(random), rate_hz, None, None)
    if severity_db is None:
        severity_db = random.uniform(-15, 9)
    ringing = _damage(random, times_s, shaft_hz, fault)
    ratio = np.sqrt(np.mean(signal**2) / np.mean(ringing**2)) * 10 ** (severity_db / 20)
    return Window((signal + ratio * ringing) * _gain(random), rate_hz, fault, severity_db)


def _gain(random: np.random.Generator) -> float:
    """Level of the machine as a whole: 0.02 to 0.5 g in most cases."""
    return float(10 ** random.normal(-1.0, 0.35))


def _machine(
    random: np.random.Generator, times_s: Signal, rate_hz: float, shaft_hz: float
) -> Signal:
    signal = np.zeros_like(times_s)
    for order in range(1, 6):
        amplitude = random.uniform(0.1, 1.0) / order
        signal += amplitude * np.sin(2 * np.pi * (order * shaft_hz * times_s + random.random()))
    if random.random() < 0.7:
        signal += _gear_tone(random, times_s, shaft_hz)
    noise = random.normal(size=times_s.size)
    shaped = _ring(noise, rate_hz, random.uniform(1200, 5500), random.uniform(0.0005, 0.003))
    share = random.uniform(0, 0.9)
    noise = np.sqrt(1 - share) * noise + np.sqrt(share) * shaped / np.std(shaped)
    signal += random.uniform(0.2, 1.5) * noise
    if random.random() < 0.2:
        signal += _knocks(random, times_s) * np.std(signal)
    return signal / np.std(signal)


def _gear_tone(random: np.random.Generator, times_s: Signal, shaft_hz: float) -> Signal:
    mesh_hz = shaft_hz * random.integers(18, 61)
    depth = random.uniform(0, 0.5)
    swell = 1 + depth * np.sin(2 * np.pi * (shaft_hz * times_s + random.random()))
    tone = np.sin(2 * np.pi * (mesh_hz * times_s + random.random()))
    return np.asarray(random.uniform(0.1, 1.0) * swell * tone)


def _ring(excitation: Signal, rate_hz: float, resonance_hz: float, decay_s: float) -> Signal:
    """Response of one resonance to `excitation`."""
    response_s = np.arange(int(6 * decay_s * rate_hz) + 1) / rate_hz
    response = np.exp(-response_s / decay_s) * np.sin(2 * np.pi * resonance_hz * response_s)
    return np.asarray(np.convolve(excitation, response)[: excitation.size])


def _knocks(random: np.random.Generator, times_s: Signal) -> Signal:
    signal = np.zeros_like(times_s)
    for _ in range(random.integers(1, 3)):
        since_s = times_s - random.choice(times_s)
        body = np.exp(-since_s / random.uniform(0.001, 0.01)) * np.sin(
            2 * np.pi * random.uniform(100, 3000) * since_s
        )
        signal += np.where(since_s >= 0, random.uniform(1, 6) * body, 0)
    return signal


def _damage(random: np.random.Generator, times_s: Signal, shaft_hz: float, fault: str) -> Signal:
    impact_hz = shaft_hz * random.uniform(*FAULTS[fault])
    slip = random.uniform(0.01, 0.02)
    swell_hz = {"outer race": 0.0, "inner race": shaft_hz, "ball": 0.4 * shaft_hz}[fault]
    depth, phase = random.uniform(0.5, 1.0), random.random()
    resonance_hz, decay_s = random.uniform(1800, 5500), random.uniform(0.0004, 0.002)
    signal = np.zeros_like(times_s)
    at_s = -random.random() / impact_hz
    while at_s < times_s[-1]:
        since_s = times_s - at_s
        swell = 1 + depth * np.sin(2 * np.pi * (swell_hz * at_s + phase)) if swell_hz else 1.0
        height = swell * random.uniform(0.8, 1.2)
        span = (since_s >= 0) & (since_s < 8 * decay_s)
        inside_s = since_s[span]
        signal[span] += (
            height * np.exp(-inside_s / decay_s) * np.sin(2 * np.pi * resonance_hz * inside_s)
        )
        at_s += (1 + random.normal(0, slip)) / impact_hz
    return signal

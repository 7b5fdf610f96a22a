"""Train the vibration model that ships inside the component, from nothing, in one command.

    python -m venv /tmp/train && /tmp/train/bin/pip install -r requirements/train.txt
    /tmp/train/bin/python scripts/train_vibration.py

Data: `bearing_signals`, half of the windows sound and half damaged; features: those the edge
extracts, by the edge's own code; model: logistic regression. Written is

    components/edgekit/models/vibration.json

and the measured figures are printed; the model card quotes them. Seeds are fixed: the same
versions give the same file.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "components"), str(ROOT / "scripts")]

from bearing_signals import FAULTS, Window, make_window  # noqa: E402
from edge_model_document import write_model  # noqa: E402
from edgekit.models.document import parse_model  # noqa: E402
from edgekit.models.vibration import (  # noqa: E402
    BAND_EDGES_HZ,
    FEATURE_NAMES,
    MAX_RATE_HZ,
    MAX_SAMPLES,
    MIN_RATE_HZ,
    MIN_SAMPLES,
    VibrationFeatures,
    anomaly_score,
    extract_features,
)

MODEL_FILE = ROOT / "components" / "edgekit" / "models" / "vibration.json"
SEED = 20240229
TRAINING_WINDOWS = 12_000
HELD_OUT_WINDOWS = 12_000
FALSE_ALARMS = 0.01
"""Share of sound windows that may be called damaged; sets the threshold."""

SEVERITIES_DB = (-15, -9, -3, 3, 9)


@dataclass(frozen=True)
class DataSet:
    """Windows as the model sees them, and what they are."""

    features: list[VibrationFeatures]
    windows: list[Window]

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Shape (count, features)."""
        return np.array([features.vector() for features in self.features])

    @property
    def damaged(self) -> NDArray[np.bool_]:
        """Shape (count,)."""
        return np.array([window.fault is not None for window in self.windows])


def make_windows(count: int, seed: int) -> Iterator[Window]:
    """`count` windows, every other one sound, the others of each fault in turn."""
    random = np.random.default_rng(seed)
    faults = [name for fault in FAULTS for name in (None, fault)]
    for index in range(count):
        yield make_window(random, faults[index % len(faults)])


def make_data(count: int, seed: int) -> DataSet:
    """Windows and the features the edge extracts from them."""
    windows = list(make_windows(count, seed))
    return DataSet(
        [extract_features(window.samples.tolist(), window.rate_hz) for window in windows], windows
    )


def train(data: DataSet) -> None:
    """Fit the model, set its threshold on the sound windows, and write it."""
    vectors, damaged = data.vectors, data.damaged
    offset, scale = vectors.mean(axis=0), vectors.std(axis=0)
    model = LogisticRegression(C=10, max_iter=2000)
    model.fit((vectors - offset) / scale, damaged)
    # Ten parameters cannot learn 3,000 sound windows by heart, so they serve for this as well.
    scores = model.predict_proba((vectors - offset) / scale)[:, 1]
    threshold = np.quantile(scores[~damaged], 1 - FALSE_ALARMS)
    fields = {
        "name": "vibration",
        "version": "1",
        "task": "anomaly-detection",
        "labels": ["sound", "damaged"],
        "output": {"activation": "sigmoid", "temperature": 1.0},
        "parameters": {
            "anomaly_threshold": round(float(threshold), 4),
            "unit": "g",
            "features": list(FEATURE_NAMES),
            "band_edges_hz": list(BAND_EDGES_HZ),
            "samples": [MIN_SAMPLES, MAX_SAMPLES],
            "sample_rate_hz": [MIN_RATE_HZ, MAX_RATE_HZ],
        },
    }
    layers = [(model.coef_, model.intercept_)]
    write_model(MODEL_FILE, fields, layers, offset=offset.tolist(), scale=scale.tolist())


def evaluate(data: DataSet) -> None:
    """Print what the written model does on windows it has not seen."""
    model = parse_model(MODEL_FILE.read_bytes())
    threshold = model.parameters["anomaly_threshold"]
    scores = np.array([anomaly_score(model, features) for features in data.features])
    damaged, alarm = data.damaged, scores > threshold
    print(f"held out: {len(scores)} windows, {int(damaged.sum())} of them damaged")
    print(f"area under the ROC curve: {roc_auc_score(damaged, scores):.3f}")
    print(f"accuracy at score 0.5: {((scores > 0.5) == damaged).mean():.1%}")
    print(f"threshold {threshold}: {alarm[~damaged].mean():.1%} false alarms")
    severity = np.array([window.severity_db or 0.0 for window in data.windows])
    for fault in FAULTS:
        of_fault = np.array([window.fault == fault for window in data.windows])
        found = []
        for low, high in itertools.pairwise(SEVERITIES_DB):
            chosen = of_fault & (severity >= low) & (severity < high)
            found.append(f"{low}…{high} dB: {alarm[chosen].mean():.0%}")
        print(f"{fault} found at", ", ".join(found))


def main() -> None:
    train(make_data(TRAINING_WINDOWS, SEED))
    print(f"{MODEL_FILE.relative_to(ROOT)}: {MODEL_FILE.stat().st_size} bytes")
    evaluate(make_data(HELD_OUT_WINDOWS, SEED + 1))


if __name__ == "__main__":
    main()

from pathlib import Path

from edgekit.models.classification import probabilities
from edgekit.models.shipped import DIGITS
from edgekit.processing.ink import fit_ink
from edgekit.processing.raster import Image

HELD_OUT = Path(__file__).parents[2] / "data" / "digits_held_out.csv"


def _held_out() -> list[tuple[list[int], int]]:
    rows = [line.split(",") for line in HELD_OUT.read_text().splitlines() if line[0] != "#"]
    return [([int(level) for level in row[:64]], int(row[64])) for row in rows]


def _prepared(levels: list[int]) -> list[float]:
    pixels = bytes(round(level * 255 / 16) for level in levels)
    return list(fit_ink(Image(8, 8, 1, pixels), 8, 8).pixels)


def test_digits_model_has_the_accuracy_of_its_card() -> None:
    examples = _held_out()
    assert len(examples) == 360
    right = confident = confident_right = 0
    for levels, digit in examples:
        shares = probabilities(DIGITS, _prepared(levels))
        hit = shares.index(max(shares)) == digit
        right += hit
        if max(shares) >= (DIGITS.cascade_threshold or 1):
            confident += 1
            confident_right += hit
    assert right >= 0.97 * 360
    assert confident >= 0.7 * 360
    assert confident_right >= 0.99 * confident

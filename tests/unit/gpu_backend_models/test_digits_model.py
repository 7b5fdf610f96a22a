"""The model that ships with the repository is the one its card and its manifest describe."""

import hashlib
import re
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgekit.processing.image import Image, decode_image
from edgekit.processing.preparation import ImageSpec, prepare

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "gpu-backend" / "models" / "digits"
MODEL = FOLDER / "1" / "model.onnx"
CARD = (FOLDER / "README.md").read_text()
MANIFEST = tomllib.loads((FOLDER / "model.toml").read_text())
SPEC = ImageSpec.from_parameters(MANIFEST["image"])
HELD_OUT = np.loadtxt(
    ROOT / "tests" / "data" / "digits_held_out.csv", dtype=np.uint8, delimiter=","
)
DRAWINGS = sorted((ROOT / "tests" / "data" / "drawn_digits").glob("*.png"))


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


def classify(session: onnxruntime.InferenceSession, images: list[Image]) -> NDArray[np.int64]:
    tensor = np.frombuffer(b"".join(prepare(image, SPEC) for image in images), np.uint8)
    (logits,) = session.run(
        [MANIFEST["output"]["name"]], {SPEC.input: tensor.reshape(-1, *SPEC.shape[1:])}
    )
    return np.asarray(logits.argmax(axis=1), np.int64)


def held_out_images() -> list[Image]:
    """0…16 as 0…255, white on black."""
    levels = np.round(HELD_OUT[:, :64] * (255 / 16)).astype(np.uint8)
    return [Image(8, 8, 1, row.tobytes()) for row in levels]


def card_figure(row: str) -> tuple[int, int]:
    """Right and total of the card's table row that begins with `row`."""
    match = re.search(rf"^\| {re.escape(row)} \| ([\d,]+) of ([\d,]+) \|", CARD, re.MULTILINE)
    assert match, f"the card has no row {row!r}"
    right, total = (int(number.replace(",", "")) for number in match.groups())
    return right, total


def test_model_file_has_the_digest_of_manifest_and_card() -> None:
    digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert MANIFEST["version"]["1"]["digest"] == f"sha256:{digest}"
    assert f"| SHA-256 | `{digest}` |" in CARD
    assert f"{MODEL.stat().st_size:,} bytes" in CARD


def test_model_tensors_are_those_the_manifest_names(
    session: onnxruntime.InferenceSession,
) -> None:
    (image,) = session.get_inputs()
    assert (image.name, image.type) == (SPEC.input, "tensor(uint8)")
    assert image.shape == ["batch", *SPEC.shape[1:]]
    (logits,) = session.get_outputs()
    assert (logits.name, logits.type) == (MANIFEST["output"]["name"], "tensor(float)")
    assert logits.shape == ["batch", len(MANIFEST["labels"])]


def test_model_file_tells_nothing_of_the_machine_it_was_made_on() -> None:
    content = MODEL.read_bytes()
    assert not [trace for trace in (b"/home", b"/root", b"/tmp", b".py") if trace in content]


def test_held_out_part_is_stratified_and_complete() -> None:
    counts = np.bincount(HELD_OUT[:, 64])
    assert counts.sum() == 360
    assert counts.min() >= 34
    assert HELD_OUT[:, :64].max() == 16


def test_held_out_accuracy_is_that_of_the_card(session: onnxruntime.InferenceSession) -> None:
    digits = HELD_OUT[:, 64]
    right, total = card_figure("held out, 8 × 8")
    found = classify(session, held_out_images())
    assert (int((found == digits).sum()), len(digits)) == (right, total)
    assert right / total >= 0.98


def test_held_out_inverted_gives_the_same_digits(session: onnxruntime.InferenceSession) -> None:
    images = held_out_images()
    inverted = [Image(8, 8, 1, bytes(255 - value for value in image.pixels)) for image in images]
    assert np.array_equal(classify(session, inverted), classify(session, images))


def test_held_out_levels_from_0_to_16_need_no_scaling(
    session: onnxruntime.InferenceSession,
) -> None:
    raw = [Image(8, 8, 1, row.tobytes()) for row in HELD_OUT[:, :64]]
    assert np.array_equal(classify(session, raw), classify(session, held_out_images()))


def test_drawings_cover_all_digits_both_polarities_and_the_sizes() -> None:
    names = [path.stem for path in DRAWINGS]
    assert len(names) == 50
    for digit in range(10):
        mine = [name for name in names if name.startswith(f"{digit}_")]
        assert any("dark_on_light" in name for name in mine)
        assert any("light_on_dark" in name for name in mine)


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_drawing_is_classified_right(path: Path, session: onnxruntime.InferenceSession) -> None:
    image = decode_image(path.read_bytes(), "image/png", max_pixels=64 * 64)
    assert 28 <= min(image.width, image.height) <= max(image.width, image.height) <= 64
    assert classify(session, [image])[0] == int(path.stem[0])


def test_logits_do_not_depend_on_the_batch(session: onnxruntime.InferenceSession) -> None:
    tensor = HELD_OUT[:32, :64].reshape(32, 1, 8, 8)
    (together,) = session.run(None, {"image": tensor})
    alone = np.concatenate([session.run(None, {"image": row[None]})[0] for row in tensor])
    assert np.allclose(together, alone, atol=1e-3)

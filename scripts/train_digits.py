"""Train the digits classifier that ships with the repository, from nothing, in one command.

    python -m venv /tmp/train && /tmp/train/bin/pip install -r requirements/train.txt
    /tmp/train/bin/python scripts/train_digits.py

Data: scikit-learn's handwritten digits (1,797 scans of 8 × 8 pixels), four fifths of them for
training, plus drawings made by `digit_drawings`. Both go through `edgekit`'s own preparation, so
the model learns what the edge will send it. Written are:

    gpu-backend/models/digits/1/model.onnx      uint8 (batch, 1, 8, 8) → logits (batch, 10)
    gpu-backend/models/digits/model.toml        with the digest of that file
    tests/data/digits_held_out.csv              the fifth that was not trained on

and the measured figures are printed; the model card quotes them. `--fonts DIR` adds the accuracy on
digits set in every font file below DIR; fonts are never trained on. Seeds and the thread count
are fixed: the same machine and versions give the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "components"), str(ROOT / "scripts")]

from digit_drawings import Paper, draw_digit, scan  # noqa: E402
from edgekit.processing.ink import fit_ink  # noqa: E402
from edgekit.processing.raster import Image  # noqa: E402

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]

MODEL_FOLDER = ROOT / "gpu-backend" / "models" / "digits"
HELD_OUT_FILE = ROOT / "tests" / "data" / "digits_held_out.csv"

SIZE = 8
SEED = 20240229
HELD_OUT = 360
DRAWINGS_PER_DIGIT = 4000
SCANS_PER_IMAGE = 8
EPOCHS = 40
BATCH = 256
PEAK_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-3
AVERAGE_DECAY = 0.999
OPSET = 20

HELD_OUT_HEADER = """\
# Held-out part of the digits model's data: 360 images that scripts/train_digits.py never trains on.
# Source: scikit-learn's load_digits, the test part of "Optical Recognition of Handwritten Digits",
# E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, doi:10.24432/C50P49, CC BY 4.0.
# One image per line: 64 gray levels from 0 (paper) to 16 (ink), row by row, then the digit.
"""


# --- data -------------------------------------------------------------------------------------


def split_digits() -> tuple[Bytes, Labels, Bytes, Labels]:
    """Training and held-out images, levels 0 to 16, shape (count, 8, 8), and their digits."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    train, held_out, train_labels, held_out_labels = train_test_split(
        images,
        digits.target.astype(np.int64),
        test_size=HELD_OUT,
        stratify=digits.target,
        random_state=SEED,
    )
    return train, train_labels, held_out, held_out_labels


def to_levels(images: Bytes) -> Bytes:
    """0…16 as 0…255."""
    return np.round(images * (255 / 16)).astype(np.uint8)


def prepare_all(pictures: Iterable[Bytes]) -> Bytes:
    """What the edge makes of gray pictures of any size, shape (count, 8, 8)."""
    prepared = [
        fit_ink(Image(picture.shape[1], picture.shape[0], 1, picture.tobytes()), SIZE, SIZE).pixels
        for picture in pictures
    ]
    return np.frombuffer(b"".join(prepared), np.uint8).reshape(-1, SIZE, SIZE)


def enlarge(image: Bytes, random: np.random.Generator) -> Bytes:
    """A scan of 8 × 8 as a user would send it larger: scaled up and put on paper."""
    paper = Paper.random(random)
    side = round(min(paper.size) * random.uniform(0.6, 1.0))
    method = random.choice([Pillow.Resampling.NEAREST, Pillow.Resampling.BICUBIC])
    large = Pillow.fromarray(image).resize((side, side), Pillow.Resampling(int(method)))
    angle = random.normal(0, 6)
    turned = large.rotate(angle, Pillow.Resampling.BILINEAR)
    width, height = paper.size
    canvas = np.zeros((height, width))
    left, top = random.integers(width - side + 1), random.integers(height - side + 1)
    canvas[top : top + side, left : left + side] = np.asarray(turned) / 255
    return scan(canvas, paper, random)


def drawings(count: int, seed: int) -> tuple[list[Bytes], Labels]:
    """`count` drawings of each digit."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), count)
    return [draw_digit(int(digit), random, Paper.random(random)) for digit in labels], labels


def training_set(train: Bytes, labels: Labels) -> tuple[Bytes, Labels]:
    """Scans as they are, scans enlarged, and drawings, all as the edge prepares them."""
    random = np.random.default_rng(SEED + 1)
    levels = to_levels(train)
    enlarged = prepare_all(
        enlarge(image, random) for image in levels for _ in range(SCANS_PER_IMAGE)
    )
    drawn, drawn_labels = drawings(DRAWINGS_PER_DIGIT, SEED + 2)
    repeats = SCANS_PER_IMAGE
    return (
        np.concatenate([*[prepare_all(levels)] * repeats, enlarged, prepare_all(drawn)]),
        np.concatenate([np.tile(labels, repeats), np.repeat(labels, repeats), drawn_labels]),
    )


# --- model ------------------------------------------------------------------------------------


class DigitsNet(nn.Module):  # type: ignore[misc]  # torch is not installed where mypy runs
    """Three 3 × 3 convolutions and two dense layers; normalisation is part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1)
        self.conv2 = nn.Conv2d(24, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.dense1 = nn.Linear(32 * (SIZE // 2) ** 2, 80)
        self.dense2 = nn.Linear(80, 10)
        self.dropout = nn.Dropout(0.3)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (batch, 10) of uint8 images (batch, 1, 8, 8)."""
        hidden = image.to(torch.float32) / 255
        hidden = functional.relu(self.conv1(hidden))
        hidden = functional.relu(self.conv2(hidden))
        hidden = functional.max_pool2d(hidden, 2)
        hidden = functional.relu(self.conv3(hidden))
        hidden = self.dropout(torch.flatten(hidden, 1))
        hidden = self.dropout(functional.relu(self.dense1(hidden)))
        logits: Tensor = self.dense2(hidden)
        return logits


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Small rotations, stretches, slants and shifts of (batch, 1, 8, 8) uint8 images."""
    count = len(images)
    amounts = torch.tensor([0.1, 0.08, 0.06, 0.06, 0.06])
    angle, slant, stretch_x, stretch_y, shift_x, shift_y = (
        torch.randn(6, count, generator=generator) * torch.cat([amounts, amounts[-1:]])[:, None]
    )
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack(
        [
            torch.stack([cos * (1 + stretch_x), slant - sin, shift_x], 1),
            torch.stack([sin, cos * (1 + stretch_y), shift_y], 1),
        ],
        1,
    )
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images.float(), grid, align_corners=False)
    strength = 1 + 0.15 * torch.randn(count, 1, 1, 1, generator=generator)
    return (moved * strength).clamp(0, 255).round().to(torch.uint8)


def train_model(images: Bytes, labels: Labels) -> DigitsNet:
    """A model trained on `images` and averaged over its last steps."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    inputs, targets = torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels)
    model = DigitsNet().train()
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE_DECAY)
    )
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    for epoch in range(EPOCHS):
        total, started = 0.0, time.monotonic()
        for index in torch.randperm(len(inputs), generator=generator).split(BATCH):
            optimizer.zero_grad()
            logits = model(jitter(inputs[index], generator))
            loss = functional.cross_entropy(logits, targets[index])
            loss.backward()
            optimizer.step()
            schedule.step()
            averaged.update_parameters(model)
            total += loss.item() * len(index)
        print(
            f"epoch {epoch + 1:2} loss {total / len(inputs):.4f} {time.monotonic() - started:.1f} s"
        )
    trained: DigitsNet = averaged.module.eval()
    return trained


def export_model(model: DigitsNet, path: Path) -> None:
    """Write `model` as ONNX, without anything that tells of this machine."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, SIZE, SIZE, dtype=torch.uint8),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    # The exporter notes stack traces with paths of this machine, and shapes that block quantising.
    graph = proto.graph
    del graph.value_info[:]
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    graph.name = "digits"
    onnx.checker.check_model(proto, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


# --- measuring --------------------------------------------------------------------------------


class Classifier:
    """The exported model in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def logits(self, images: Bytes) -> NDArray[np.float32]:
        """Logits of (count, 8, 8) images."""
        (logits,) = self._session.run(["logits"], {"image": images[:, None]})
        return np.asarray(logits, np.float32)

    def digits(self, images: Bytes) -> Labels:
        """The digit of each image."""
        return np.asarray(self.logits(images).argmax(axis=1), np.int64)


def set_in_font(path: Path, random: np.random.Generator) -> tuple[list[Bytes], Labels]:
    """Each digit four times in one font, at 28 to 64 pixels, both polarities, slightly turned."""
    pictures, labels = [], []
    for digit in range(10):
        for _ in range(4):
            paper = Paper.random(random)
            side = min(paper.size)
            font = ImageFont.truetype(str(path), round(side * random.uniform(0.6, 1.0)))
            box = font.getbbox(str(digit))
            width, height = paper.size
            left = (width - box[2] + box[0]) / 2 - box[0] + random.normal(0, 0.04) * side
            top = (height - box[3] + box[1]) / 2 - box[1] + random.normal(0, 0.04) * side
            canvas = Pillow.new("L", paper.size)
            ImageDraw.Draw(canvas).text((left, top), str(digit), font=font, fill=255)
            turned = canvas.rotate(random.normal(0, 5), Pillow.Resampling.BICUBIC)
            pictures.append(scan(np.asarray(turned) / 255, paper, random))
            labels.append(digit)
    return pictures, np.array(labels)


def report(name: str, found: Labels, expected: Labels) -> None:
    """Print the accuracy and what was taken for what."""
    right = int((found == expected).sum())
    print(f"{name}: {right} of {len(expected)} = {right / len(expected):.2%}")
    pairs, counts = np.unique(
        np.stack([expected, found], 1)[found != expected], axis=0, return_counts=True
    )
    worst = sorted(zip(counts.tolist(), pairs.tolist(), strict=True), reverse=True)[:8]
    if worst:
        print("   taken for another:", ", ".join(f"{a}→{b} ×{n}" for n, (a, b) in worst))


def evaluate(model: Classifier, held_out: Bytes, labels: Labels, fonts: Sequence[Path]) -> None:
    """Print the accuracy on everything the model has not seen."""
    random = np.random.default_rng(SEED + 3)
    levels = to_levels(held_out)
    report("held out, 8 × 8 as it is", model.digits(levels), labels)
    report("held out, prepared at 8 × 8", model.digits(prepare_all(levels)), labels)
    report("held out, inverted", model.digits(prepare_all(255 - levels)), labels)
    enlarged = prepare_all(enlarge(image, random) for image in levels)
    report("held out, enlarged to 28–64 pixels", model.digits(enlarged), labels)
    drawn, drawn_labels = drawings(100, SEED + 4)
    report("drawings with fresh seeds", model.digits(prepare_all(drawn)), drawn_labels)
    found, expected = [], []
    for font in fonts:
        pictures, font_labels = set_in_font(font, random)
        digits = model.digits(prepare_all(pictures))
        print(f"   {font.name}: {(digits == font_labels).mean():.1%}")
        found.append(digits)
        expected.append(font_labels)
    if found:
        report(f"{len(found)} fonts", np.concatenate(found), np.concatenate(expected))


# --- writing ----------------------------------------------------------------------------------


def write_held_out(images: Bytes, labels: Labels) -> None:
    """The held-out part as text, so that tests need no scikit-learn."""
    lines = [
        ",".join(map(str, [*image.ravel().tolist(), digit]))
        for image, digit in zip(images, labels.tolist(), strict=True)
    ]
    HELD_OUT_FILE.parent.mkdir(parents=True, exist_ok=True)
    HELD_OUT_FILE.write_text(HELD_OUT_HEADER + "\n".join(lines) + "\n")


def write_digest(model_file: Path) -> str:
    """Put the file's SHA-256 into the manifest; the digest."""
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    manifest = MODEL_FOLDER / "model.toml"
    text = re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{digest}", manifest.read_text())
    manifest.write_text(text)
    return digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fonts", type=Path, help="measure on all font files below this folder")
    parser.add_argument("--measure", action="store_true", help="measure the model that is there")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)

    fonts = sorted(arguments.fonts.rglob("*.[ot]tf")) if arguments.fonts else []
    train, train_labels, held_out, held_out_labels = split_digits()
    model_file = MODEL_FOLDER / "1" / "model.onnx"
    if not arguments.measure:
        model = train_model(*training_set(train, train_labels))
        export_model(model, model_file)
        with torch.no_grad():
            expected = model(torch.from_numpy(to_levels(held_out))[:, None]).numpy()
        np.testing.assert_allclose(
            Classifier(model_file).logits(to_levels(held_out)), expected, rtol=1e-4, atol=1e-4
        )
        write_held_out(held_out, held_out_labels)
        digest = write_digest(model_file)
        print(f"{model_file.relative_to(ROOT)}: {model_file.stat().st_size} bytes, {digest}")
    evaluate(Classifier(model_file), held_out, held_out_labels, fonts)


if __name__ == "__main__":
    main()

"""Distil the digits classifier into a network small enough for the component.

    python -m venv /tmp/train && /tmp/train/bin/pip install -r requirements/train.txt
    /tmp/train/bin/python scripts/train_digits.py         (the teacher; ships with the repository)
    /tmp/train/bin/python scripts/train_edge_digits.py

The student sees the images that the teacher was trained on, moved and stretched anew in every
epoch, and learns the teacher's probabilities at a raised temperature beside the true digits. Its
confidence is calibrated (one temperature) and its cascade threshold set on drawings that neither
was trained on: the threshold is the lowest confidence above which the student is as accurate as
the teacher. Written is

    components/edgekit/models/digits.json

and the measured figures are printed; the model card quotes them. Seeds and the thread count are
fixed: the same machine and versions give the same file.

Source:
    Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015.
    Guo et al., "On Calibration of Modern Neural Networks", 2017 (temperature scaling).
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "components"), str(ROOT / "scripts")]

import train_digits as teacher_script  # noqa: E402
from edge_model_document import write_model  # noqa: E402
from edgekit.models.classification import probabilities  # noqa: E402
from edgekit.models.document import EdgeModel, parse_model  # noqa: E402

MODEL_FILE = ROOT / "components" / "edgekit" / "models" / "digits.json"
TEACHER_FILE = teacher_script.MODEL_FOLDER / "1" / "model.onnx"

HIDDEN = (128, 64)
SEED = 20240301
EPOCHS = 60
BATCH = 512
PEAK_LEARNING_RATE = 6e-3
WEIGHT_DECAY = 1e-4
SOFTENING = 3.0
"""Temperature at which the teacher's doubts between similar digits show."""
SOFT_SHARE = 0.8
CALIBRATION_DRAWINGS = 150
"""Of each digit."""


def make_student() -> nn.Sequential:
    """Dense layers with rectifiers between them, on pixels 0…1."""
    sizes = (teacher_script.SIZE**2, *HIDDEN, 10)
    parts: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def distil(
    images: teacher_script.Bytes, labels: teacher_script.Labels, teacher: teacher_script.Classifier
) -> nn.Sequential:
    """A student averaged over its last steps."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    inputs, targets = torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels)
    student = make_student().train()
    averaged = torch.optim.swa_utils.AveragedModel(
        student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for index in torch.randperm(len(inputs), generator=generator).split(BATCH):
            moved = teacher_script.jitter(inputs[index], generator)
            wanted = torch.from_numpy(teacher.logits(moved[:, 0].numpy()))
            optimizer.zero_grad()
            loss = _loss(student(moved.flatten(1).float() / 255), wanted, targets[index])
            loss.backward()
            optimizer.step()
            schedule.step()
            averaged.update_parameters(student)
            total += loss.item() * len(index)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:2} loss {total / len(inputs):.4f}", flush=True)
    trained: nn.Sequential = averaged.module.eval()
    return trained


def _loss(logits: Tensor, wanted: Tensor, targets: Tensor) -> Tensor:
    soft = functional.kl_div(
        functional.log_softmax(logits / SOFTENING, 1),
        functional.log_softmax(wanted / SOFTENING, 1),
        log_target=True,
        reduction="batchmean",
    )
    hard = functional.cross_entropy(logits, targets)
    return SOFT_SHARE * SOFTENING**2 * soft + (1 - SOFT_SHARE) * hard


def calibrate(logits: Tensor, targets: Tensor) -> float:
    """The temperature under which the confidences are most likely."""
    temperatures = np.geomspace(0.5, 4.0, 71)
    losses = [functional.cross_entropy(logits / t, targets).item() for t in temperatures]
    return round(float(temperatures[int(np.argmin(losses))]), 3)


def find_threshold(
    confidences: NDArray[np.float64], right: NDArray[np.bool_], wanted: float
) -> float:
    """The lowest confidence above which the share of right answers is at least `wanted`."""
    order = np.argsort(-confidences)
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.nonzero(accuracy >= wanted)[0]
    return round(float(confidences[order][enough[-1]]), 3) if len(enough) else 1.0


def write_student(student: nn.Sequential, temperature: float, threshold: float) -> EdgeModel:
    """Write the model and read it back."""
    dense = [part for part in student if isinstance(part, nn.Linear)]
    layers = [(part.weight.detach().numpy(), part.bias.detach().numpy()) for part in dense]
    fields = {
        "name": "digits",
        "version": "1",
        "task": "image-classification",
        "labels": [str(digit) for digit in range(10)],
        "output": {"activation": "softmax", "temperature": temperature},
        "cascade_threshold": threshold,
        "parameters": {"width": 8, "height": 8, "color": "gray", "fit": "ink"},
    }
    write_model(MODEL_FILE, fields, layers, offset=[0.0], scale=[255.0])
    return parse_model(MODEL_FILE.read_bytes())


def confidences_of(
    model: EdgeModel, images: teacher_script.Bytes, labels: teacher_script.Labels
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence of the top class of each image, and whether it is the right one."""
    rows = np.array([probabilities(model, image.ravel().tolist()) for image in images])
    return rows.max(axis=1), rows.argmax(axis=1) == labels


def report(
    name: str,
    model: EdgeModel,
    teacher: teacher_script.Classifier,
    images: teacher_script.Bytes,
    labels: teacher_script.Labels,
) -> None:
    """Print how the student, the teacher and both in cascade do."""
    confidences, right = confidences_of(model, images, labels)
    theirs = teacher.digits(images) == labels
    final = confidences >= (model.cascade_threshold or 0.0)
    both = np.where(final, right, theirs)
    print(
        f"{name}: edge {right.mean():.2%}, cluster {theirs.mean():.2%}, cascade {both.mean():.2%}; "
        f"{final.mean():.1%} answered at the edge, {right[final].mean():.2%} of them rightly"
    )


def main() -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    teacher = teacher_script.Classifier(TEACHER_FILE)
    train, train_labels, held_out, held_out_labels = teacher_script.split_digits()
    student = distil(*teacher_script.training_set(train, train_labels), teacher)

    pictures, labels = teacher_script.drawings(CALIBRATION_DRAWINGS, SEED + 1)
    images = teacher_script.prepare_all(pictures)
    with torch.no_grad():
        logits = student(torch.from_numpy(images.copy()).flatten(1).float() / 255)
    temperature = calibrate(logits, torch.from_numpy(labels))
    model = write_student(student, temperature, 0.0)
    wanted = float((teacher.digits(images) == labels).mean())
    threshold = find_threshold(*confidences_of(model, images, labels), wanted)
    model = write_student(student, temperature, threshold)
    print(f"{MODEL_FILE.relative_to(ROOT)}: {MODEL_FILE.stat().st_size} bytes")
    print(f"temperature {temperature}, cascade threshold {threshold}")

    levels = teacher_script.to_levels(held_out)
    report("held out, 8 × 8", model, teacher, teacher_script.prepare_all(levels), held_out_labels)
    random = np.random.default_rng(SEED + 2)
    enlarged = [teacher_script.enlarge(image, random) for image in levels]
    prepared = teacher_script.prepare_all(enlarged)
    report("held out, enlarged to 28-64 pixels", model, teacher, prepared, held_out_labels)
    pictures, labels = teacher_script.drawings(100, SEED + 3)
    report("fresh drawings", model, teacher, teacher_script.prepare_all(pictures), labels)


if __name__ == "__main__":
    main()

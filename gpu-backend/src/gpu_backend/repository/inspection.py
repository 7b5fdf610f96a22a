"""What a graph without a manifest is probably for, with the reason for each guess.

A guess is only as good as its reason, so every one is written down for the person who adds the
model, next to the key in `model.toml` that changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpu_backend.errors import BackendError
from gpu_backend.execution.session import OnnxSession, TensorSpec
from gpu_backend.repository.calibration import sample_feeds
from gpu_backend.repository.manifest import ImageHints, OutputHints, Warmup

__all__ = ["Findings", "inspect"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

_USUAL_SIDE = 224
"""Width and height assumed where the graph leaves them free."""

_INK_MAX_SIDE = 64
"""Gray inputs up to this size are taken for drawn signs, as in MNIST."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found, and why.

    Attributes:
        task: As ``image-classification``; None when nothing is known.
        image: How pictures become the input; None when no input looks like a picture.
        output: Where the scores are; None when no output looks like scores.
        classes: Number of classes; 0 when unknown.
        notes: Sentences for people, in the order of the manifest.
    """

    task: str | None
    image: ImageHints | None
    output: OutputHints | None
    classes: int
    notes: tuple[str, ...]


def inspect(session: OnnxSession, labels: Sequence[str]) -> Findings:
    """Look at the graph, and at what it computes for a sample."""
    notes = [
        f"{kind} {spec.name!r}: {spec.datatype.name} {list(spec.shape)}"
        for kind, specs in (("input", session.inputs), ("output", session.outputs))
        for spec in specs
    ]
    image = _find_image(session.inputs, notes)
    output, classes = _find_output(session, image, labels, notes)
    task = "image-classification" if image is not None and output is not None else None
    if task is None:
        notes.append("task: unknown, so only /v2/models/.../infer is served")
    return Findings(task, image, output, classes, tuple(notes))


def _find_image(inputs: Sequence[TensorSpec], notes: list[str]) -> ImageHints | None:
    if len(inputs) != 1:
        notes.append(f"[image]: left out, because the graph has {len(inputs)} inputs")
        return None
    spec = inputs[0]
    layout = _layout(spec.shape)
    if layout is None or spec.datatype.kind not in ("integer", "float"):
        notes.append(
            f"[image]: left out, because {spec.name!r} has no axis of 1 or 3 channels beside a "
            "height and a width"
        )
        return None
    sizes = dict(zip(layout, spec.shape, strict=True))
    hints = ImageHints(
        input=spec.name,
        width=sizes["W"] if sizes["W"] > 0 else _USUAL_SIDE,
        height=sizes["H"] if sizes["H"] > 0 else _USUAL_SIDE,
        layout=layout,
        color="gray" if sizes["C"] == 1 else "rgb",
    )
    notes.append(f"image.layout = {layout}, {hints.color}: the axis of {sizes['C']} says so")
    if min(sizes["W"], sizes["H"]) < 0:
        side = _USUAL_SIDE
        notes.append(f"image.width, image.height = {side}: a guess, the graph leaves them free")
    return _guess_values(_guess_fit(hints, notes), spec, notes)


def _layout(shape: tuple[int, ...]) -> str | None:
    batch = "N" if len(shape) == 4 and shape[0] in (-1, 1) else ""
    if len(shape) - len(batch) != 3:
        return None
    if shape[-3] in (1, 3):
        return batch + "CHW"
    return batch + "HWC" if shape[-1] in (1, 3) else None


def _guess_fit(hints: ImageHints, notes: list[str]) -> ImageHints:
    is_sign = hints.color == "gray" and max(hints.width, hints.height) <= _INK_MAX_SIDE
    fit = "ink" if is_sign else "cover"
    why = "small and gray, so taken for drawn signs" if is_sign else "the centre of a photograph"
    notes.append(f"image.fit = {fit}: a guess ({why}); contain and stretch are the others")
    return replace(hints, fit=fit)


def _guess_values(hints: ImageHints, spec: TensorSpec, notes: list[str]) -> ImageHints:
    if spec.datatype.kind == "integer":
        notes.append(f"image.range = [0, 255]: {spec.datatype.name} pixels go in as they are")
        return hints
    if hints.color == "rgb" and hints.fit == "cover":
        notes.append(
            "image.range = [0, 1] with ImageNet's mean and std: a guess, as torchvision's models "
            "want it; drop mean and std if the graph normalises by itself"
        )
        return replace(hints, range=(0.0, 1.0), mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
    notes.append("image.range = [0, 1]: a guess; [0, 255] and [-1, 1] are common too")
    return replace(hints, range=(0.0, 1.0))


def _find_output(
    session: OnnxSession, image: ImageHints | None, labels: Sequence[str], notes: list[str]
) -> tuple[OutputHints | None, int]:
    candidates = [
        spec
        for spec in session.outputs
        if spec.datatype.name in ("FP16", "FP32", "FP64")
        and 1 <= len(spec.shape) <= 2
        and (spec.shape[-1] > 1 or spec.shape[-1] == -1)
    ]
    named = [spec for spec in candidates if labels and spec.shape[-1] == len(labels)]
    if not candidates or image is None:
        notes.append("[output]: left out, because no output looks like scores of classes")
        return None, 0
    spec = (named or candidates)[0]
    kind = _kind(session, image, spec, notes)
    return OutputHints(spec.name, kind), max(0, spec.shape[-1])


def _kind(session: OnnxSession, image: ImageHints, spec: TensorSpec, notes: list[str]) -> str:
    """`probabilities` when the scores of a random sample are some, else `logits`."""
    dims = {
        symbol: {"H": image.height, "W": image.width}.get(axis, 1)
        for axis, symbol in zip(image.layout, session.inputs[0].symbols, strict=True)
        if symbol is not None
    }
    try:
        outputs = session.run(sample_feeds(session.inputs, Warmup(dims=dims, fill="random")))
    except BackendError as exc:
        notes.append(f"output.kind = logits: a guess, a random sample does not run ({exc.message})")
        return "logits"
    scores = outputs[session.output_names.index(spec.name)].astype(np.float64).reshape(-1)
    is_distribution = bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-3
    kind = "probabilities" if is_distribution else "logits"
    why = "sum to 1" if is_distribution else "do not sum to 1"
    notes.append(f"output.kind = {kind}: the scores {spec.name!r} of a random sample {why}")
    return kind

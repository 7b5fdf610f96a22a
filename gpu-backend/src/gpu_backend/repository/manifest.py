"""`model.toml`: what a model means, beside what its graph says.

    resnet/                      one folder per model
      model.toml                 this manifest; without one, defaults serve the bare tensors
      labels.txt                 where `labels_file` says so
      1/model.onnx               numbered versions, the highest is the one that answers
      2/model.onnx

Reading is strict: an unknown key or a wrong type refuses the model and names the key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpu_backend.batching.policy import BatchPolicy, Padding
from gpu_backend.errors import ModelInvalidError
from gpu_backend.execution.providers import AUTO, PROVIDERS
from gpu_backend.repository.toml_fields import Table, list_of, number, one_of, text, truth

__all__ = [
    "MANIFEST",
    "NAME",
    "ExecutionHints",
    "ImageHints",
    "Manifest",
    "OutputHints",
    "TextHints",
    "Warmup",
    "is_served_elsewhere",
    "read_manifest",
]

MANIFEST = "model.toml"

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
"""A name is a structured-field token and one path segment, so it needs no quoting anywhere."""

PLATFORM = "onnxruntime_onnx"

OTHER_PLATFORMS = frozenset({"onnxruntime_genai", "ollama", "openai"})
"""Models of these lie in the same repositories and are served by other parts of the backend."""

_GENAI_CONFIGS = ("genai_config.json", "[0-9]*/genai_config.json")

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageHints:
    """How an image becomes the model's input; the edge and `/classify` act on it.

    Attributes:
        input: Name of the tensor.
        layout: ``NCHW``, ``NHWC``, ``CHW`` or ``HWC``.
        width: Pixels.
        height: Pixels.
        color: ``gray`` or ``rgb``.
        range: What 0 and 255 of a pixel become, before mean and std.
        mean: Subtracted per channel after `range`; None where the graph does it.
        std: Divided by per channel; None where the graph does it.
        fit: ``ink`` (a drawn symbol: crop, centre, light on dark), ``contain``, ``cover`` or
            ``stretch``.
    """

    input: str
    width: int
    height: int
    layout: str = "NCHW"
    color: str = "rgb"
    range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: str = "cover"

    def describe(self) -> dict[str, object]:
        """As in the metadata of a model."""
        return {
            "input": self.input,
            "layout": self.layout,
            "width": self.width,
            "height": self.height,
            "color": self.color,
            "range": [_plain(value) for value in self.range],
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "fit": self.fit,
        }


@dataclass(frozen=True, slots=True)
class OutputHints:
    """Which output holds the scores, and whether they are ``logits`` or ``probabilities``."""

    name: str
    kind: str = "logits"

    def describe(self) -> dict[str, object]:
        """As in the metadata of a model."""
        return {"name": self.name, "kind": self.kind}


@dataclass(frozen=True, slots=True)
class TextHints:
    """How texts become the model's inputs, and which output is their vector; the edge acts on it.

    Attributes:
        input: Name of the tensor of token ids, shape (batch, sequence).
        mask: Name of the tensor that is 1 for a token and 0 for padding; None where there is none.
        output: Name of the tensor of vectors, shape (batch, dimensions).
        max_tokens: Longest text, special tokens included.
        vocabulary: ``sha256:<hex>`` of the vocabulary file that the ids are lines of; None where
            the model is for clients that bring their own tokenizer.
    """

    input: str
    output: str
    max_tokens: int
    mask: str | None = None
    vocabulary: str | None = None

    def describe(self) -> dict[str, object]:
        """As in the metadata of a model."""
        return {
            "input": self.input,
            "mask": self.mask,
            "output": self.output,
            "max_tokens": self.max_tokens,
            "vocabulary": self.vocabulary,
        }


@dataclass(frozen=True, slots=True)
class ExecutionHints:
    """What this model asks of the hardware; None leaves it to the backend's settings.

    Attributes:
        provider: ``auto`` or a key of `PROVIDERS`.
        intra_op_threads: Threads inside one operator.
        device_id: Which accelerator.
        options: Passed to the execution provider as they are.
        cpu_arena: False gives memory back after each run, at some cost in speed.
        inline: True runs on the event loop, False on a thread; None measures and decides.
    """

    provider: str | None = None
    intra_op_threads: int | None = None
    device_id: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    cpu_arena: bool = True
    inline: bool | None = None


@dataclass(frozen=True, slots=True)
class Warmup:
    """One sample that is run before the model serves.

    Attributes:
        rows: Batch size.
        dims: Sizes for free dimensions, by their name in the graph; 1 where none is given.
        fill: ``zeros``, ``ones`` or ``random`` (seeded).
    """

    rows: int = 1
    dims: Mapping[str, int] = field(default_factory=dict)
    fill: str = "zeros"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything `model.toml` says.

    Attributes:
        name: Of the model, as in its URL.
        platform: Always ``onnxruntime_onnx``.
        task: As ``image-classification``; None when nothing is known.
        serve: ``latest`` serves the highest version, ``all`` serves each one by its number too.
        digests: Expected ``sha256:<hex>`` of a version's files, by version.
        image: None when the input is no image.
        output: None when no output holds class scores.
        text: None when the inputs are no tokens of a text to be made a vector.
        labels: Of the classes, in the order of the scores.
        batching: Policy; its defaults suit most models.
        max_batch_given: False leaves the batch size to the graph and to the warm-up.
        execution: Hardware hints.
        warmup: Samples; one of one row when the manifest has none.
    """

    name: str
    platform: str = PLATFORM
    task: str | None = None
    serve: str = "latest"
    digests: Mapping[str, str] = field(default_factory=dict)
    image: ImageHints | None = None
    output: OutputHints | None = None
    text: TextHints | None = None
    labels: tuple[str, ...] = ()
    batching: BatchPolicy = field(default_factory=BatchPolicy)
    max_batch_given: bool = False
    execution: ExecutionHints = field(default_factory=ExecutionHints)
    warmup: tuple[Warmup, ...] = (Warmup(),)


def is_served_elsewhere(folder: Path) -> bool:
    """True when the manifest in `folder` names a platform that is not this repository's.

    A GenAI folder tells by itself: it is served as its builder left it, without a manifest.
    """
    if any(next(folder.glob(pattern), None) for pattern in _GENAI_CONFIGS):
        return True
    try:
        document = tomllib.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever reads it in earnest says what is wrong
    model = document.get("model")
    return isinstance(model, dict) and model.get("platform") in OTHER_PLATFORMS


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the model in `folder`; defaults when it has none.

    Raises:
        ModelInvalidError: The file cannot be read or has faults; the text lists them all.
    """
    path = folder / MANIFEST
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        document = {}
    except (OSError, ValueError) as exc:
        raise ModelInvalidError(f"{path}: {exc}") from exc
    faults: list[str] = []
    manifest = _manifest(Table(document, "", faults), folder)
    if not NAME.fullmatch(manifest.name):
        faults.append(
            f"model.name: expected a letter, then up to 63 letters, digits, '.', '_' or '-', "
            f"got {manifest.name!r}"
        )
    elif manifest.name != folder.name:
        faults.append(f"model.name: is {manifest.name!r}, but its folder is {folder.name!r}")
    if faults:
        raise ModelInvalidError("\n".join(f"{path}: {fault}" for fault in faults))
    return manifest


def _manifest(top: Table, folder: Path) -> Manifest:
    name, platform, task, serve = _model(top.table("model"), folder.name)
    batching = top.table("batching")
    output, output_labels = _output(top.table("output"))
    samples = tuple(_warmup(entry) for entry in top.tables("warmup"))
    manifest = Manifest(
        name=name,
        platform=platform,
        task=task,
        serve=serve,
        digests=_digests(top.table("version")),
        image=_image(top.table("image")),
        output=output,
        text=_text(top.table("text")),
        labels=_labels(top, folder) or output_labels,
        batching=_batching(batching),
        max_batch_given=batching is not None and "max_batch" in batching.keys(),  # noqa: SIM118
        execution=_execution(top.table("execution")),
        warmup=samples or (Warmup(),),
    )
    top.close()
    return manifest


def _model(table: Table | None, folder_name: str) -> tuple[str, str, str | None, str]:
    if table is None:
        return folder_name, PLATFORM, None, "latest"
    name = table.take("name", text, folder_name)
    platform = table.take("platform", one_of(PLATFORM), PLATFORM)
    task: str | None = table.take("task", text, "") or None
    serve = table.take("serve", one_of("latest", "all"), "latest")
    table.close()
    return name, platform, task, serve


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("expected sha256: and 64 hexadecimal digits")
    return value


def _digests(table: Table | None) -> dict[str, str]:
    if table is None:
        return {}
    digests = {}
    for version in table.keys():  # noqa: SIM118  # a Table is no mapping
        entry = table.table(version)
        if not version.isdecimal():
            table.fault(version, "expected a version number, as [version.1]")
        elif entry is not None:
            digests[version] = entry.take("digest", _digest, "")
            entry.close()
    return {version: digest for version, digest in digests.items() if digest}


_CHANNELS = list_of(number(-1e6, 1e6, whole=False), low=1, high=4)


def _image(table: Table | None) -> ImageHints | None:
    if table is None:
        return None
    side = number(1, 8192)
    hints = ImageHints(
        input=table.take("input", text, ""),
        width=table.take("width", side, 0),
        height=table.take("height", side, 0),
        layout=table.take("layout", one_of("NCHW", "NHWC", "CHW", "HWC"), "NCHW"),
        color=table.take("color", one_of("gray", "rgb"), "rgb"),
        range=table.take("range", _range, (0.0, 255.0)),
        mean=table.take("mean", _CHANNELS, ()) or None,
        std=table.take("std", _CHANNELS, ()) or None,
        fit=table.take("fit", one_of("ink", "contain", "cover", "stretch"), "cover"),
    )
    for key in ("input", "width", "height"):
        if not getattr(hints, key):
            table.fault(key, "is required")
    channels = 1 if hints.color == "gray" else 3
    for key in ("mean", "std"):
        given = getattr(hints, key)
        if given is not None and len(given) not in (1, channels):
            table.fault(key, f"expected 1 or {channels} numbers for {hints.color}")
    if hints.std is not None and 0 in hints.std:
        table.fault("std", "0 cannot be divided by")
    table.close()
    return hints


def _range(value: object) -> tuple[float, float]:
    low, high = list_of(number(-1e6, 1e6, whole=False), low=2, high=2)(value)
    return low, high


def _output(table: Table | None) -> tuple[OutputHints | None, tuple[str, ...]]:
    """Hints and labels: TOML puts a `labels` that follows `[output]` into that table."""
    if table is None:
        return None, ()
    name = table.take("name", text, "")
    if not name:
        table.fault("name", "is required")
    kind = table.take("kind", one_of("logits", "probabilities"), "logits")
    labels = table.take("labels", list_of(text), ())
    table.close()
    return OutputHints(name, kind), labels


def _text(table: Table | None) -> TextHints | None:
    if table is None:
        return None
    hints = TextHints(
        input=table.take("input", text, ""),
        output=table.take("output", text, ""),
        max_tokens=table.take("max_tokens", number(2, 1 << 20), 0),
        mask=table.take("mask", text, "") or None,
        vocabulary=table.take("vocabulary", _digest, None),
    )
    for key in ("input", "output", "max_tokens"):
        if not getattr(hints, key):
            table.fault(key, "is required")
    table.close()
    return hints


def _labels(top: Table, folder: Path) -> tuple[str, ...]:
    labels = top.take("labels", list_of(text), ())
    file = top.take("labels_file", text, "")
    if not file:
        return labels
    if labels:
        top.fault("labels_file", "labels are given as well; keep one of the two")
        return labels
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        top.fault("labels_file", f"{file!r} is outside the model's folder")
        return ()
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as exc:
        top.fault("labels_file", f"cannot be read ({exc})")
        return ()


def _batching(table: Table | None) -> BatchPolicy:
    if table is None:
        return BatchPolicy()
    plain = BatchPolicy()
    policy = BatchPolicy(
        max_batch=table.take("max_batch", number(1, 65536), plain.max_batch),
        max_delay_us=table.take("max_delay_us", number(0, 1_000_000), plain.max_delay_us),
        preferred_rows=tuple(
            sorted(table.take("preferred_rows", list_of(number(1, 65536), high=32), ()))
        ),
        token_budget=table.take("token_budget", number(0, 1 << 30), plain.token_budget),
        padding=_padding(table.table("padding")),
        instances=table.take("instances", number(1, 64), plain.instances),
        single_flight=table.take("single_flight", truth, plain.single_flight),
    )
    if policy.preferred_rows and policy.preferred_rows[-1] > policy.max_batch:
        table.fault("preferred_rows", f"none may exceed max_batch, {policy.max_batch}")
    table.close()
    return policy


def _padding(table: Table | None) -> Padding | None:
    if table is None:
        return None
    values = table.table("values")
    fills: list[tuple[str, float]] = []
    if values is not None:
        fills = [
            (name, values.take(name, number(-(2**53), 2**53, whole=False), 0.0))
            for name in values.keys()  # noqa: SIM118  # a Table is no mapping
        ]
    padding = Padding(
        axis=table.take("axis", number(1, 7), 1),
        values=tuple(fills),
        outputs=table.take("outputs", list_of(text), ()),
    )
    table.close()
    return padding


def _execution(table: Table | None) -> ExecutionHints:
    if table is None:
        return ExecutionHints()
    options = table.table("options")
    given: dict[str, str] = {}
    if options is not None:
        given = {key: options.take(key, text, "") for key in options.keys()}  # noqa: SIM118
    inline = table.take("inline", one_of("auto", "always", "never"), "auto")
    hints = ExecutionHints(
        provider=table.take("provider", one_of(AUTO, *PROVIDERS), "") or None,
        intra_op_threads=table.take("intra_op_threads", number(0, 1024), None),
        device_id=table.take("device_id", number(0, 1024), 0),
        options=given,
        cpu_arena=table.take("cpu_arena", truth, True),
        inline={"auto": None, "always": True, "never": False}[inline],
    )
    table.close()
    return hints


def _warmup(table: Table) -> Warmup:
    dims = table.table("dims")
    sizes: dict[str, int] = {}
    if dims is not None:
        sizes = {key: dims.take(key, number(1, 1 << 20), 1) for key in dims.keys()}  # noqa: SIM118
    sample = Warmup(
        rows=table.take("rows", number(1, 65536), 1),
        dims=sizes,
        fill=table.take("fill", one_of("zeros", "ones", "random"), "zeros"),
    )
    table.close()
    return sample


def _plain(value: float) -> int | float:
    return int(value) if value.is_integer() else value

"""Loading one version: check the files, make the session, warm it up, learn how it behaves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.errors import BackendError, ModelInvalidError
from gpu_backend.execution.datatypes import Array
from gpu_backend.execution.providers import choose
from gpu_backend.execution.session import OnnxSession, SessionOptions, TensorSpec
from gpu_backend.repository.files import ModelFolder, digest_version
from gpu_backend.repository.manifest import (
    ImageHints,
    Manifest,
    TextHints,
    Warmup,
    read_manifest,
)
from gpu_backend.repository.model import LoadedModel

__all__ = ["Loader", "check_hints", "sample_feeds"]

_log = logging.getLogger(__name__)

_MEASURE_RUNS = 5

_INLINE_BATCH_FACTOR = 10

_MEASURE_S = 0.5
"""Per batch size; a model that takes seconds is measured once."""


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions for one machine.

    Attributes:
        provider: Asked for where a manifest names none: ``auto`` or a key of `PROVIDERS`.
        available: Providers that this build of ONNX Runtime offers.
        intra_op_threads: For sessions whose manifest names none; 0 leaves it to ONNX Runtime.
        inline_limit_s: Models whose items take no longer run on the event loop.
    """

    provider: str
    available: tuple[str, ...]
    intra_op_threads: int
    inline_limit_s: float

    def load(self, folder: ModelFolder, version: int) -> LoadedModel:
        """`version`, warmed up and ready to serve. Blocks: call it on a thread.

        Raises:
            ModelInvalidError: The files are corrupt, mismatch the manifest, or fail to run.
            ExecutionProviderError: The provider asked for by name is not to be had.
        """
        started = perf_counter()
        manifest = read_manifest(folder.path)
        digest = digest_version(folder, version)
        expected = manifest.digests.get(str(version))
        if expected is not None and expected != digest:
            raise ModelInvalidError(
                f"version {version} of {folder.name!r} has digest {digest}, "
                f"its manifest expects {expected}: the files are damaged or not the ones meant"
            )
        hints = manifest.execution
        choice = choose(hints.provider or self.provider, self.available)
        threads = hints.intra_op_threads
        options = SessionOptions(
            intra_op_threads=self.intra_op_threads if threads is None else threads,
            device_id=hints.device_id,
            provider_options=hints.options,
            cpu_arena=hints.cpu_arena,
        )
        session = OnnxSession(folder.model_file(version), choice, options)
        try:
            check_hints(manifest, session)
            for sample in manifest.warmup:
                session.run(sample_feeds(session.inputs, sample))
            placement = session.end_profile()
            batchable = _is_batchable(manifest, session)
            speed = _measure(manifest, session, batchable)
        except BackendError as exc:
            session.close()
            raise ModelInvalidError(exc.message) from exc
        return LoadedModel(
            manifest,
            version,
            digest,
            session,
            placement,
            batchable,
            speed.service,
            speed.inline_units(hints.inline, self.inline_limit_s),
            folder.size_bytes(version),
            perf_counter() - started,
        )


def _is_batchable(manifest: Manifest, session: OnnxSession) -> bool:
    """True when rows of several requests may share an execution.

    Axis 0 of every tensor must be free and, where it is named, have one name; and a run of two
    rows must give two.

    Raises:
        ModelInvalidError: The manifest asks for batches that the graph cannot do.
    """
    if manifest.batching.max_batch == 1:
        return False
    reason = _why_not_batchable(manifest, session)
    if reason and manifest.batching_given:
        raise ModelInvalidError(f"[batching] max_batch is above 1, but {reason}")
    return not reason


def _why_not_batchable(manifest: Manifest, session: OnnxSession) -> str:
    specs = (*session.inputs, *session.outputs)
    fixed = [spec.name for spec in specs if not spec.shape or spec.shape[0] != -1]
    if fixed:
        return f"axis 0 of {fixed[0]!r} is fixed in the graph"
    if len({spec.symbols[0] for spec in specs}) > 1:
        return "axis 0 has different names in the graph's inputs and outputs"
    try:
        outputs = session.run(sample_feeds(session.inputs, replace(manifest.warmup[0], rows=2)))
    except BackendError as exc:
        return f"a batch of two fails: {exc.message}"
    for spec, output in zip(session.outputs, outputs, strict=True):
        if output.ndim == 0 or output.shape[0] != 2:
            return f"output {spec.name!r} has shape {list(output.shape)} for a batch of two"
    return ""


@dataclass(frozen=True, slots=True)
class _Speed:
    """What the warm-up learnt: the expected duration, and the best seen per number of units."""

    service: ServiceTime
    best: tuple[tuple[int, float], ...]

    def inline_units(self, hint: bool | None, limit_s: float) -> float:
        """How many units an execution on the event loop may have.

        By the best times, not the expected ones: on a busy machine those would flutter.

        Args:
            hint: Of the manifest; None leaves it to the measurement.
            limit_s: What one item may take. A batch may take `_INLINE_BATCH_FACTOR` times as
                long: enough for a full batch of a small model, too short for others to notice.
        """
        units, first_s = self.best[0]
        if hint is not None:
            return float("inf") if hint else 0.0
        if first_s > limit_s:
            return 0.0
        more_units, more_s = self.best[-1]
        slope = max(0.0, more_s - first_s) / (more_units - units) if more_units > units else first_s
        spare_s = limit_s * _INLINE_BATCH_FACTOR - first_s
        return units + spare_s / slope if slope else float("inf")


def _measure(manifest: Manifest, session: OnnxSession, batchable: bool) -> _Speed:
    """How long executions take, by a few runs of the first sample at two batch sizes."""
    service = ServiceTime()
    best: list[tuple[int, float]] = []
    for rows in (1, min(8, manifest.batching.max_batch)) if batchable else (1,):
        sample = replace(manifest.warmup[0], rows=rows)
        feeds = sample_feeds(session.inputs, sample)
        units = rows * _length(manifest, session.inputs, feeds)
        session.run(feeds)  # the first of a new shape allocates
        until = perf_counter() + _MEASURE_S
        times = []
        for _ in range(_MEASURE_RUNS):
            started = perf_counter()
            session.run(feeds)
            ended = perf_counter()
            times.append(ended - started)
            service.observe(units, ended - started)
            if ended > until:
                break
        best.append((units, min(times)))
    return _Speed(service, tuple(best))


def _length(manifest: Manifest, inputs: tuple[TensorSpec, ...], feeds: dict[str, Array]) -> int:
    padding = manifest.batching.padding
    if padding is None:
        return 1
    lengths = [
        feeds[spec.name].shape[padding.axis]
        for spec in inputs
        if len(spec.shape) > padding.axis and spec.shape[padding.axis] == -1
    ]
    return max(lengths, default=1)


def check_hints(manifest: Manifest, session: OnnxSession) -> None:
    """Hints must name tensors that exist.

    Raises:
        ModelInvalidError: One does not.
    """
    inputs = [spec.name for spec in session.inputs]
    outputs = [spec.name for spec in session.outputs]
    if manifest.image is not None and manifest.image.input not in inputs:
        raise ModelInvalidError(
            f"image.input is {manifest.image.input!r}, the graph has {', '.join(inputs)}"
        )
    for spec in session.inputs:
        if manifest.image is not None and spec.name == manifest.image.input:
            _check_image(manifest.image, spec)
    if manifest.output is not None and manifest.output.name not in outputs:
        raise ModelInvalidError(
            f"output.name is {manifest.output.name!r}, the graph has {', '.join(outputs)}"
        )
    if manifest.text is not None:
        _check_text(manifest.text, inputs, outputs)


def _check_text(hints: TextHints, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    named = [("input", hints.input, inputs), ("output", hints.output, outputs)]
    if hints.mask is not None:
        named.append(("mask", hints.mask, inputs))
    for key, name, there in named:
        if name not in there:
            raise ModelInvalidError(f"text.{key} is {name!r}, the graph has {', '.join(there)}")


def _check_image(hints: ImageHints, spec: TensorSpec) -> None:
    """The picture that the hints describe must fit the input.

    Raises:
        ModelInvalidError: It does not.
    """
    if spec.datatype.kind not in ("integer", "float"):
        raise ModelInvalidError(
            f"image.input {spec.name!r} is {spec.datatype.name}: pictures are numbers"
        )
    channels = 1 if hints.color == "gray" else 3
    sizes = {"N": 1, "C": channels, "H": hints.height, "W": hints.width}
    shape = [sizes[axis] for axis in hints.layout]
    fits = len(shape) == len(spec.shape) and all(
        free in (-1, size) for size, free in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise ModelInvalidError(
            f"[image] makes a tensor of shape {shape} ({hints.layout}, {hints.color}), "
            f"input {spec.name!r} takes {list(spec.shape)}"
        )


def sample_feeds(inputs: tuple[TensorSpec, ...], sample: Warmup) -> dict[str, Array]:
    """Inputs for a warm-up run: `sample.rows` rows of what `sample.fill` says."""
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for spec in inputs:
        shape = [
            size if size >= 0 else _free(spec, axis, sample) for axis, size in enumerate(spec.shape)
        ]
        feeds[spec.name] = _filled(spec, shape, sample.fill, random)
    return feeds


def _free(spec: TensorSpec, axis: int, sample: Warmup) -> int:
    symbol = spec.symbols[axis]
    if symbol is not None and symbol in sample.dims:
        return sample.dims[symbol]
    return sample.rows if axis == 0 else 1


def _filled(spec: TensorSpec, shape: list[int], fill: str, random: np.random.Generator) -> Array:
    datatype = spec.datatype
    if datatype.kind == "text":
        return np.full(shape, "", dtype=object)
    if fill == "zeros":
        return np.zeros(shape, datatype.dtype)
    if fill == "ones":
        bits = 0x3F80 if datatype.name == "BF16" else 1
        return np.full(shape, bits, datatype.dtype)
    if datatype.kind == "float" and datatype.name != "BF16":
        return random.random(shape).astype(datatype.dtype)
    high = 256 if datatype.size == 1 and datatype.dtype.kind == "u" else 2
    return random.integers(0, high, shape).astype(datatype.dtype)

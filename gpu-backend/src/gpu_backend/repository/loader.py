"""Loading one version: check the files, make the session, warm it up, learn how it behaves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from gpu_backend.errors import BackendError, ModelInvalidError
from gpu_backend.execution.providers import choose
from gpu_backend.execution.session import OnnxSession, SessionOptions, TensorSpec
from gpu_backend.repository.calibration import Calibration, calibrate, sample_feeds
from gpu_backend.repository.files import ModelFolder, digest_version
from gpu_backend.repository.manifest import (
    ImageHints,
    Manifest,
    TextHints,
    read_manifest,
)
from gpu_backend.repository.model import LoadedModel

__all__ = ["Loader", "check_hints"]

_log = logging.getLogger(__name__)


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
        try:
            return self._load(folder, version)
        except OSError as exc:  # a file that vanished meanwhile, or may not be read
            raise ModelInvalidError(f"cannot read {folder.path.name}: {exc}") from exc

    def _load(self, folder: ModelFolder, version: int) -> LoadedModel:
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
            calibration = calibrate(manifest, session, batchable)
        except BackendError as exc:
            session.close()
            raise ModelInvalidError(exc.message) from exc
        if batchable and not manifest.max_batch_given:
            manifest = _cap(manifest, calibration)
        return LoadedModel(
            manifest,
            version,
            digest,
            session,
            placement,
            batchable,
            calibration.service,
            calibration.inline_units(hints.inline, self.inline_limit_s),
            folder.size_bytes(version),
            perf_counter() - started,
        )


def _cap(manifest: Manifest, calibration: Calibration) -> Manifest:
    """`manifest` with the batch size that the warm-up found worthwhile."""
    if manifest.batching.padding is not None:
        return manifest  # what pays depends on lengths that no sample stands for
    rows = calibration.worthwhile_rows()
    if rows is None:
        return manifest
    _log.info("model %s: batches beyond %d rows are slower by the row", manifest.name, rows)
    return replace(manifest, batching=replace(manifest.batching, max_batch=rows))


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
    if reason and manifest.max_batch_given:
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

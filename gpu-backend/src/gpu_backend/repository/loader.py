"""Loading one version: check the files, make the session, warm it up, learn how it behaves."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from gpu_backend.errors import BackendError, ModelInvalidError
from gpu_backend.execution.datatypes import Array
from gpu_backend.execution.providers import choose
from gpu_backend.execution.session import OnnxSession, SessionOptions, TensorSpec
from gpu_backend.repository.files import ModelFolder, digest_version
from gpu_backend.repository.manifest import Manifest, Warmup, read_manifest
from gpu_backend.repository.model import LoadedModel

__all__ = ["Loader"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions for one machine.

    Attributes:
        provider: Asked for where a manifest names none: ``auto`` or a key of `PROVIDERS`.
        available: Providers that this build of ONNX Runtime offers.
        intra_op_threads: For sessions whose manifest names none; 0 leaves it to ONNX Runtime.
    """

    provider: str
    available: tuple[str, ...]
    intra_op_threads: int

    def load(self, folder: ModelFolder, version: int) -> LoadedModel:
        """`version`, warmed up and ready to serve. Blocks: call it on a thread.

        Raises:
            ModelInvalidError: The files are corrupt, mismatch the manifest, or fail to run.
            ExecutionProviderError: The provider asked for by name is not to be had.
        """
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
            _check_hints(manifest, session)
            for sample in manifest.warmup:
                session.run(sample_feeds(session.inputs, sample))
            placement = session.end_profile()
        except BackendError as exc:
            session.close()
            raise ModelInvalidError(
                f"version {version} of {folder.name!r} cannot serve: {exc.message}"
            ) from exc
        return LoadedModel(manifest, version, digest, session, placement, _is_batchable(session))


def _is_batchable(session: OnnxSession) -> bool:
    """True when axis 0 of every tensor is free and, where named, has one name."""
    specs = (*session.inputs, *session.outputs)
    if any(not spec.shape or spec.shape[0] != -1 for spec in specs):
        return False
    return len({spec.symbols[0] for spec in specs}) == 1


def _check_hints(manifest: Manifest, session: OnnxSession) -> None:
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
    if manifest.output is not None and manifest.output.name not in outputs:
        raise ModelInvalidError(
            f"output.name is {manifest.output.name!r}, the graph has {', '.join(outputs)}"
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

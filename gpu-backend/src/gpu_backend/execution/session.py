"""One ONNX Runtime session: loads a model file, tells its tensors and hardware, runs batches.

Owns the native session. ONNX Runtime's exceptions are translated here and nowhere else.
"""

from __future__ import annotations

import ctypes
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from gpu_backend.errors import (
    BackendError,
    ExecutionFailedError,
    InvalidInputError,
    ModelInvalidError,
)
from gpu_backend.execution.datatypes import BY_ORT_TYPE, Array, Datatype
from gpu_backend.execution.placement import Placement, count_nodes
from gpu_backend.execution.providers import CPU, ProviderChoice, ProviderStatus

__all__ = ["Feeds", "OnnxSession", "SessionOptions", "TensorSpec"]

Feeds = Mapping[str, Array]
"""Input name to array: C-contiguous, aligned, of the input's datatype."""

_ORT_FAILURES: tuple[type[Exception], ...] = (
    # Its classes have no base of their own, so they are gathered: a new one is caught as well.
    *(
        kind
        for kind in vars(ort_errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    RuntimeError,
    ValueError,
)
"""What ONNX Runtime raises from loading and running."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: As in the graph.
        datatype: Of its elements.
        shape: -1 stands for a dimension that is free.
        symbols: Name of each free dimension where the graph gives one.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    symbols: tuple[str | None, ...]

    def describe(self) -> dict[str, object]:
        """As in the metadata of a model."""
        return {"name": self.name, "datatype": self.datatype.name, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        intra_op_threads: Threads inside one operator; 0 leaves it to ONNX Runtime.
        inter_op_threads: Threads between operators; above 1 runs branches in parallel.
        spinning: Let idle threads spin. Off, because spinning steals the cores that serve HTTP.
        device_id: Which accelerator.
        provider_options: Passed to the execution provider as they are.
        cpu_arena: Keep freed memory for the next run. Faster for big activations; memory of an
            arena goes back when the session is closed.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 1
    spinning: bool = False
    device_id: int = 0
    provider_options: Mapping[str, str] = field(default_factory=dict)
    cpu_arena: bool = True


class OnnxSession:
    """A loaded model. `close` frees it; after that it must not run.

    Attributes:
        inputs: In the graph's order.
        outputs: In the graph's order.
        status: The execution provider asked for and the one that is active.
    """

    def __init__(
        self, path: Path, choice: ProviderChoice, options: SessionOptions | None = None
    ) -> None:
        """Load `path`.

        Raises:
            ModelInvalidError: The file is no model, is corrupt, lacks external data, or uses what
                this build does not support.
            ExecutionProviderError: The provider asked for by name is not active after loading.
        """
        native = _native_options(options or SessionOptions())
        self._profile_dir = tempfile.TemporaryDirectory(prefix="ort-profile-")
        native.enable_profiling = True
        native.profile_file_prefix = str(Path(self._profile_dir.name) / "load")
        try:
            self._session = ort.InferenceSession(
                str(path), native, providers=_providers(choice, options or SessionOptions())
            )
        except _ORT_FAILURES as exc:
            self._profile_dir.cleanup()
            raise ModelInvalidError(f"cannot load {path.name}: {_reason(exc)}") from exc
        try:
            self.status: ProviderStatus = choice.settle(self._session.get_providers())
            self.inputs = tuple(_spec(node, path) for node in self._session.get_inputs())
            self.outputs = tuple(_spec(node, path) for node in self._session.get_outputs())
        except BackendError:
            self.close()
            raise
        self.output_names = [spec.name for spec in self.outputs]
        self._has_bfloat16 = any(
            spec.datatype.name == "BF16" for spec in (*self.inputs, *self.outputs)
        )
        self._binds = self.status.active != CPU
        self._outputs_by_name = {spec.name: spec for spec in self.outputs}

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        """Compute `outputs` (default: all, in the graph's order).

        Args:
            feeds: One array per input.
            outputs: Names of the outputs wanted.

        Raises:
            InvalidInputError: The graph refuses a value, as an index that is out of range.
            ExecutionFailedError: The runtime failed.
        """
        names = self.output_names if outputs is None else list(outputs)
        try:
            if self._has_bfloat16:
                return self._run_values(feeds, names)
            if self._binds:
                return self._run_bound(feeds, names)
            result: list[Array] = self._session.run(names, feeds)
            return result
        except ort_errors.InvalidArgument as exc:
            raise InvalidInputError(f"the model refuses the input: {_reason(exc)}") from exc
        except _ORT_FAILURES as exc:
            raise ExecutionFailedError(f"the runtime failed: {_reason(exc)}") from exc

    def end_profile(self) -> Placement:
        """Where the graph's nodes ran since loading; to be called once, after a first run."""
        try:
            return count_nodes(Path(self._session.end_profiling()))
        finally:
            self._profile_dir.cleanup()

    def close(self) -> None:
        """Free the native session and what it holds on the device."""
        del self._session
        self._profile_dir.cleanup()

    def _run_bound(self, feeds: Feeds, names: Sequence[str]) -> list[Array]:
        """On an accelerator: copies of inputs start at once, outputs are fetched once."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            if array.dtype == object:
                result: list[Array] = self._session.run(list(names), feeds)
                return result
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        copied: list[Array] = binding.copy_outputs_to_cpu()
        return copied

    def _run_values(self, feeds: Feeds, names: Sequence[str]) -> list[Array]:
        """With bfloat16, which numpy lacks: pass bits in and take bits out."""
        values = {}
        for spec in self.inputs:
            array = feeds[spec.name]
            values[spec.name] = (
                ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, spec.datatype.onnx_type)
                if spec.datatype.name == "BF16"
                else ort.OrtValue.ortvalue_from_numpy(array)
            )
        results = self._session.run_with_ort_values(list(names), values)
        return [
            _bits(value) if self._outputs_by_name[name].datatype.name == "BF16" else value.numpy()
            for name, value in zip(names, results, strict=True)
        ]


def _bits(value: ort.OrtValue) -> Array:
    """A copy of a bfloat16 value's memory."""
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, dtype="<u2").reshape(value.shape())


def _native_options(options: SessionOptions) -> ort.SessionOptions:
    native = ort.SessionOptions()
    native.intra_op_num_threads = options.intra_op_threads
    native.inter_op_num_threads = options.inter_op_threads
    if options.inter_op_threads > 1:
        native.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    spinning = "1" if options.spinning else "0"
    native.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    native.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    native.enable_cpu_mem_arena = options.cpu_arena
    native.log_severity_level = 4  # what goes wrong is raised, and logged by us, once
    return native


def _providers(
    choice: ProviderChoice, options: SessionOptions
) -> list[str | tuple[str, dict[str, str]]]:
    target_options = dict(options.provider_options)
    if choice.target in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        target_options.setdefault("device_id", str(options.device_id))
    return [
        (name, target_options) if name == choice.target and target_options else name
        for name in choice.providers
    ]


def _spec(node: ort.NodeArg, path: Path) -> TensorSpec:
    datatype = BY_ORT_TYPE.get(node.type)
    if datatype is None:
        raise ModelInvalidError(
            f"cannot serve {path.name}: {node.name!r} is a {node.type}, "
            "which the Open Inference Protocol cannot carry"
        )
    return TensorSpec(
        node.name,
        datatype,
        tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape),
        tuple(dim if isinstance(dim, str) else None for dim in node.shape),
    )


_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : "  # the code, which the exception's class says
    r"|Load model from .*? failed:\s*"  # a path of this machine, which is no client's business
    r"|/onnxruntime_src/\S+:\d+ [^(]*\([^)]*\) "  # where in its sources it was noticed
)


def _reason(exc: Exception) -> str:
    """The first line of ONNX Runtime's text, without what helps only its own authors."""
    text = _NOISE.sub("", str(exc)).strip()
    return (text.splitlines() or [type(exc).__name__])[0][:500]

"""The choice of an execution provider, and the truth about what came of it.

A choice by name that cannot be met is an error. `auto` takes the best provider that this build
of ONNX Runtime offers and says why. Asking is not having: ONNX Runtime falls back to the CPU
when a provider's libraries or devices are missing, so the answer counts only after the session
has told what it runs on (`ProviderChoice.settle`).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from gpu_backend.errors import ExecutionProviderError

__all__ = ["AUTO", "CPU", "PROVIDERS", "ProviderChoice", "ProviderStatus", "choose"]

AUTO = "auto"
CPU = "CPUExecutionProvider"

PROVIDERS = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
"""What `--execution-provider` takes besides `auto`, and ONNX Runtime's name for it."""

_AUTO_ORDER = ("cuda", "migraphx", "rocm", "openvino", "coreml", "directml")
"""Accelerators in the order `auto` prefers them. TensorRT is not among them: it compiles engines
for minutes when a model is loaded, which nobody should meet unasked."""

_WHEELS = {
    "cuda": "install the `cuda` extra (onnxruntime-gpu) or use the CUDA image",
    "tensorrt": "install the `cuda` extra (onnxruntime-gpu) with the TensorRT libraries",
    "openvino": "install onnxruntime-openvino",
    "migraphx": "install onnxruntime-migraphx",
    "rocm": "install onnxruntime-rocm",
    "qnn": "install onnxruntime-qnn",
    "directml": "install onnxruntime-directml",
}


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """What was asked for, what could have been had, and what a session really runs on.

    Attributes:
        requested: ``auto`` or a key of `PROVIDERS`.
        active: ONNX Runtime's name of the first provider the session reports.
        available: Every provider this build of ONNX Runtime offers.
        reason: One sentence for people.
        degraded: An accelerator was meant to be used and is not.
    """

    requested: str
    active: str
    available: tuple[str, ...]
    reason: str
    degraded: bool

    def describe(self) -> dict[str, object]:
        """As in the metadata of a model."""
        return {
            "requested": self.requested,
            "active": self.active,
            "available": list(self.available),
            "reason": self.reason,
            "degraded": self.degraded,
        }


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """What to ask ONNX Runtime for.

    Attributes:
        requested: ``auto`` or a key of `PROVIDERS`.
        target: ONNX Runtime's name of the provider wanted.
        available: Every provider this build of ONNX Runtime offers.
        reason: Why `target` was taken.
    """

    requested: str
    target: str
    available: tuple[str, ...]
    reason: str

    @property
    def providers(self) -> list[str]:
        """For `InferenceSession`: the CPU comes last, for the nodes the target cannot run."""
        return [self.target] if self.target == CPU else [self.target, CPU]

    def settle(self, active: Sequence[str]) -> ProviderStatus:
        """The truth, from what the session reports.

        Args:
            active: `InferenceSession.get_providers()`.

        Raises:
            ExecutionProviderError: The provider was asked for by name and the session lacks it.
        """
        first = active[0] if active else CPU
        if first == self.target:
            return ProviderStatus(self.requested, first, self.available, self.reason, False)
        missing = (
            f"{self.target} is offered by this build, but the session runs on {first}: "
            "its libraries or its device are missing (ONNX Runtime's log names them)"
        )
        if self.requested != AUTO:
            raise ExecutionProviderError(
                f"execution provider {self.requested!r} cannot be met: {missing}"
            )
        return ProviderStatus(self.requested, first, self.available, f"auto: {missing}", True)


def choose(requested: str, available: Sequence[str]) -> ProviderChoice:
    """Decide which provider to ask for.

    Args:
        requested: ``auto`` or a key of `PROVIDERS`, in any case.
        available: `onnxruntime.get_available_providers()`.

    Raises:
        ExecutionProviderError: The name is unknown, or this build does not offer the provider.
    """
    name = requested.strip().lower()
    offered = tuple(available)
    if name == AUTO:
        return _choose_automatically(offered)
    target = PROVIDERS.get(name)
    if target is None:
        close = difflib.get_close_matches(name, [AUTO, *PROVIDERS], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ExecutionProviderError(
            f"execution provider {requested!r} is unknown{hint} "
            f"(one of {', '.join([AUTO, *PROVIDERS])})"
        )
    if target not in offered:
        remedy = _WHEELS.get(name, "this platform has no wheel that offers it")
        raise ExecutionProviderError(
            f"execution provider {name!r} cannot be met: this build of ONNX Runtime offers "
            f"{', '.join(offered)}; {remedy}, or choose `auto`"
        )
    return ProviderChoice(name, target, offered, "asked for by name")


def _choose_automatically(offered: tuple[str, ...]) -> ProviderChoice:
    for name in _AUTO_ORDER:
        if PROVIDERS[name] in offered:
            reason = f"auto: the best accelerator this build offers is {name}"
            return ProviderChoice(AUTO, PROVIDERS[name], offered, reason)
    return ProviderChoice(AUTO, CPU, offered, "auto: this build offers no accelerator")

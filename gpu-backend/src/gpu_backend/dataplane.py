"""What the backend does, free of any wire protocol: validate, infer, describe.

Every protocol (`gpu_backend.api`) turns its messages into the calls below and back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

from gpu_backend.errors import InvalidInputError
from gpu_backend.execution.datatypes import Array, Datatype
from gpu_backend.execution.session import TensorSpec
from gpu_backend.repository.model import LoadedModel
from gpu_backend.repository.repository import Repository

__all__ = ["Dataplane", "InferResult", "Tensor"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named array; `array` has the numpy type of `datatype`."""

    name: str
    datatype: Datatype
    array: Array


@dataclass(frozen=True, slots=True)
class InferResult:
    """Outputs in the order asked for, and what it took.

    Attributes:
        model: The version that answered.
        outputs: One tensor per output.
        compute_s: Seconds in the runtime.
    """

    model: LoadedModel
    outputs: list[Tensor]
    compute_s: float


class Dataplane:
    """The calls every protocol is made of."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="execution")

    def ready(self) -> bool:
        """True when every model can serve."""
        return not self.repository.failures

    def describe(self, name: str, version: str | None = None) -> dict[str, object]:
        """Metadata of a model: the protocol's members, and what the edge needs as parameters.

        Raises:
            ModelNotFoundError: No such model or version.
            ModelNotReadyError: It exists and cannot serve.
        """
        model = self.repository.get(name, version)
        manifest = model.manifest
        return {
            "name": model.name,
            "versions": [str(model.version)],
            "platform": manifest.platform,
            "inputs": [spec.describe() for spec in model.inputs.values()],
            "outputs": [spec.describe() for spec in model.outputs.values()],
            "parameters": {
                "version": str(model.version),
                "digest": model.digest,
                "task": manifest.task,
                "image": None if manifest.image is None else manifest.image.describe(),
                "output": None if manifest.output is None else manifest.output.describe(),
                "labels": list(manifest.labels),
                "execution_provider": model.session.status.describe(),
            },
        }

    async def infer(
        self, model: LoadedModel, inputs: Sequence[Tensor], outputs: Sequence[str] | None
    ) -> InferResult:
        """Run `model` on `inputs`.

        Args:
            model: From `Repository.get`.
            inputs: One tensor per input of the model, in any order.
            outputs: Names of the outputs wanted; None means all.

        Raises:
            InvalidInputError: Names, datatypes or shapes do not fit the model.
            ExecutionFailedError: The runtime failed.
        """
        feeds = check_inputs(model, inputs)
        names = check_outputs(model, outputs)
        started = perf_counter()
        loop = asyncio.get_running_loop()
        arrays = await loop.run_in_executor(self._threads, model.session.run, feeds, names)
        compute_s = perf_counter() - started
        tensors = [
            Tensor(name, model.outputs[name].datatype, array)
            for name, array in zip(names, arrays, strict=True)
        ]
        return InferResult(model, tensors, compute_s)


def check_inputs(model: LoadedModel, inputs: Sequence[Tensor]) -> dict[str, Array]:
    """Feeds for the session.

    Raises:
        InvalidInputError: Names the tensor, what the model expects, and what was given.
    """
    feeds: dict[str, Array] = {}
    for tensor in inputs:
        spec = model.inputs.get(tensor.name)
        if spec is None:
            raise InvalidInputError(
                f"model {model.name!r} has no input {tensor.name!r}; "
                f"it takes {', '.join(map(repr, model.inputs))}",
                param=tensor.name,
            )
        if tensor.name in feeds:
            raise InvalidInputError(f"input {tensor.name!r} is given twice", param=tensor.name)
        if tensor.datatype is not spec.datatype:
            raise InvalidInputError(
                f"input {tensor.name!r}: expected datatype {spec.datatype.name}, "
                f"got {tensor.datatype.name}",
                param=tensor.name,
            )
        check_shape(spec, tensor.array.shape)
        feeds[tensor.name] = tensor.array
    if len(feeds) != len(model.inputs):
        missing = [name for name in model.inputs if name not in feeds]
        raise InvalidInputError(
            f"input {missing[0]!r} is missing; model {model.name!r} takes "
            f"{', '.join(map(repr, model.inputs))}",
            param=missing[0],
        )
    return feeds


def check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Nothing when `shape` fits `spec`.

    Raises:
        InvalidInputError: It does not.
    """
    if len(shape) == len(spec.shape):
        for given, expected in zip(shape, spec.shape, strict=True):
            if given != expected and expected != -1:
                break
        else:
            return
    raise InvalidInputError(
        f"input {spec.name!r}: expected shape {list(spec.shape)}, got {list(shape)}",
        param=spec.name,
    )


def check_outputs(model: LoadedModel, outputs: Sequence[str] | None) -> list[str]:
    """Names of the outputs to compute.

    Raises:
        InvalidInputError: The model has no such output, or one is named twice.
    """
    if not outputs:
        return list(model.outputs)
    for index, name in enumerate(outputs):
        if name not in model.outputs:
            raise InvalidInputError(
                f"model {model.name!r} has no output {name!r}; "
                f"it gives {', '.join(map(repr, model.outputs))}",
                param=name,
            )
        if name in outputs[:index]:
            raise InvalidInputError(f"output {name!r} is asked for twice", param=name)
    return list(outputs)

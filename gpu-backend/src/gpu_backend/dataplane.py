"""What the backend does, free of any wire protocol: validate, infer, describe.

Every protocol (`gpu_backend.api`) turns its messages into the calls below and back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from gpu_backend.batching.item import DEFAULT_URGENCY, Outcome, Ticket
from gpu_backend.errors import (
    DeadlineExceededError,
    InvalidInputError,
    RequestCancelledError,
)
from gpu_backend.execution.datatypes import Array, Datatype
from gpu_backend.execution.session import TensorSpec
from gpu_backend.llm.language_models import LanguageModels
from gpu_backend.repository.model import LoadedModel
from gpu_backend.repository.repository import Repository

__all__ = ["Dataplane", "InferCall", "InferResult", "Tensor"]

_STUCK_S = 60.0
"""An execution that is this much later than expected will not come back."""


@dataclass(slots=True)
class Tensor:
    """One named array; `array` has the numpy type of `datatype`."""

    name: str
    datatype: Datatype
    array: Array


@dataclass(slots=True)
class InferResult:
    """Outputs in the order asked for, and what it took.

    Attributes:
        model: The version that answered.
        outputs: One tensor per output.
        queue_s: Seconds from admission to execution.
        compute_s: Seconds of the execution.
        batch_rows: Rows of the execution, other requests' included.
    """

    model: LoadedModel
    outputs: list[Tensor]
    queue_s: float
    compute_s: float
    batch_rows: int


class InferCall:
    """One inference on its way: admitted, waiting or done. Await `result`."""

    __slots__ = ("_model", "_names", "_tickets", "is_quick")

    def __init__(
        self, model: LoadedModel, names: Sequence[str], tickets: list[Ticket], is_quick: bool
    ) -> None:
        self._model = model
        self._names = names
        self._tickets = tickets
        self.is_quick = is_quick
        """Expected to be done before it is worth watching whether the client is still there."""

    async def result(self) -> InferResult:
        """The answer.

        Raises:
            DeadlineExceededError: It did not come in time.
            InvalidInputError: The graph refuses a value.
            ExecutionFailedError: The runtime failed.
            RequestCancelledError: `leave` was called.
        """
        try:
            if len(self._tickets) == 1:
                outcome = await self._tickets[0].future
            else:
                outcome = _join(await asyncio.gather(*(t.future for t in self._tickets)))
        except BaseException:
            self._abandon()
            raise
        model = self._model
        index = model.output_index
        outputs = [
            Tensor(name, model.outputs[name].datatype, outcome.outputs[index[name]])
            for name in self._names
        ]
        return InferResult(model, outputs, outcome.queue_s, outcome.compute_s, outcome.batch_rows)

    def leave(self) -> None:
        """The client has gone: `result` raises, and what is queued is freed."""
        for ticket in self._tickets:
            self._model.batcher.abandon(ticket, RequestCancelledError("the client has gone"))

    def _abandon(self) -> None:
        for ticket in self._tickets:
            self._model.batcher.abandon(ticket)


def _join(parts: Sequence[Outcome]) -> Outcome:
    """One outcome of a request that was computed in several parts."""
    outputs = [np.concatenate(arrays) for arrays in zip(*(p.outputs for p in parts), strict=True)]
    return Outcome(
        outputs,
        parts[0].queue_s,
        sum(part.compute_s for part in parts),
        max(part.batch_rows for part in parts),
    )


class Dataplane:
    """The calls every protocol is made of.

    Args:
        repository: Of models.
        max_wait_s: Longest time any request waits for its answer, whatever its own deadline.
        require_provider: Not ready while a model runs on another provider than it should.
        language_models: That generate text; none where not given.
    """

    def __init__(
        self,
        repository: Repository,
        max_wait_s: float,
        require_provider: bool = False,
        language_models: LanguageModels | None = None,
    ) -> None:
        self.repository = repository
        self.language_models = language_models or LanguageModels((), 0)
        self.is_stopping = False
        self._max_wait_s = max_wait_s
        self._require_provider = require_provider

    def ready(self) -> tuple[bool, list[str]]:
        """Whether requests are welcome, and everything that is not as it was meant to be.

        One model that fails does not turn the others away: its own readiness tells.
        """
        reasons = []
        is_ready = self.repository.started and not self.is_stopping
        if not self.repository.started:
            reasons.append("models are being loaded")
        if self.is_stopping:
            reasons.append("the backend is shutting down")
        for slot in self.repository.slots():
            reason = slot.reason()
            if reason and not slot.unloaded:
                reasons.append(f"model {slot.name}: {reason}")
            for model in slot.serving.values():
                status = model.session.status
                if status.degraded:
                    reasons.append(f"model {slot.name}: {status.reason}")
                    is_ready = is_ready and not self._require_provider
                stuck_s = model.batcher.stuck_for()
                if stuck_s > _STUCK_S:
                    reasons.append(f"model {slot.name}: an execution hangs for {stuck_s:.0f} s")
                    is_ready = False
        reasons += self.language_models.faults()
        return is_ready, reasons

    async def wait_for_model(
        self, name: str, version: str | None, deadline: float | None = None
    ) -> LoadedModel:
        """The version that answers, loaded on demand, within the time there is.

        Raises:
            ModelNotFoundError: No such model or version.
            ModelNotReadyError: It exists and cannot serve.
            DeadlineExceededError: It is still being loaded.
        """
        found = self.repository.find(name, version)
        if found is not None:
            return found
        left_s = self._max_wait_s
        if deadline is not None:
            left_s = min(left_s, deadline - perf_counter())
        try:
            async with asyncio.timeout(left_s):
                return await self.repository.get(name, version)
        except TimeoutError as exc:
            raise DeadlineExceededError(f"model {name!r} is still being loaded") from exc

    def count(self, name: str, outcome: str, seconds: float) -> None:
        """Account for one request to the model `name`; names that are no model count nowhere."""
        stats = self.repository.stats_of(name)
        if stats is not None:
            stats.answered(outcome, seconds)

    def begin(
        self,
        model: LoadedModel,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] | None,
        *,
        deadline: float | None = None,
        urgency: int = DEFAULT_URGENCY,
    ) -> InferCall:
        """Check a request and queue it.

        Args:
            model: From the repository, with no await in between.
            inputs: One tensor per input of the model, in any order.
            outputs: Names of the outputs wanted; None means all.
            deadline: `perf_counter` time after which the answer is worthless.
            urgency: 0 to 7, 0 the most urgent.

        Raises:
            InvalidInputError: Names, datatypes or shapes do not fit the model.
            OverloadedError: The wait would be too long.
            DeadlineExceededError: The time left is too short for the model.
        """
        feeds = check_inputs(model, inputs)
        names = check_outputs(model, outputs)
        model.last_used = now = perf_counter()
        items = model.make_items(feeds, urgency)
        is_quick = not model.batcher.expects_thread(items[0].units)
        if not is_quick:
            latest = now + self._max_wait_s
            deadline = latest if deadline is None else min(deadline, latest)
        tickets: list[Ticket] = []
        try:
            for item in items:
                tickets.append(model.batcher.submit(item, deadline))  # noqa: PERF401  # may raise
        except BaseException:
            for ticket in tickets:
                model.batcher.abandon(ticket)
            raise
        return InferCall(model, names, tickets, is_quick)


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
    if model.shares_dims:
        _check_shared_dims(model, feeds)
    return feeds


def check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Nothing when `shape` fits `spec`.

    Raises:
        InvalidInputError: It does not.
    """
    if len(shape) == len(spec.shape):
        for given, expected in zip(shape, spec.shape, strict=True):
            # An empty dimension would reach kernels that are not written for it.
            if given == 0 or (given != expected and expected != -1):
                break
        else:
            return
    raise InvalidInputError(
        f"input {spec.name!r}: expected shape {list(spec.shape)}, got {list(shape)}"
        + ("; no dimension may be 0" if 0 in shape else ""),
        param=spec.name,
    )


def _check_shared_dims(model: LoadedModel, feeds: dict[str, Array]) -> None:
    """Free dimensions of one name have one size; so have all batch axes.

    Raises:
        InvalidInputError: They do not.
    """
    sizes: dict[str, tuple[str, int, int]] = {}
    for spec in model.inputs.values():
        for axis, symbol in enumerate(spec.symbols):
            if spec.shape[axis] != -1:
                continue
            key = "the batch axis" if axis == 0 and model.batchable else symbol
            if key is None:
                continue
            size = feeds[spec.name].shape[axis]
            other, other_axis, expected = sizes.setdefault(key, (spec.name, axis, size))
            if size != expected:
                raise InvalidInputError(
                    f"input {spec.name!r}: axis {axis} ({key}) is {size}, "
                    f"but axis {other_axis} of {other!r} is {expected}",
                    param=spec.name,
                )


def check_outputs(model: LoadedModel, outputs: Sequence[str] | None) -> Sequence[str]:
    """Names of the outputs to answer with.

    Raises:
        InvalidInputError: The model has no such output, or one is named twice.
    """
    if not outputs:
        return model.session.output_names
    for index, name in enumerate(outputs):
        if name not in model.outputs:
            raise InvalidInputError(
                f"model {model.name!r} has no output {name!r}; "
                f"it gives {', '.join(map(repr, model.outputs))}",
                param=name,
            )
        if name in outputs[:index]:
            raise InvalidInputError(f"output {name!r} is asked for twice", param=name)
    return outputs

"""Infer of the Open Inference Protocol v2 over HTTP.

A bare ASGI callable, because routing and request objects cost more than a small model.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

from starlette.types import Receive, Scope, Send

from gpu_backend.api.http import (
    ON_DISCONNECT,
    Fields,
    Part,
    compress,
    correlation,
    decompress,
    fields_of,
    must_close,
    pick_coding,
    read_body,
    respond,
)
from gpu_backend.api.infer_messages import (
    HEADER_LENGTH,
    InferMessage,
    encode_infer_response,
    parse_infer_request,
    parse_raw_request,
)
from gpu_backend.api.problems import problem
from gpu_backend.batching.item import DEFAULT_URGENCY, LEVELS
from gpu_backend.dataplane import Dataplane, InferResult
from gpu_backend.errors import (
    BackendError,
    DeadlineExceededError,
    InvalidInputError,
    RequestCancelledError,
)
from gpu_backend.monitoring.tracing import Tracer
from gpu_backend.processing.pool import CodecPool

__all__ = ["INFER_PATH", "InferRoute", "read_deadline", "read_urgency"]

INFER_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

_COMPRESS_FROM_BYTES = 1024
"""Below it, compressing costs more time than sending."""

_REFUSAL_PAUSE_S = 0.005
"""Before a refusal for overload. Thirty clients that ignore `Retry-After` otherwise keep a core
busy with refusals, and the model computes with what is left."""

_INLINE_MAX_BYTES = 128 << 10
"""Of JSON in and of tensors out: more is read and written on a thread, a millisecond per 100 KB."""

_INLINE_MAX_COMPRESSED = 2 << 10
"""A body of this size inflates a thousandfold at most, which takes milliseconds."""

_URGENCY = re.compile(rb"(?:^|[,\s])u=([0-7])(?:$|[,;\s])")
"""The urgency of a `Priority` field, RFC 9218, section 4.1."""

_MAX_DEADLINE_MS = 86_400_000.0


class InferRoute:
    """`POST /v2/models/{name}[/versions/{version}]/infer`.

    Args:
        dataplane: Does the work.
        pool: Reads and writes what is too large for the event loop.
        max_body_bytes: Of a request, before and after decompression.
        tracer: Spans, where tracing is on.
    """

    def __init__(
        self, dataplane: Dataplane, pool: CodecPool, max_body_bytes: int, tracer: Tracer
    ) -> None:
        self._dataplane = dataplane
        self._pool = pool
        self._max_body_bytes = max_body_bytes
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is an answer."""
        arrived = perf_counter()
        fields = fields_of(scope)
        match = INFER_PATH.fullmatch(scope["path"])
        assert match is not None  # the router sends nothing else here
        name, version = match.groups()
        outcome = "internal"
        try:
            with self._tracer.span(b"infer", name, fields):
                # The body comes first: an answer that overtakes it breaks clients' connections.
                body = await read_body(receive, fields, self._max_body_bytes)
                self._knock(name, version, fields, arrived)
                body = await self._decompressed(body, fields)
                message, result = await self._infer(name, version, body, fields, arrived, scope)
                headers, parts = await self._encoded(message, result, fields)
            await respond(scope, send, 200, headers, *parts)
            outcome = "ok"
        except BackendError as exc:
            outcome = exc.code
            if not isinstance(exc, RequestCancelledError):
                await self._refuse(scope, send, fields, exc)
        finally:
            self._dataplane.count(name, outcome, perf_counter() - arrived)

    def _knock(self, name: str, version: str | None, fields: Fields, arrived: float) -> None:
        """Under overload, refuse at the least cost: nothing of the body is looked at."""
        model = self._dataplane.repository.find(name, version)
        if model is not None and model.batcher.queued:
            model.batcher.knock(read_urgency(fields, {}), read_deadline(fields, {}, arrived))

    async def _infer(
        self,
        name: str,
        version: str | None,
        body: bytes,
        fields: Fields,
        arrived: float,
        scope: Scope,
    ) -> tuple[InferMessage, InferResult]:
        dataplane = self._dataplane
        head_length = fields.get(HEADER_LENGTH)
        if head_length != b"0":
            if head_length is None and len(body) > _INLINE_MAX_BYTES:
                message = await self._pool.run(partial(parse_infer_request, body, None))
            else:
                message = parse_infer_request(body, head_length)
        parameters = {} if head_length == b"0" else message.parameters
        deadline = read_deadline(fields, parameters, arrived)
        model = dataplane.repository.find(name, version)
        if model is None:
            model = await dataplane.wait_for_model(name, version, deadline)
        if head_length == b"0":
            message = parse_raw_request(model, body)
        call = dataplane.begin(
            model,
            message.inputs,
            message.outputs,
            deadline=deadline,
            urgency=read_urgency(fields, message.parameters),
        )
        if not call.is_quick:
            scope[ON_DISCONNECT] = call.leave
        return message, await call.result()

    async def _decompressed(self, body: bytes, fields: Fields) -> bytes:
        coding = fields.get(b"content-encoding")
        if coding is None:
            return body
        work = partial(decompress, body, coding, self._max_body_bytes)
        return work() if len(body) <= _INLINE_MAX_COMPRESSED else await self._pool.run(work)

    async def _encoded(
        self, message: InferMessage, result: InferResult, fields: Fields
    ) -> tuple[list[tuple[bytes, bytes]], Sequence[Part]]:
        size = sum(tensor.array.nbytes for tensor in result.outputs)
        if size <= _INLINE_MAX_BYTES:
            return _encode(message, result, fields)
        return await self._pool.run(partial(_encode, message, result, fields))

    async def _refuse(self, scope: Scope, send: Send, fields: Fields, error: BackendError) -> None:
        if error.code == "overloaded":
            # A client that tries again at once, against its instructions, gets no further by it.
            await asyncio.sleep(_REFUSAL_PAUSE_S)
        status, headers, body = problem(error)
        if error.code == "payload_too_large" and must_close(fields, self._max_body_bytes):
            headers.append((b"connection", b"close"))
        await respond(scope, send, status, headers + correlation(fields), body)


def _encode(
    message: InferMessage, result: InferResult, fields: Fields
) -> tuple[list[tuple[bytes, bytes]], Sequence[Part]]:
    """Header fields and parts of the body of an answer."""
    parts, head_length = encode_infer_response(message, result)
    headers = [
        (b"content-type", b"application/octet-stream" if head_length else b"application/json"),
        (b"inference-model", result.model.identity),
        (
            b"server-timing",
            b"queue;dur=%.3f, compute;dur=%.3f" % (result.queue_s * 1e3, result.compute_s * 1e3),
        ),
        *correlation(fields),
    ]
    if head_length is not None:
        headers.append((HEADER_LENGTH, b"%d" % head_length))
    if b"accept-encoding" in fields and sum(map(len, parts)) >= _COMPRESS_FROM_BYTES:
        coding = pick_coding(fields)
        if coding is not None:
            headers += [(b"content-encoding", coding.encode()), (b"vary", b"accept-encoding")]
            return headers, [compress(parts, coding)]
    return headers, parts


def read_deadline(fields: Fields, parameters: dict[str, Any], arrived: float) -> float | None:
    """`perf_counter` time at which the answer is worthless; None when nothing is said.

    `Inference-Deadline-Ms` counts from arrival. The protocol's parameter `timeout` is in
    microseconds, as Triton defines it. The sooner of the two holds.

    Raises:
        InvalidInputError: Either is no number.
        DeadlineExceededError: No time is left at all.
    """
    header = fields.get(b"inference-deadline-ms")
    timeout = parameters.get("timeout") if parameters else None
    if header is None and not timeout:
        return None
    budgets_ms = []
    if header is not None:
        try:
            budget_ms = float(header)
        except ValueError:
            budget_ms = float("nan")
        if not budget_ms <= _MAX_DEADLINE_MS:
            raise InvalidInputError(
                f"Inference-Deadline-Ms is a number of milliseconds, at most "
                f"{_MAX_DEADLINE_MS:.0f}, got {header[:40].decode('latin-1')!r}"
            )
        budgets_ms.append(budget_ms)
    if timeout:
        if type(timeout) is not int or not 0 <= timeout <= _MAX_DEADLINE_MS * 1000:
            raise InvalidInputError("parameter timeout is a number of microseconds")
        budgets_ms.append(timeout / 1000)
    deadline = arrived + min(budgets_ms) / 1000
    if deadline <= perf_counter():
        raise DeadlineExceededError("the deadline had passed before the request could be queued")
    return deadline


def read_urgency(fields: Fields, parameters: dict[str, Any]) -> int:
    """0 to 7: from the parameter `priority` (1 is the most urgent), or the field `Priority`.

    Raises:
        InvalidInputError: The parameter is out of range.
    """
    priority = parameters.get("priority") if parameters else None
    if priority:
        if type(priority) is not int or not 1 <= priority <= LEVELS:
            raise InvalidInputError(f"parameter priority is 1 to {LEVELS}, 0 for the default")
        return priority - 1
    field = fields.get(b"priority")
    match = _URGENCY.search(field) if field is not None else None
    return int(match[1]) if match else DEFAULT_URGENCY

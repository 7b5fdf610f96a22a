"""`POST /v2/models/{name}[/versions/{version}]/classify`: an encoded picture in, classes out.

For pictures that are too large to decode at the edge. The manifest says how the picture becomes
the model's input; the answer has the form of the edge's own `/v1/classify`.
"""

from __future__ import annotations

import math
import re
from functools import partial
from time import perf_counter
from typing import Any
from urllib.parse import parse_qs

import orjson
from starlette.types import Receive, Scope, Send

from gpu_backend.api.http import (
    ON_DISCONNECT,
    Fields,
    correlation,
    decompress,
    fields_of,
    must_close,
    read_body,
    respond,
)
from gpu_backend.api.oip import read_deadline, read_urgency
from gpu_backend.api.problems import problem
from gpu_backend.dataplane import Dataplane, InferResult, Tensor
from gpu_backend.errors import BackendError, InvalidInputError, RequestCancelledError
from gpu_backend.execution.datatypes import Array, Datatype
from gpu_backend.processing.classes import top_classes
from gpu_backend.processing.pictures import decode_picture
from gpu_backend.processing.pool import CodecPool
from gpu_backend.processing.preparation import prepare
from gpu_backend.repository.manifest import ImageHints, OutputHints
from gpu_backend.repository.model import LoadedModel

__all__ = ["CLASSIFY_PATH", "ClassifyRoute"]

CLASSIFY_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/classify")

_INK_SIDE = 96

_DEFAULT_TOP_K = 5
_MAX_TOP_K = 1000


class ClassifyRoute:
    """Decodes on its own threads, infers through the dataplane.

    Args:
        dataplane: Does the inference.
        pool: Decodes pictures.
        max_body_bytes: Of a request.
        max_pixels: Of a picture.
    """

    def __init__(
        self, dataplane: Dataplane, pool: CodecPool, max_body_bytes: int, max_pixels: int
    ) -> None:
        self._dataplane = dataplane
        self._pool = pool
        self._max_body_bytes = max_body_bytes
        self._max_pixels = max_pixels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is an answer."""
        arrived = perf_counter()
        fields = fields_of(scope)
        match = CLASSIFY_PATH.fullmatch(scope["path"])
        assert match is not None  # the router sends nothing else here
        name, version = match.groups()
        outcome = "internal"
        try:
            top_k, threshold = _query(scope["query_string"])
            body = await read_body(receive, fields, self._max_body_bytes)
            model, output = await self._model(name, version)
            tensor, decode_s = await self._tensor(model, body, fields)
            # Loaded anew meanwhile, perhaps: the tensor fits what the manifest said then.
            model, output = await self._model(name, version)
            result = await self._infer(model, output, tensor, fields, arrived, scope)
            document = _answer(result, output, top_k, threshold, arrived)
            headers = [
                (b"content-type", b"application/json"),
                (b"inference-model", result.model.identity),
                (b"server-timing", _timing(decode_s, result)),
                *correlation(fields),
            ]
            await respond(scope, send, 200, headers, orjson.dumps(document))
            outcome = "ok"
        except BackendError as exc:
            outcome = exc.code
            if not isinstance(exc, RequestCancelledError):
                status, headers, content = problem(exc)
                if exc.code == "payload_too_large" and must_close(fields, self._max_body_bytes):
                    headers.append((b"connection", b"close"))
                await respond(scope, send, status, headers + correlation(fields), content)
        finally:
            self._dataplane.count(name, outcome, perf_counter() - arrived)

    async def _model(self, name: str, version: str | None) -> tuple[LoadedModel, OutputHints]:
        model = await self._dataplane.wait_for_model(name, version)
        if model.manifest.image is None or model.manifest.output is None:
            raise InvalidInputError(
                f"model {name!r} does not classify pictures: its model.toml lacks [image] or "
                f"[output]; send tensors to /v2/models/{name}/infer"
            )
        return model, model.manifest.output

    async def _tensor(
        self, model: LoadedModel, body: bytes, fields: Fields
    ) -> tuple[Tensor, float]:
        hints = model.manifest.image
        assert hints is not None
        started = perf_counter()
        datatype = model.inputs[hints.input].datatype
        array = await self._pool.run(partial(self._decode, body, fields, hints, datatype))
        return Tensor(hints.input, datatype, array), perf_counter() - started

    def _decode(self, body: bytes, fields: Fields, hints: ImageHints, datatype: Datatype) -> Array:
        coding = fields.get(b"content-encoding")
        if coding is not None:
            body = decompress(body, coding, self._max_body_bytes)
        content_type = fields.get(b"content-type", b"").decode("latin-1").partition(";")[0]
        # Ink is looked for at its own working size.
        side = (_INK_SIDE, _INK_SIDE) if hints.fit == "ink" else (hints.width, hints.height)
        picture = decode_picture(
            body, content_type.strip().lower(), max_pixels=self._max_pixels, target=side
        )
        return prepare(picture, hints, datatype)

    async def _infer(
        self,
        model: LoadedModel,
        output: OutputHints,
        tensor: Tensor,
        fields: Fields,
        arrived: float,
        scope: Scope,
    ) -> InferResult:
        call = self._dataplane.begin(
            model,
            [tensor],
            [output.name],
            deadline=read_deadline(fields, {}, arrived),
            urgency=read_urgency(fields, {}),
        )
        if not call.is_quick:
            scope[ON_DISCONNECT] = call.leave
        return await call.result()


def _query(text: bytes) -> tuple[int, float]:
    """`top_k` and `threshold`.

    Raises:
        InvalidInputError: One is out of range.
    """
    given = parse_qs(text.decode("latin-1"), max_num_fields=20) if text else {}
    top_k = given.get("top_k", [str(_DEFAULT_TOP_K)])[-1]
    if not (top_k.isascii() and top_k.isdecimal() and len(top_k) < 10) or not (
        1 <= int(top_k) <= _MAX_TOP_K
    ):
        raise InvalidInputError(f"top_k is 1 to {_MAX_TOP_K}, got {top_k[:40]!r}", param="top_k")
    threshold = given.get("threshold", ["0"])[-1]
    try:
        value = float(threshold)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InvalidInputError(f"threshold is 0 to 1, got {threshold[:40]!r}", param="threshold")
    return int(top_k), value


def _answer(
    result: InferResult, output: OutputHints, top_k: int, threshold: float, arrived: float
) -> dict[str, Any]:
    model = result.model
    predictions = top_classes(
        result.outputs[0].array.reshape(-1),
        kind=output.kind,
        labels=model.manifest.labels,
        top_k=top_k,
        threshold=threshold,
    )
    runtime = model.manifest.platform.partition("_")[0]
    return {
        "predictions": [
            {
                "class_id": prediction.class_id,
                "label": prediction.label,
                "confidence": round(prediction.confidence, 6),
            }
            for prediction in predictions
        ],
        "model": model.name,
        "model_version": str(model.version),
        "runtime": f"{runtime}/{model.session.status.active}",
        "latency_ms": round((perf_counter() - arrived) * 1000, 3),
    }


def _timing(decode_s: float, result: InferResult) -> bytes:
    return b"decode;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f" % (
        decode_s * 1e3,
        result.queue_s * 1e3,
        result.compute_s * 1e3,
    )

"""`POST /v1/classify/{model}`: a picture in, named classes with confidences out.

Decoding, fitting, softmax and top-k happen here; the backend gets one tensor as a binary request.
What the model wants comes from its metadata. When an answer shows that the model has changed
since, the metadata is fetched again and the picture goes out a second time, fitted to the new
model: old labels never name the classes of a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.backend import model_path
from edgekit.catalog import fetch_metadata, find_metadata
from edgekit.errors import (
    InvalidInputError,
    ModelNotFoundError,
    ModelNotReadyError,
    UpstreamUnavailableError,
)
from edgekit.exchange import Exchange, Placement
from edgekit.http import Headers, Response
from edgekit.processing.preparation import prepare
from edgekit.processing.raster import Image
from edgekit.processing.tensor import Prediction, top_k
from edgekit.protocols.classify import ClassifyQuery, format_answer, parse_image, parse_query
from edgekit.protocols.inference_headers import ModelIdentity, parse_model_identity
from edgekit.protocols.model_metadata import ClassifierMetadata
from edgekit.protocols.oip import InferAnswer, Tensor, encode_infer_request, parse_infer_answer
from edgekit.routing import Route

__all__ = ["ROUTE"]

SWAP_RETRY_S = 1.0
"""A model that changes twice within one request is being rolled out."""


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """What the client asks; the picture has not been transferred yet."""

    query: ClassifyQuery

    def prepare(self, exchange: Exchange) -> ClassifyCall:
        """Receive the picture, decode it, and fit it to the model.

        The picture comes first: bad input is the client's to know, even while the backend is away.
        """
        request, settings = exchange.request, exchange.settings
        body = request.read(settings.max_body_bytes)
        exchange.end_stage("receive")
        image = parse_image(request, self.query, body, settings.max_image_pixels)
        exchange.end_stage("decode")
        metadata = find_metadata(exchange, self.query.model, self.query.version)
        stored = metadata is not None
        if metadata is None:
            metadata = fetch_metadata(exchange, self.query.model, self.query.version)
        exchange.end_stage("metadata")
        tensor = _tensor(image, metadata)
        exchange.end_stage("tensor")
        return ClassifyCall(self.query, image, metadata, tensor, may_be_stale=stored)


@dataclass(frozen=True, slots=True)
class ClassifyCall:
    """One tensor for one model.

    Attributes:
        query: What the client asks.
        image: Kept for the case that the model turns out to want it otherwise.
        metadata: What the tensor was made for.
        tensor: The model's input.
        may_be_stale: The metadata comes from the store.
    """

    query: ClassifyQuery
    image: Image
    metadata: ClassifierMetadata
    tensor: Tensor
    may_be_stale: bool

    def call(self, exchange: Exchange) -> ClassifyAnswer:
        """Ask the model, once more where the metadata proves to be out of date.

        Raises:
            ModelNotReadyError: The model changed again between metadata and answer.
        """
        started_ms = exchange.elapsed_ms()
        query = self.query
        try:
            answer = self._ask(exchange, query.version)
        except _ModelChangedError as changed:
            fresh = fetch_metadata(exchange, query.model, query.version, of_version=changed.version)
            answer = self._ask_anew(exchange, fresh)
        except (InvalidInputError, ModelNotFoundError):
            # A refusal may mean that the model has changed, or is gone.
            if not self.may_be_stale:
                raise
            fresh = fetch_metadata(exchange, query.model, query.version)
            if fresh == self.metadata:
                raise
            answer = self._ask_anew(exchange, fresh)
        exchange.end_stage("backend")
        actual_ms = exchange.elapsed_ms() - started_ms
        exchange.placement = Placement("cluster", "default", actual_ms)
        return answer

    def _ask_anew(self, exchange: Exchange, metadata: ClassifierMetadata) -> ClassifyAnswer:
        fitted = replace(self, metadata=metadata, tensor=_tensor(self.image, metadata))
        try:
            return fitted._ask(exchange, metadata.version)
        except _ModelChangedError as error:
            raise ModelNotReadyError(
                f"model {metadata.name!r} is being replaced; try again",
                retry_after_s=SWAP_RETRY_S,
            ) from error

    def _ask(self, exchange: Exchange, version: str | None) -> ClassifyAnswer:
        """Scores of the model that `metadata` describes; `_ModelChangedError` for another's."""
        metadata = self.metadata
        body, headers = encode_infer_request(self.tensor, metadata.output)
        target = f"{model_path(self.query.model, version)}/infer"
        fields, content = exchange.backend().call("POST", target, headers, body)
        identity = parse_model_identity(fields.last("inference-model"))
        if identity is not None and not metadata.describes(identity):
            raise _ModelChangedError(identity.version or None)
        scores = parse_infer_answer(fields, content, metadata.output)
        if identity is None:  # not this project's backend: its version has to do
            identity = ModelIdentity(metadata.name, scores.model_version, "", metadata.provider)
            if not metadata.describes(identity):
                raise _ModelChangedError(identity.version)
        return ClassifyAnswer(self.query, metadata, scores, identity, fields)


class _ModelChangedError(Exception):
    """The answer came from another model than the metadata describes.

    Attributes:
        version: Version that answered; None where the backend does not say.
    """

    def __init__(self, version: str | None) -> None:
        super().__init__(version)
        self.version = version


def _tensor(image: Image, metadata: ClassifierMetadata) -> Tensor:
    spec = metadata.image
    data = prepare(image, spec, metadata.datatype)
    return Tensor(spec.input, metadata.datatype, tuple(spec.shape), data)


@dataclass(frozen=True, slots=True)
class ClassifyAnswer:
    """Scores, and the model they came from.

    Attributes:
        query: What the client asks.
        metadata: Names the classes.
        scores: One per class.
        identity: The model that answered.
        fields: Of the backend's answer.
    """

    query: ClassifyQuery
    metadata: ClassifierMetadata
    scores: InferAnswer
    identity: ModelIdentity
    fields: Headers

    def respond(self, exchange: Exchange) -> Response:
        """Softmax and top-k, then the client's JSON."""
        metadata = self.metadata
        labels = metadata.labels
        if labels and len(labels) != len(self.scores.values):
            raise UpstreamUnavailableError(
                f"the model answered {len(self.scores.values)} classes, it has {len(labels)} labels"
            )
        predictions: list[Prediction] = top_k(
            self.scores.values,
            kind=metadata.output_kind,
            labels=labels,
            k=self.query.top_k,
            threshold=self.query.threshold,
        )
        exchange.end_stage("postprocess")
        provider = self.identity.provider or metadata.provider
        body = format_answer(
            predictions,
            model=metadata.name,
            version=self.identity.version or metadata.version,
            runtime="/".join(filter(None, (metadata.runtime, provider))) or "unknown",
            latency_ms=exchange.elapsed_ms(),
        )
        headers = Headers([("content-type", "application/json")])
        for name in ("inference-model", "server-timing"):
            value = self.fields.get(name)
            if value is not None:
                headers.set(name, value)
        return Response(200, headers, body)


def _parse(exchange: Exchange, held: Sequence[str]) -> ClassifyRequest:
    return ClassifyRequest(parse_query(exchange.request, held[0]))


ROUTE = Route("/v1/classify/:model", ("POST",), _parse)

"""`POST /v1/classify/{model}`: a picture in, named classes with confidences out.

Decoding, fitting, softmax and top-k happen here; the backend gets one tensor as a binary request.
What the model wants comes from its metadata. When an answer shows that the model has changed
since, the metadata is fetched again and the picture goes out a second time, fitted to the new
model: old labels never name the classes of a new one. JPEG and its like, and pictures too large to
inflate in Wasm, go to the backend's own classify route as they are. Which tier answers, and what
stands in when none can, is decided in `edgekit.inference`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.backend import model_path
from edgekit.catalog import fetch_metadata, find_metadata, metadata_key
from edgekit.errors import (
    InvalidInputError,
    ModelNotFoundError,
    ModelNotReadyError,
    UnsupportedMediaTypeError,
    UpstreamUnavailableError,
)
from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.inference.contract import Answer, Inference
from edgekit.models.classification import probabilities
from edgekit.models.document import EdgeModel
from edgekit.models.shipped import SHIPPED
from edgekit.policy.cache_control import parse_response_directives
from edgekit.policy.cache_key import canonical_json
from edgekit.processing.image import ImageFile
from edgekit.processing.preparation import ImageSpec, prepare
from edgekit.processing.raster import Image
from edgekit.processing.tensor import OutputKind, Prediction, top_k
from edgekit.protocols.classify import (
    JSON_TYPE,
    ClassifyQuery,
    add_latency,
    format_answer,
    parse_backend_answer,
    parse_image,
    parse_query,
)
from edgekit.protocols.inference_headers import ModelIdentity, parse_model_identity
from edgekit.protocols.json_text import parse_json
from edgekit.protocols.model_metadata import ClassifierMetadata
from edgekit.protocols.oip import InferAnswer, Tensor, encode_infer_request, parse_infer_answer
from edgekit.routing import Route

__all__ = ["ROUTE"]

IMAGE_TASK = "image-classification"
EDGE_PROVIDER = "edge"
"""What runs the component's own models: the component."""

SWAP_RETRY_S = 1.0
"""A model that changes twice within one request is being rolled out."""


class Classification(Inference):
    """One picture for one model; the picture has not been transferred when this is made."""

    kind = "classify"
    deterministic = True

    def __init__(self, query: ClassifyQuery) -> None:
        self._query = query
        self._body = b""
        self._image: Image | ImageFile | None = None
        self._upstream_timing: str | None = None

    @property
    def model(self) -> str:
        """Model name."""
        return self._query.model

    @property
    def version(self) -> str | None:
        """Version the client asks for; None for the active one."""
        return self._query.version

    @property
    def edge_model(self) -> EdgeModel | None:
        """The model of that name inside the component; versions are the backend's to number."""
        if isinstance(self._image, ImageFile):
            return None
        model = SHIPPED.get(self._query.model)
        if model is None or model.task != IMAGE_TASK or self._query.version is not None:
            return None
        return model

    def stored_keys(self) -> Sequence[str]:
        """The model's metadata."""
        return [metadata_key(self._query.model, self._query.version)]

    def canonical(self, exchange: Exchange) -> Sequence[bytes]:
        """Query, content type and body; equal JSON bodies are one, however they are spelt."""
        request, query = exchange.request, self._query
        self._body = request.read(exchange.settings.max_body_bytes)
        body = self._body
        if request.content_type() == JSON_TYPE:
            with contextlib.suppress(ValueError, RecursionError, InvalidInputError):
                body = canonical_json(parse_json(body))
        asked = [query.model, query.version, query.top_k, query.threshold, query.width]
        coding = request.headers.get("content-encoding")
        form = canonical_json([*asked, query.height, request.content_type(), coding])
        return [form, body]

    def understand(self, exchange: Exchange) -> None:
        """Decode the picture: bad input is the client's to know, even while the backend is away."""
        max_pixels = exchange.settings.max_image_pixels
        self._image = parse_image(exchange.request, self._query, self._body, max_pixels)

    def ask(self, exchange: Exchange) -> Answer:
        """Scores of the upstream's model, and what they mean."""
        if isinstance(self._image, ImageFile):
            return self._pass_on(self._image, exchange)
        image = self._decoded()
        query = self._query
        metadata = find_metadata(exchange, query.model, query.version)
        stored = metadata is not None
        if metadata is None:
            metadata = fetch_metadata(exchange, query.model, query.version)
        exchange.end_stage("metadata")
        tensor = _tensor(image, metadata)
        exchange.end_stage("tensor")
        scored = ClassifyCall(query, image, metadata, tensor, may_be_stale=stored).call(exchange)
        exchange.end_stage("backend")
        self._upstream_timing = scored.fields.get("server-timing")
        return scored.answer(exchange)

    def _pass_on(self, file: ImageFile, exchange: Exchange) -> Answer:
        """The backend's own answer for a picture that is decoded there."""
        query = self._query
        # The threshold is applied here, so that the confidence of the best class is known.
        target = f"{model_path(query.model, query.version)}/classify?top_k={query.top_k}"
        headers = Headers([("content-type", file.media_type)])
        try:
            fields, content = exchange.backend().call("POST", target, headers, file.data)
        except ModelNotFoundError as error:
            fetch_metadata(exchange, query.model, query.version)  # raises where it is the model
            most = exchange.settings.max_image_pixels
            raise UnsupportedMediaTypeError(
                f"the backend decodes no pictures; PNG and PNM of at most {most} pixels "
                "are decoded at the edge"
            ) from error
        exchange.end_stage("backend")
        self._upstream_timing = fields.get("server-timing")
        given = parse_backend_answer(content)
        identity = parse_model_identity(fields.last("inference-model"))
        if identity is None:
            identity = ModelIdentity(query.model, given.version)
        answer = _told(query, given.predictions, identity=identity, runtime=given.runtime)
        return replace(answer, directives=parse_response_directives(fields))

    def answer_at_edge(self, exchange: Exchange) -> Answer:
        """Probabilities of the component's own model."""
        model = self.edge_model
        assert model is not None
        spec = ImageSpec.from_parameters({"input": "image", **model.parameters})
        pixels = prepare(self._decoded(), spec, "UINT8")
        exchange.end_stage("tensor")
        identity = ModelIdentity(model.name, model.version, f"sha256:{model.digest}", EDGE_PROVIDER)
        return _answer(
            self._query,
            probabilities(model, pixels),
            kind="probabilities",
            labels=model.labels,
            identity=identity,
            runtime=EDGE_PROVIDER,
        )

    def respond(self, exchange: Exchange, answer: Answer) -> Response:
        """The client's JSON, with the time that this very request took."""
        headers = Headers(answer.headers)
        if self._upstream_timing is not None:
            headers.set("server-timing", self._upstream_timing)
        return Response(200, headers, add_latency(answer.body, exchange.elapsed_ms()))

    def _decoded(self) -> Image:
        assert isinstance(self._image, Image)
        return self._image


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
        query = self.query
        try:
            return self._ask(exchange, query.version)
        except _ModelChangedError as changed:
            fresh = fetch_metadata(exchange, query.model, query.version, of_version=changed.version)
            return self._ask_anew(exchange, fresh)
        except (InvalidInputError, ModelNotFoundError):
            # A refusal may mean that the model has changed, or is gone.
            if not self.may_be_stale:
                raise
            fresh = fetch_metadata(exchange, query.model, query.version)
            if fresh == self.metadata:
                raise
            return self._ask_anew(exchange, fresh)

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

    def answer(self, exchange: Exchange) -> Answer:
        """Softmax and top-k, in the form that is stored."""
        metadata = self.metadata
        labels = metadata.labels
        if labels and len(labels) != len(self.scores.values):
            raise UpstreamUnavailableError(
                f"the model answered {len(self.scores.values)} classes, it has {len(labels)} labels"
            )
        identity = self.identity
        provider = identity.provider or metadata.provider
        answer = _answer(
            self.query,
            self.scores.values,
            kind=metadata.output_kind,
            labels=labels,
            identity=replace(identity, version=identity.version or metadata.version),
            runtime="/".join(filter(None, (metadata.runtime, provider))) or "unknown",
        )
        exchange.end_stage("postprocess")
        return replace(answer, directives=parse_response_directives(self.fields))


def _answer(
    query: ClassifyQuery,
    scores: Sequence[float],
    *,
    kind: OutputKind,
    labels: Sequence[str],
    identity: ModelIdentity,
    runtime: str,
) -> Answer:
    predictions = top_k(scores, kind=kind, labels=labels, k=query.top_k)
    return _told(query, predictions, identity=identity, runtime=runtime)


def _told(
    query: ClassifyQuery,
    predictions: Sequence[Prediction],
    *,
    identity: ModelIdentity,
    runtime: str,
) -> Answer:
    wanted = [item for item in predictions if item.confidence >= query.threshold]
    body = format_answer(wanted, model=query.model, version=identity.version, runtime=runtime)
    return Answer(
        headers=Headers([("content-type", JSON_TYPE)]),
        body=body,
        identity=identity,
        confidence=predictions[0].confidence if predictions else None,
        class_id=predictions[0].class_id if predictions else None,
    )


def _parse(exchange: Exchange, held: Sequence[str]) -> Classification:
    return Classification(parse_query(exchange.request, held[0]))


ROUTE = Route("/v1/classify/:model", ("POST",), _parse, kind=Classification.kind)

"""`POST /v1/embeddings`: texts in, one vector for each out, in OpenAI's form.

Tokens are made here, where the component was built with the model's vocabulary. Inputs of like
length go to the backend together, as one binary request or, where there are many tokens, as
several of bounded size. Which tensors those are, and how long a text may be, comes from the
model's metadata, which is kept as for classification. A model that the backend does not run itself
but asks another server for (Ollama, say) gets the client's request as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.backend import model_path
from edgekit.catalog import fetch_facts, find_facts, metadata_key
from edgekit.chat.upstream import MAX_ANSWER_BYTES
from edgekit.chat.usage import find_openai_usage
from edgekit.errors import InvalidInputError, ModelNotFoundError, ModelNotReadyError
from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.inference.contract import Answer, Inference
from edgekit.models.document import EdgeModel
from edgekit.models.vocabularies import VOCABULARIES
from edgekit.policy.cache_control import parse_response_directives
from edgekit.policy.cache_key import canonical_json
from edgekit.processing.tensor import pack
from edgekit.processing.wordpiece import Vocabulary, encode
from edgekit.protocols.embeddings import (
    EmbeddingQuery,
    format_embeddings,
    parse_query,
    read_vectors,
)
from edgekit.protocols.inference_headers import ModelIdentity, parse_model_identity
from edgekit.protocols.model_metadata import EmbedderMetadata, TextSpec, parse_embedder_metadata
from edgekit.protocols.oip import Tensor, encode_infer_tensors, parse_output_tensor
from edgekit.protocols.problems import ErrorStyle
from edgekit.routing import Route

__all__ = ["ROUTE", "embeddings_route"]

CALL_TOKENS = 4096
"""Of one call, padding included: a second of work for a small model on two cores. A backend
refuses what it could not finish soon, and many inputs at once must not be refused for that."""

SWAP_RETRY_S = 1.0
"""A model that changes twice within one request is being rolled out."""


class Embedding(Inference):
    """Texts for one model.

    Args:
        query: What the client asks.
        body: The same, as it came.
        vocabularies: By the digest of their file.
    """

    kind = "infer"
    version = None
    deterministic = True
    edge_model: EdgeModel | None = None

    def __init__(
        self, query: EmbeddingQuery, body: bytes, vocabularies: Mapping[str, Vocabulary]
    ) -> None:
        self._query = query
        self._body = body
        self._vocabularies = vocabularies

    @property
    def model(self) -> str:
        """Model name."""
        return self._query.model

    def stored_keys(self) -> Sequence[str]:
        """The model's metadata."""
        return [metadata_key(self.model, None)]

    def canonical(self, _exchange: Exchange) -> Sequence[bytes]:
        """What is asked, however the JSON is spelt."""
        return [b"embeddings", canonical_json(self._query.canonical())]

    def understand(self, _exchange: Exchange) -> None:
        """Nothing is left to do: how texts become tokens depends on the model's metadata."""

    def ask(self, exchange: Exchange) -> Answer:
        """Vectors of the upstream's model; asked once more where its metadata is out of date.

        Raises:
            ModelNotReadyError: The model changed again between metadata and answer.
        """
        metadata = find_facts(exchange, self.model, None, parse_embedder_metadata)
        stored = metadata is not None
        if metadata is None:
            try:
                metadata = self._fetch(exchange, None)
            except ModelNotFoundError as unknown:
                return self._ask_engine(exchange, unknown)
        exchange.end_stage("metadata")
        try:
            return self._ask(exchange, metadata, None)
        except _ModelChangedError as changed:
            fresh = self._fetch(exchange, changed.version)
        except (InvalidInputError, ModelNotFoundError):
            # A refusal may mean that the model has changed, or is gone.
            if not stored:
                raise
            fresh = self._fetch(exchange, None)
            if fresh == metadata:
                raise
        try:
            return self._ask(exchange, fresh, fresh.version)
        except _ModelChangedError as error:
            raise ModelNotReadyError(
                f"model {self.model!r} is being replaced; try again", retry_after_s=SWAP_RETRY_S
            ) from error

    def _ask_engine(self, exchange: Exchange, unknown: ModelNotFoundError) -> Answer:
        """Vectors of a model that has no tensors; raises `unknown` where there is none either."""
        headers = Headers([("content-type", "application/json")])
        try:
            fields, content = exchange.backend().call(
                "POST", "/v1/embeddings", headers, self._body, MAX_ANSWER_BYTES
            )
        except ModelNotFoundError:
            raise unknown from None
        exchange.end_stage("backend")
        usage = find_openai_usage(content)
        return Answer(
            headers=headers,
            body=content,
            identity=parse_model_identity(fields.last("inference-model"))
            or ModelIdentity(self.model),
            tokens=usage.total_tokens if usage else 0,
            directives=parse_response_directives(fields),
        )

    def answer_at_edge(self, _exchange: Exchange) -> Answer:
        """No model of this component makes vectors."""
        raise ModelNotFoundError("this model runs in the cluster alone")

    def respond(self, _exchange: Exchange, answer: Answer) -> Response:
        """The answer is stored in the client's form."""
        return Response(200, Headers(answer.headers), answer.body)

    def _fetch(self, exchange: Exchange, version: str | None) -> EmbedderMetadata:
        return fetch_facts(exchange, self.model, None, parse_embedder_metadata, of_version=version)

    def _ask(self, exchange: Exchange, metadata: EmbedderMetadata, version: str | None) -> Answer:
        """The answer of the model that `metadata` describes; `_ModelChangedError` for another's."""
        query, spec = self._query, metadata.text
        batch = Tokenizer(spec, self._vocabularies, truncate=query.truncate).rows(query)
        exchange.end_stage("tokens")
        vectors = [b""] * len(batch)
        for places in _calls(batch):
            call = _VectorCall(metadata, [batch[place] for place in places], version)
            answered = call.send(exchange)
            for place, vector in zip(places, answered.vectors(query.dimensions), strict=True):
                vectors[place] = vector
        exchange.end_stage("backend")
        tokens = sum(map(len, batch))
        document = format_embeddings(
            vectors, model=self.model, encoding=query.encoding, tokens=tokens
        )
        exchange.end_stage("postprocess")
        return Answer(
            headers=Headers([("content-type", "application/json")]),
            body=document,
            identity=answered.identity,
            tokens=tokens,
            directives=parse_response_directives(answered.fields),
        )


class _ModelChangedError(Exception):
    """The answer came from another model than the metadata describes.

    Attributes:
        version: Version that answered; None where the backend does not say.
    """

    def __init__(self, version: str | None) -> None:
        super().__init__(version)
        self.version = version


def _calls(batch: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of the rows that go together: of like length, at most `CALL_TOKENS` when padded."""
    calls: list[list[int]] = [[]]
    for place in sorted(range(len(batch)), key=lambda place: len(batch[place])):
        # In this order the row at hand is the longest of its call.
        if calls[-1] and (len(calls[-1]) + 1) * len(batch[place]) > CALL_TOKENS:
            calls.append([])
        calls[-1].append(place)
    return calls


@dataclass(frozen=True, slots=True)
class _VectorCall:
    """Some rows for one version of a model.

    Attributes:
        metadata: Of the model that has to answer.
        rows: Token ids.
        version: Version to name in the call; None for the active one.
    """

    metadata: EmbedderMetadata
    rows: Sequence[Sequence[int]]
    version: str | None

    def send(self, exchange: Exchange) -> _VectorAnswer:
        """The answer of the model that `metadata` describes; `_ModelChangedError` for another's."""
        metadata, spec = self.metadata, self.metadata.text
        body, headers = encode_infer_tensors(_tensors(self.rows, spec), spec.output)
        target = f"{model_path(metadata.name, self.version)}/infer"
        fields, content = exchange.backend().call("POST", target, headers, body)
        identity = parse_model_identity(fields.last("inference-model"))
        if identity is not None and not metadata.describes(identity):
            raise _ModelChangedError(identity.version or None)
        answered, output = parse_output_tensor(fields, content, spec.output)
        if identity is None:  # not this project's backend: its version has to do
            identity = ModelIdentity(metadata.name, answered, "", metadata.provider)
            if not metadata.describes(identity):
                raise _ModelChangedError(identity.version)
        return _VectorAnswer(output, len(self.rows), identity, fields)


@dataclass(frozen=True, slots=True)
class _VectorAnswer:
    """Vectors, and the model they came from."""

    output: Tensor
    rows: int
    identity: ModelIdentity
    fields: Headers

    def vectors(self, dimensions: int | None) -> list[bytes]:
        """See `read_vectors`."""
        return read_vectors(self.output, self.rows, dimensions)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Makes token ids of the inputs of one request.

    Attributes:
        spec: What the model takes.
        vocabularies: By the digest of their file.
        truncate: Cut what is too long, instead of refusing it.
    """

    spec: TextSpec
    vocabularies: Mapping[str, Vocabulary]
    truncate: bool

    def rows(self, query: EmbeddingQuery) -> list[Sequence[int]]:
        """Token ids of each input.

        Raises:
            ModelNotFoundError: There are texts, and no vocabulary for them.
            InvalidInputError: An input is too long.
        """
        return [self._row(query.model, index, item) for index, item in enumerate(query.inputs)]

    def _row(self, model: str, index: int, item: str | tuple[int, ...]) -> Sequence[int]:
        limit = self.spec.max_tokens
        ids: Sequence[int] = item if not isinstance(item, str) else self._encoded(model, item)
        if len(ids) <= limit:
            return ids
        if not self.truncate:
            raise InvalidInputError(
                f"input[{index}] has more than {limit} tokens, the most that model {model!r} "
                'takes: send less, or have it cut with "truncate": "END"',
                param=f"input[{index}]",
            )
        # What ends a text ([SEP]) ends it after the cut as well.
        return [*ids[: limit - 1], ids[-1]]

    def _encoded(self, model: str, text: str) -> list[int]:
        vocabulary = self.vocabularies.get(self.spec.vocabulary)
        if vocabulary is None:
            raise ModelNotFoundError(
                f"this edge was built without the vocabulary of model {model!r}, so it reads no "
                "texts for it: send arrays of token ids, or build it again after `make models`",
                param="model",
            )
        # One more than fits, so that what is too long shows.
        return encode(text, vocabulary, max_tokens=self.spec.max_tokens + 1)


def _tensors(batch: Sequence[Sequence[int]], spec: TextSpec) -> list[Tensor]:
    """Token ids and their mask, filled up to the longest row; what is masked may be any id."""
    width = max(map(len, batch))
    shape = (len(batch), width)
    ids = [token for row in batch for token in (*row, *[0] * (width - len(row)))]
    tensors = [Tensor(spec.input, spec.datatype, shape, pack(ids, spec.datatype))]
    if spec.mask:
        mask = [place < len(row) for row in batch for place in range(width)]
        tensors.append(Tensor(spec.mask, spec.mask_datatype, shape, pack(mask, spec.mask_datatype)))
    return tensors


def embeddings_route(vocabularies: Mapping[str, Vocabulary]) -> Route:
    """The route, for a component that has `vocabularies`."""

    def parse(exchange: Exchange, _held: Sequence[str]) -> Embedding:
        body = exchange.request.read(exchange.settings.max_body_bytes)
        return Embedding(parse_query(exchange.request, body), body, vocabularies)

    return Route(
        "/v1/embeddings", ("POST",), parse, error_style=ErrorStyle.OBJECT, kind=Embedding.kind
    )


ROUTE = embeddings_route(VOCABULARIES)

"""What the backend says about a model: the part of its metadata that the edge acts on.

The document is the answer to `GET /v2/models/{name}[/versions/{version}]` of the Open Inference
Protocol; what the edge needs beyond the protocol stands under `parameters`:

    version, digest, task
    image      which input takes the picture, its size, layout, colours, range, fit
    output     which output holds the scores, and whether they are logits or probabilities
    labels     a name per class
    text       which inputs take tokens and their mask, which output is the vector, how many tokens
               at most, and the digest of the vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_args

from edgekit.errors import InvalidInputError, UpstreamUnavailableError
from edgekit.processing.preparation import ImageSpec
from edgekit.processing.tensor import OutputKind
from edgekit.protocols.inference_headers import ModelIdentity

__all__ = [
    "OUTPUT_KINDS",
    "ClassifierMetadata",
    "EmbedderMetadata",
    "ModelFacts",
    "TextSpec",
    "parse_classifier_metadata",
    "parse_embedder_metadata",
]

Facts = TypeVar("Facts")

OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One version of a model.

    Attributes:
        name: Model name.
        version: Version these facts are about.
        digest: Of that version's files; empty where the backend gives none.
        runtime: What runs models there, e.g. "onnxruntime".
        provider: Execution provider it reported after loading; empty where it gives none.
    """

    name: str
    version: str
    digest: str
    runtime: str
    provider: str

    def describes(self, identity: ModelIdentity) -> bool:
        """True unless an answer came from another file, or another version, than this one."""
        if identity.digest and self.digest:
            return identity.digest == self.digest
        return not identity.version or identity.version == self.version


@dataclass(frozen=True, slots=True)
class ClassifierMetadata(ModelFacts):
    """One version of an image classifier.

    Attributes:
        image: The input picture as the model wants it.
        datatype: Of the input tensor.
        output: Name of the output that holds the scores.
        output_kind: One of `OUTPUT_KINDS`.
        labels: A name per class; empty where the model has none.
    """

    image: ImageSpec
    datatype: str
    output: str
    output_kind: OutputKind
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextSpec:
    """How texts become the inputs of a model, and which output is their vector.

    Attributes:
        input: Name of the tensor of token ids, shape (batch, sequence).
        datatype: Of that tensor.
        mask: Name of the tensor that is 1 for a token, 0 for padding; empty where there is none.
        mask_datatype: Of that tensor.
        output: Name of the tensor of vectors, shape (batch, dimensions).
        max_tokens: Longest text, special tokens included.
        vocabulary: `sha256:…` of the vocabulary's file; empty where the model names none.
    """

    input: str
    datatype: str
    mask: str
    mask_datatype: str
    output: str
    max_tokens: int
    vocabulary: str


@dataclass(frozen=True, slots=True)
class EmbedderMetadata(ModelFacts):
    """One version of a model that makes vectors of texts."""

    text: TextSpec


def parse_classifier_metadata(document: object) -> ClassifierMetadata:
    """The facts in a metadata document.

    Raises:
        InvalidInputError: The model is no image classifier.
        UpstreamUnavailableError: The document makes no sense.
    """
    return _guarded(_parse_classifier, document)


def parse_embedder_metadata(document: object) -> EmbedderMetadata:
    """The facts in a metadata document.

    Raises:
        InvalidInputError: The model makes no vectors of texts.
        UpstreamUnavailableError: The document makes no sense.
    """
    return _guarded(_parse_embedder, document)


def _guarded(parse: Callable[[Any], Facts], document: object) -> Facts:
    try:
        return parse(document)
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration) as exc:
        raise UpstreamUnavailableError(
            f"the model's metadata is incomplete ({type(exc).__name__}: {exc})"
        ) from exc


def _parse_embedder(document: Any) -> EmbedderMetadata:
    facts = _facts(document)
    text = (document.get("parameters") or {}).get("text")
    if not text:
        raise InvalidInputError(
            f"model {facts.name!r} makes no vectors of texts: its metadata has no parameters.text",
            param="model",
        )
    mask = text.get("mask") or ""
    spec = TextSpec(
        input=str(text["input"]),
        datatype=_datatype(document, text["input"]),
        mask=str(mask),
        mask_datatype=_datatype(document, mask) if mask else "",
        output=str(text["output"]),
        max_tokens=int(text["max_tokens"]),
        vocabulary=str(text.get("vocabulary") or ""),
    )
    return EmbedderMetadata(**_members(facts), text=spec)


def _facts(document: Any) -> ModelFacts:
    parameters: Mapping[str, Any] = document.get("parameters") or {}
    return ModelFacts(
        name=str(document["name"]),
        version=str(parameters.get("version") or (document.get("versions") or [""])[-1]),
        digest=str(parameters.get("digest") or ""),
        runtime=str(document.get("platform") or "").partition("_")[0],
        provider=str((parameters.get("execution_provider") or {}).get("active") or ""),
    )


def _members(facts: ModelFacts) -> dict[str, str]:
    return {field.name: getattr(facts, field.name) for field in fields(ModelFacts)}


def _datatype(document: Any, name: str) -> str:
    return str(next(item["datatype"] for item in document["inputs"] if item["name"] == name))


def _parse_classifier(document: Any) -> ClassifierMetadata:
    name = document["name"]
    parameters: Mapping[str, Any] = document.get("parameters") or {}
    if not parameters.get("image"):
        raise InvalidInputError(
            f"model {name!r} takes no images: its metadata has no parameters.image; "
            f"send tensors to /v2/models/{name}/infer"
        )
    image = ImageSpec.from_parameters(parameters["image"])
    datatype = _datatype(document, image.input)
    output = parameters["output"]
    kind = output["kind"]
    if kind not in OUTPUT_KINDS:
        raise UpstreamUnavailableError(
            f"the model's metadata has output.kind = {kind!r:.80}, "
            f"known are {' and '.join(OUTPUT_KINDS)}"
        )
    labels = parameters.get("labels") or ()
    return ClassifierMetadata(
        **_members(_facts(document)),
        image=image,
        datatype=datatype,
        output=str(output["name"]),
        output_kind=kind,
        labels=tuple(map(str, labels)),
    )

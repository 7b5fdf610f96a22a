"""What the backend says about a model: the part of its metadata that classification needs.

The document is the answer to `GET /v2/models/{name}[/versions/{version}]` of the Open Inference
Protocol; what a classifier needs beyond the protocol stands under `parameters`:

    version, digest, task
    image      which input takes the picture, its size, layout, colours, range, fit
    output     which output holds the scores, and whether they are logits or probabilities
    labels     a name per class
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from edgekit.errors import InvalidInputError, UpstreamUnavailableError
from edgekit.processing.preparation import ImageSpec
from edgekit.processing.tensor import OutputKind
from edgekit.protocols.inference_headers import ModelIdentity

__all__ = ["OUTPUT_KINDS", "ClassifierMetadata", "parse_classifier_metadata"]

OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)


@dataclass(frozen=True, slots=True)
class ClassifierMetadata:
    """One version of an image classifier.

    Attributes:
        name: Model name.
        version: Version these facts are about.
        digest: Of that version's files; empty where the backend gives none.
        runtime: What runs models there, e.g. "onnxruntime".
        provider: Execution provider it reported after loading; empty where it gives none.
        image: The input picture as the model wants it.
        datatype: Of the input tensor.
        output: Name of the output that holds the scores.
        output_kind: One of `OUTPUT_KINDS`.
        labels: A name per class; empty where the model has none.
    """

    name: str
    version: str
    digest: str
    runtime: str
    provider: str
    image: ImageSpec
    datatype: str
    output: str
    output_kind: OutputKind
    labels: tuple[str, ...]

    def describes(self, identity: ModelIdentity) -> bool:
        """True unless an answer came from another file, or another version, than this one."""
        if identity.digest and self.digest:
            return identity.digest == self.digest
        return not identity.version or identity.version == self.version


def parse_classifier_metadata(document: object) -> ClassifierMetadata:
    """The facts in a metadata document.

    Raises:
        InvalidInputError: The model is no image classifier.
        UpstreamUnavailableError: The document makes no sense.
    """
    try:
        return _parse(document)
    except (KeyError, TypeError, AttributeError, StopIteration) as exc:
        raise UpstreamUnavailableError(
            f"the model's metadata is incomplete ({type(exc).__name__}: {exc})"
        ) from exc


def _parse(document: Any) -> ClassifierMetadata:
    name = document["name"]
    parameters: Mapping[str, Any] = document.get("parameters") or {}
    if not parameters.get("image"):
        raise InvalidInputError(
            f"model {name!r} takes no images: its metadata has no parameters.image; "
            f"send tensors to /v2/models/{name}/infer"
        )
    image = ImageSpec.from_parameters(parameters["image"])
    datatype = next(item["datatype"] for item in document["inputs"] if item["name"] == image.input)
    output = parameters["output"]
    kind = output["kind"]
    if kind not in OUTPUT_KINDS:
        raise UpstreamUnavailableError(
            f"the model's metadata has output.kind = {kind!r:.80}, "
            f"known are {' and '.join(OUTPUT_KINDS)}"
        )
    labels = parameters.get("labels") or ()
    return ClassifierMetadata(
        name=str(name),
        version=str(parameters.get("version") or (document.get("versions") or [""])[-1]),
        digest=str(parameters.get("digest") or ""),
        runtime=str(document.get("platform") or "").partition("_")[0],
        provider=str((parameters.get("execution_provider") or {}).get("active") or ""),
        image=image,
        datatype=str(datatype),
        output=str(output["name"]),
        output_kind=kind,
        labels=tuple(map(str, labels)),
    )

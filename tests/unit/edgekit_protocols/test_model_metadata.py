"""`edgekit.protocols.model_metadata`: what the edge acts on; classifiers are in `test_catalog`."""

from __future__ import annotations

import pytest

from edgekit.errors import UpstreamUnavailableError
from edgekit.protocols.model_metadata import TextSpec, parse_embedder_metadata

TEXT_INPUTS = [{"name": "ids", "datatype": "INT32", "shape": [-1, -1]}]
TEXT = {"input": "ids", "output": "vector", "max_tokens": 128}


def text_document(**text: object) -> dict[str, object]:
    return {"name": "m", "inputs": TEXT_INPUTS, "parameters": {"text": {**TEXT, **text}}}


def test_embedder_metadata_without_mask_and_vocabulary_is_enough() -> None:
    metadata = parse_embedder_metadata(text_document(mask=None, vocabulary=None))
    assert metadata.text == TextSpec("ids", "INT32", "", "", "vector", 128, "")
    assert (metadata.name, metadata.version, metadata.digest) == ("m", "", "")


@pytest.mark.parametrize(
    "text", [{"input": "other"}, {"mask": "other"}, {"max_tokens": "many"}, {"max_tokens": None}]
)
def test_embedder_metadata_without_sense_is_the_fault_of_the_backend(
    text: dict[str, object],
) -> None:
    with pytest.raises(UpstreamUnavailableError, match="incomplete"):
        parse_embedder_metadata(text_document(**text))

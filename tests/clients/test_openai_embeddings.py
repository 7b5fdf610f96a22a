"""The openai client, unmodified, against the compiled component and the real MiniLM."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from build_components import ROOT, Component
from fakes.backend_process import running_backend
from wasm import hosts

MODELS = ROOT / ".models"
MODEL = "minilm-l6-v2"
REFERENCE = json.loads((ROOT / "tests" / "data" / "minilm_reference.json").read_text("utf-8"))
"""Vectors of the original model; the file says how they were computed."""
SENTENCES = [entry for entry in REFERENCE["sentences"] if entry["text"]]
TEXTS = [entry["text"] for entry in SENTENCES]
EXPECTED = np.array([entry["vector"] for entry in SENTENCES])
PREDICT = Component("predict")

pytestmark = [
    pytest.mark.wasm,
    pytest.mark.skipif(
        not (MODELS / MODEL / "model.toml").exists(), reason="no MiniLM: run `make models`"
    ),
    pytest.mark.skipif(
        not PREDICT.is_current(),
        reason="build/predict.wasm is not of these sources and vocabularies: run `make build`",
    ),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("embeddings")
    with (
        # On a busy machine the backend would rightly refuse what it cannot finish in two seconds.
        running_backend(MODELS, folder / "backend.log", "--max-queue-ms=60000") as backend,
        hosts.embedded(folder, {"backend_url": backend.url}) as edge,
        openai.OpenAI(base_url=f"{edge.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def vectors(answer: Any) -> NDArray[np.float64]:
    return np.array([entry.embedding for entry in answer.data])


def test_openai_vectors_agree_with_the_original_model(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS)
    assert [entry.index for entry in answer.data] == list(range(len(TEXTS)))
    cosines = (vectors(answer) * EXPECTED).sum(axis=1)
    assert cosines.min() >= 0.999
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 2 * len(TEXTS)


def test_openai_floats_and_base64_are_the_same_numbers(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(model=MODEL, input=TEXTS[:2], encoding_format="float")
    packed = client.embeddings.create(model=MODEL, input=TEXTS[:2], encoding_format="base64")
    raw: Any = [entry.embedding for entry in packed.data]
    found = [np.frombuffer(base64.b64decode(text), "<f4") for text in raw]
    assert np.array_equal(np.array(found), vectors(plain).astype("<f4"))


def test_openai_dimensions_shorten_to_unit_length(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=64)
    (found,) = vectors(answer)
    assert found.shape == (64,)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    start = EXPECTED[0, :64] / np.linalg.norm(EXPECTED[0, :64])
    assert found @ start >= 0.999


def test_openai_token_ids_give_the_vector_of_their_text(client: openai.OpenAI) -> None:
    pieces = (MODELS / MODEL / "vocabulary.txt").read_text("utf-8").splitlines()
    ids = [pieces.index(piece) for piece in ("[CLS]", "hello", "world", "[SEP]")]
    of_ids = client.embeddings.create(model=MODEL, input=[ids])
    of_text = client.embeddings.create(model=MODEL, input="Hello world")
    assert np.allclose(vectors(of_ids), vectors(of_text), atol=1e-6)


def test_openai_256_inputs_are_answered_in_order(client: openai.OpenAI) -> None:
    texts = [TEXTS[number % len(TEXTS)] for number in range(256)]
    found = vectors(client.embeddings.create(model=MODEL, input=texts))
    expected = EXPECTED[[number % len(TEXTS) for number in range(256)]]
    assert (found * expected).sum(axis=1).min() >= 0.999


def test_openai_quantised_model_has_vectors_close_to_it(client: openai.OpenAI) -> None:
    found = vectors(client.embeddings.create(model=f"{MODEL}-int8", input=TEXTS))
    assert (found * EXPECTED).sum(axis=1).mean() >= 0.98


def test_openai_faults_are_the_errors_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as too_long:
        client.embeddings.create(model=MODEL, input="word " * 1000)
    assert too_long.value.param == "input[0]"
    assert "more than 256 tokens" in too_long.value.message
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="nobody", input="a")
    assert unknown.value.code == "model_not_found"


def test_openai_text_that_is_too_long_is_cut_on_demand(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(
        model=MODEL, input="word " * 1000, extra_body={"truncate": "END"}
    )
    assert answer.usage.prompt_tokens == 256


def test_models_have_the_vocabulary_that_their_manifest_names() -> None:
    for folder in (MODELS / MODEL, MODELS / f"{MODEL}-int8"):
        digest = hashlib.sha256((folder / "vocabulary.txt").read_bytes()).hexdigest()
        assert f'vocabulary = "sha256:{digest}"' in Path(folder / "model.toml").read_text()

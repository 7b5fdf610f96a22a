"""The sentence-embedding model, where it has been built, agrees with the original."""

import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgekit.processing.wordpiece import Vocabulary, encode, pad

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = json.loads((ROOT / "tests" / "data" / "minilm_reference.json").read_text("utf-8"))
TEXTS = [entry["text"] for entry in REFERENCE["sentences"]]
EXPECTED = np.array([entry["vector"] for entry in REFERENCE["sentences"]])
FOLDERS = [ROOT / ".models" / name for name in ("minilm-l6-v2", "minilm-l6-v2-int8")]

pytestmark = pytest.mark.skipif(
    not all(folder.exists() for folder in FOLDERS),
    reason="MiniLM is not built; scripts/build_minilm.py builds it",
)


@pytest.fixture(params=FOLDERS, ids=lambda folder: str(folder.name))
def folder(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def vectors(folder: Path, texts: list[str]) -> NDArray[np.float32]:
    """All texts in one padded batch."""
    pieces = (folder / "vocabulary.txt").read_text("utf-8").splitlines()
    vocabulary = Vocabulary.from_pieces(pieces)
    ids, mask = pad([encode(text, vocabulary, max_tokens=256) for text in texts], vocabulary)
    session = onnxruntime.InferenceSession(
        folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    feeds = {"input_ids": np.array(ids), "attention_mask": np.array(mask)}
    return np.asarray(session.run(["sentence_vector"], feeds)[0], np.float32)


def test_vectors_agree_with_the_original_model(folder: Path) -> None:
    cosines = (vectors(folder, TEXTS) * EXPECTED).sum(axis=1)
    assert cosines.min() >= (0.96 if folder.name.endswith("int8") else 0.9999)
    assert cosines.mean() >= (0.985 if folder.name.endswith("int8") else 0.9999)


def test_vectors_have_unit_length(folder: Path) -> None:
    assert np.allclose(np.linalg.norm(vectors(folder, TEXTS), axis=1), 1, atol=1e-5)


def test_vectors_of_like_sentences_are_closer_than_of_unlike_ones(folder: Path) -> None:
    cat, feline, stocks = vectors(folder, TEXTS[:3])
    assert cat @ feline > cat @ stocks + 0.3


def test_padding_changes_nothing_in_fp32() -> None:
    together = vectors(FOLDERS[0], TEXTS)
    alone = np.concatenate([vectors(FOLDERS[0], [text]) for text in TEXTS[:4]])
    assert np.allclose(together[:4], alone, atol=1e-5)


def test_manifest_and_card_have_the_digest(folder: Path) -> None:
    manifest = tomllib.loads((folder / "model.toml").read_text())
    digest = hashlib.sha256((folder / "1" / "model.onnx").read_bytes()).hexdigest()
    assert manifest["version"]["1"]["digest"] == f"sha256:{digest}"
    assert digest in (folder / "README.md").read_text()

"""`model.toml` of language models: what is taken, and how faults are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_backend.errors import ModelInvalidError
from gpu_backend.llm.manifest import genai_version, is_language_model, read_language_manifest
from gpu_backend.repository.files import find_models


def write(root: Path, name: str, text: str | None = None, *versions: str) -> Path:
    folder = root / name
    folder.mkdir()
    if text is not None:
        (folder / "model.toml").write_text(text)
    for version in versions:
        (folder / version).mkdir(parents=True, exist_ok=True)
        (folder / version / "genai_config.json").write_text("{}")
        (folder / version / "model.onnx").write_bytes(b"")
    return folder


def test_genai_folder_needs_no_manifest(tmp_path: Path) -> None:
    folder = write(tmp_path, "phi", None, ".")
    assert is_language_model(folder)
    assert genai_version(folder) == ("1", folder)
    assert read_language_manifest(folder).platform == "onnxruntime_genai"


def test_highest_version_serves(tmp_path: Path) -> None:
    folder = write(tmp_path, "phi", None, "2", "10")
    assert genai_version(folder) == ("10", folder / "10")


@pytest.mark.parametrize("text", [None, '[model]\nplatform = "onnxruntime_genai"\n'])
def test_language_models_are_no_models_of_tensors(tmp_path: Path, text: str | None) -> None:
    write(tmp_path, "phi", text, "1")
    assert find_models((tmp_path,)) == {}


def test_every_bound_can_be_given(tmp_path: Path) -> None:
    text = """
[model]
name = "phi"
platform = "onnxruntime_genai"
task = "text-generation"
[generation]
engine = "batched"
max_streams = 4
max_queue = 9
max_wait_s = 1.5
max_duration_s = 30
max_output_tokens = 99
context_length = 256
cache_mb = 64
prefill_tokens = 32
intra_op_threads = 2
idle_unload_s = 60
"""
    limits = read_language_manifest(write(tmp_path, "phi", text, "1")).limits
    assert (limits.engine, limits.max_streams, limits.max_queue) == ("batched", 4, 9)
    assert (limits.max_wait_s, limits.max_duration_s, limits.idle_unload_s) == (1.5, 30.0, 60.0)
    assert (limits.max_output_tokens, limits.context_length, limits.cache_mb) == (99, 256, 64)
    assert (limits.prefill_tokens, limits.intra_op_threads) == (32, 2)


def test_server_and_its_key_are_read(tmp_path: Path) -> None:
    text = """
[model]
platform = "openai"
[upstream]
url = "https://vllm.example/v1/"
model = "meta-llama/Llama-3"
api_key_file = "key"
read_timeout_s = 7
"""
    folder = write(tmp_path, "big", text)
    upstream = read_language_manifest(folder).upstream
    assert upstream is not None
    assert (upstream.url, upstream.model) == ("https://vllm.example/v1", "meta-llama/Llama-3")
    assert (upstream.api_key_file, upstream.read_timeout_s) == (folder / "key", 7.0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[model]\nplatform = "ollama"\n', "upstream: is required"),
        ('[model]\nplatform = "ollama"\n[upstream]\nurl = "ollama"\n', "upstream.url"),
        ('[model]\nplatform = "ollama"\n[upstream]\nurl = "http://a@h"\n', "without user"),
        ('[model]\nplatform = "olama"\n', "did you mean 'ollama'"),
        ("[generation]\nmax_stream = 2\n", "did you mean 'max_streams'"),
        ("[generation]\nmax_streams = 0\n", "from 1 to 1024"),
        ('[model]\nname = "other"\n', "its folder is"),
        ('[version."1"]\ndigest = "md5:1"\n', "64 hexadecimal"),
        ("[upstream]\nurl = 'http://x'\n", "is for platforms"),
        ("not toml", "model.toml"),
    ],
)
def test_fault_names_file_and_key(tmp_path: Path, text: str, fault: str) -> None:
    versions = () if "ollama" in text else ("1",)
    folder = write(tmp_path, "m", text, *versions)
    with pytest.raises(ModelInvalidError, match=fault.replace("[", r"\[")) as caught:
        read_language_manifest(folder)
    assert "model.toml" in caught.value.message


def test_manifest_without_its_folder_is_a_fault(tmp_path: Path) -> None:
    folder = write(tmp_path, "m", '[model]\nplatform = "onnxruntime_genai"\n')
    with pytest.raises(ModelInvalidError, match=r"no genai_config\.json"):
        read_language_manifest(folder)

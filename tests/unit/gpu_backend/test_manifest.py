"""`model.toml`: everything it can say, and every way it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_backend.batching.policy import BatchPolicy, Padding
from gpu_backend.errors import ModelInvalidError
from gpu_backend.repository.manifest import (
    ExecutionHints,
    ImageHints,
    Manifest,
    OutputHints,
    TextHints,
    Warmup,
    read_manifest,
)

FULL = """
labels_file = "labels.txt"
[model]
name = "m"
platform = "onnxruntime_onnx"
task = "image-classification"
serve = "all"
[version.1]
digest = "sha256:%s"
[image]
input = "x"
layout = "NHWC"
width = 32
height = 16
color = "rgb"
range = [0, 1]
mean = [0.5]
std = [0.1, 0.2, 0.3]
fit = "contain"
[output]
name = "y"
kind = "probabilities"
[batching]
max_batch = 16
max_delay_us = 500
preferred_rows = [8, 4]
token_budget = 4096
instances = 2
single_flight = false
[batching.padding]
axis = 1
values = { ids = 7 }
outputs = ["states"]
[execution]
provider = "cpu"
intra_op_threads = 3
device_id = 1
cpu_arena = false
inline = "never"
options = { arena_extend_strategy = "kSameAsRequested" }
[[warmup]]
rows = 2
fill = "random"
dims = { tokens = 9 }
[[warmup]]
""" % ("ab" * 32)  # braces abound


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.toml").write_text(text, encoding="utf-8")
    return folder


def test_missing_manifest_gives_defaults(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    assert read_manifest(folder) == Manifest("m")


def test_full_manifest_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", FULL)
    (folder / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    assert read_manifest(folder) == Manifest(
        name="m",
        task="image-classification",
        serve="all",
        digests={"1": "sha256:" + "ab" * 32},
        image=ImageHints(
            "x", 32, 16, "NHWC", "rgb", (0.0, 1.0), (0.5,), (0.1, 0.2, 0.3), "contain"
        ),
        output=OutputHints("y", "probabilities"),
        labels=("cat", "dog"),
        batching=BatchPolicy(
            16, 500, (4, 8), 4096, Padding(1, (("ids", 7.0),), ("states",)), 2, False
        ),
        max_batch_given=True,
        execution=ExecutionHints(
            "cpu", 3, 1, {"arena_extend_strategy": "kSameAsRequested"}, False, False
        ),
        warmup=(Warmup(2, {"tokens": 9}, "random"), Warmup()),
    )


def test_labels_may_stand_in_the_output_table(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", '[output]\nname = "y"\nlabels = ["a", "b"]\n')
    assert read_manifest(folder).labels == ("a", "b")


IMAGE = '[image]\ninput = "x"\nwidth = 8\nheight = 8\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('lables = ["a"]', "lables: unknown key; did you mean 'labels'?"),
        ("labels = [1]", "labels: expected a string, got [1]"),
        ('labels = "a"', "labels: expected a list of 0 to 1000000 entries, got 'a'"),
        ('labels_file = "../secret"', "labels_file: '../secret' is outside the model's folder"),
        ('labels_file = "none.txt"', "labels_file: cannot be read"),
        ('labels = ["a"]\nlabels_file = "l"', "labels_file: labels are given as well"),
        ("model = 1", "model: expected a table, got 1"),
        ('[model]\nplatform = "tensorflow"', "model.platform: expected one of onnxruntime_onnx"),
        ('[model]\nserve = "al"', "model.serve: expected one of latest, all (did you mean 'all'?)"),
        ('[model]\nname = "9"', "model.name: expected a letter, then"),
        ("[version.one]", "version.one: expected a version number"),
        ('[version.1]\ndigest = "md5:1"', "version.1.digest: expected sha256: and 64"),
        ("[image]", "image.input: is required"),
        (IMAGE.replace("8", "0", 1), "image.width: expected a whole number from 1 to 8192, got 0"),
        (IMAGE.replace("8", "8.5", 1), "image.width: expected a whole number"),
        (IMAGE.replace("8", "true", 1), "image.width: expected a whole number"),
        (IMAGE + 'fit = "streched"', "image.fit: expected one of ink, contain, cover, stretch"),
        (IMAGE + "range = [1]", "image.range: expected a list of 2 to 2 entries"),
        (IMAGE + "mean = [1, 2]", "image.mean: expected 1 or 3 numbers for rgb"),
        (IMAGE + 'color = "gray"\nstd = [1, 2, 3]', "image.std: expected 1 or 1 numbers for gray"),
        (IMAGE + "std = [0]", "image.std: 0 cannot be divided by"),
        ("[output]", "output.name: is required"),
        ("[text]", "text.max_tokens: is required"),
        ("[text]\nvocabulary = 'x'", "text.vocabulary: expected sha256: and 64 hexadecimal digits"),
        ("[batching]\nmax_batch = 0", "batching.max_batch: expected a whole number from 1"),
        (
            "[batching]\nmax_batch = 4\npreferred_rows = [8]",
            "batching.preferred_rows: none may exceed max_batch, 4",
        ),
        ("[batching]\nsingle_flight = 1", "batching.single_flight: expected true or false"),
        ("[batching.padding]\naxis = 0", "batching.padding.axis: expected a whole number from 1"),
        ('[execution]\nprovider = "cudaa"', "(did you mean 'cuda'?)"),
        ("warmup = 1", "warmup: expected [[warmup]] tables, got 1"),
        ("[[warmup]]\nrow = 1", "warmup[0].row: unknown key; did you mean 'rows'?"),
        ("[[warmup]]\n[[warmup]]\nfill = 'x'", "warmup[1].fill: expected one of zeros, ones"),
        ("[model", "model.toml: "),
    ],
)
def test_faulty_manifest_is_refused_with_the_key(tmp_path: Path, text: str, fault: str) -> None:
    folder = write(tmp_path / "m", text)
    with pytest.raises(ModelInvalidError) as caught:
        read_manifest(folder)
    assert fault in caught.value.message
    assert "model.toml" in caught.value.message


def test_text_hints_are_read(tmp_path: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    lines = ["[text]", "input = 'ids'", "output = 'vector'", "max_tokens = 256", "mask = 'mask'"]
    folder = write(tmp_path / "m", "\n".join([*lines, f"vocabulary = '{digest}'"]))
    hints = read_manifest(folder).text
    assert hints == TextHints("ids", "vector", 256, "mask", digest)


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", 'x = 1\n[model]\ny = 2\n[image]\nz = 3\nfit = "q"\n')
    with pytest.raises(ModelInvalidError) as caught:
        read_manifest(folder)
    assert caught.value.message.count("model.toml: ") == 7


def test_folder_of_another_name_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", '[model]\nname = "other"\n')
    with pytest.raises(ModelInvalidError, match="is 'other', but its folder is 'm'"):
        read_manifest(folder)

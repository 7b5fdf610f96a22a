"""`models add`: what is guessed about a graph, and what ends up in the repository."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fakes.backend_app import running_app
from fakes.onnx_models import classifier, lookup, row_sum, save
from gpu_backend.errors import BackendError, InvalidInputError, ModelInvalidError
from gpu_backend.main import main
from gpu_backend.repository.addition import ImageOverrides, add_model
from gpu_backend.repository.manifest import read_manifest

DIGITS = [str(n) for n in range(10)]


def network(
    shape: tuple[str | int, ...],
    classes: int = 4,
    datatype: int = TensorProto.FLOAT,
    softmax: bool = False,
    **names: str,
) -> onnx.ModelProto:
    """A global average and a linear layer: runs for any picture of `shape`."""
    channels = next((n for n in shape[1:] if n in (1, 3)), 3)
    is_nhwc = shape[-1] in (1, 3)
    axes = np.array([1, 2] if is_nhwc else [2, 3], dtype=np.int64)
    weights = np.random.default_rng(0).normal(size=(channels, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["scores" if softmax else "y"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", datatype, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], classes])],
        [numpy_helper.from_array(axes, "axes"), numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def add(
    tmp_path: Path, model: onnx.ModelProto, labels: list[str] | None = None, **more: Any
) -> Any:
    source = save(model, tmp_path / "source" / "model.onnx")
    return add_model(source, tmp_path / "models", "m", labels or [], ImageOverrides(**more))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            classifier(),
            {"layout": "NCHW", "width": 8, "height": 8, "color": "gray", "range": (0, 255)}
            | {"fit": "ink", "mean": None},
        ),
        (
            network(("n", 3, 224, 224)),
            {"layout": "NCHW", "width": 224, "color": "rgb", "range": (0, 1), "fit": "cover"}
            | {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        ),
        (
            network(("n", 160, 192, 3), datatype=TensorProto.UINT8),
            {"layout": "NHWC", "width": 192, "height": 160, "range": (0, 255), "mean": None},
        ),
        (network(("n", 3, "h", "w")), {"width": 224, "height": 224}),
        (network((1, 1, 28, 28)), {"color": "gray", "fit": "ink", "range": (0, 1)}),
    ],
    ids=["digits", "imagenet", "nhwc uint8", "free sizes", "mnist"],
)
def test_picture_input_is_recognised(
    tmp_path: Path, model: onnx.ModelProto, expected: dict[str, object]
) -> None:
    add(tmp_path, model)
    image = read_manifest(tmp_path / "models" / "m").image
    assert image is not None
    assert {key: getattr(image, key) for key in expected} == expected


@pytest.mark.parametrize(("softmax", "kind"), [(True, "probabilities"), (False, "logits")])
def test_kind_of_scores_is_measured(tmp_path: Path, softmax: bool, kind: str) -> None:
    added = add(tmp_path, network(("n", 3, 32, 32), softmax=softmax))
    output = read_manifest(tmp_path / "models" / "m").output
    assert output is not None
    assert output.name == "y"
    assert output.kind == kind
    assert any(note.startswith(f"output.kind = {kind}") for note in added.notes)


@pytest.mark.parametrize("model", [lookup(), row_sum()], ids=["text", "two inputs"])
def test_model_that_takes_no_pictures_gets_a_plain_manifest(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    added = add(tmp_path, model)
    manifest = read_manifest(tmp_path / "models" / "m")
    assert manifest.image is None
    assert manifest.task is None
    assert any(note.startswith("[image]: left out, because") for note in added.notes)


def test_what_the_person_knows_beats_the_guess(tmp_path: Path) -> None:
    add(tmp_path, network(("n", 3, 224, 224)), fit="contain", range=(-1.0, 1.0))
    image = read_manifest(tmp_path / "models" / "m").image
    assert image is not None
    assert image.fit == "contain"
    assert image.range == (-1.0, 1.0)
    assert image.mean is None


def test_labels_are_written_and_counted(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="2 labels are given, the model has 10 classes"):
        add(tmp_path, classifier(), ["a", "b"])
    assert list((tmp_path / "models").iterdir()) == []
    add(tmp_path, classifier(), ['quote " back \\ slash', *DIGITS[1:]])
    assert read_manifest(tmp_path / "models" / "m").labels[0] == 'quote " back \\ slash'


def test_second_version_fits_the_manifest_of_the_first(tmp_path: Path) -> None:
    first = add(tmp_path, classifier(1), DIGITS)
    second = add(tmp_path, classifier(2))
    assert (first.version, second.version) == (1, 2)
    manifest = read_manifest(tmp_path / "models" / "m")
    assert manifest.digests == {"1": first.digest, "2": second.digest}
    assert manifest.labels == tuple(DIGITS)
    with pytest.raises(ModelInvalidError, match=r"image.input is 'image', the graph has x"):
        add(tmp_path, network(("n", 3, 32, 32)))
    assert not (tmp_path / "models" / "m" / "3").exists()


@pytest.mark.parametrize("name", ["", "9lives", "a/b", "..", "a" * 65, "käse"])
def test_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    source = save(classifier(), tmp_path / "model.onnx")
    with pytest.raises(InvalidInputError, match="a letter, then up to 63"):
        add_model(source, tmp_path / "models", name, [], ImageOverrides())


def test_external_data_is_taken_along(tmp_path: Path) -> None:
    source = tmp_path / "source" / "big.onnx"
    source.parent.mkdir()
    onnx.save_model(
        classifier(),
        source,
        save_as_external_data=True,
        location="big.weights",
        size_threshold=0,
    )
    add_model(source, tmp_path / "models", "m", [], ImageOverrides())
    names = sorted(path.name for path in (tmp_path / "models" / "m" / "1").iterdir())
    assert names == ["big.weights", "model.onnx"]


def test_file_that_is_no_model_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"garbage")
    with pytest.raises(BackendError, match=r"cannot load model\.onnx"):
        add_model(source, tmp_path / "models", "m", [], ImageOverrides())
    assert not (tmp_path / "models").exists()


async def test_added_model_classifies_a_picture(tmp_path: Path) -> None:
    add(tmp_path, network(("n", 3, 32, 32)), ["cat", "dog", "car", "sea"])
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 30, 30)).save(buffer, "JPEG")
    async with running_app(tmp_path / "models") as backend:
        response = await backend.client.post(
            "/v2/models/m/classify",
            content=buffer.getvalue(),
            headers={"content-type": "image/jpeg"},
        )
        assert response.status_code == 200
        labels = {p["label"] for p in response.json()["predictions"]}
        assert labels == {"cat", "dog", "car", "sea"}


async def test_running_backend_picks_an_added_model_up(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    async with running_app(tmp_path / "models") as backend:
        add(tmp_path, classifier(), DIGITS)
        for _ in range(2):
            await backend.repository.poll()
        response = await backend.client.get("/v2/models/m")
        assert response.json()["parameters"]["labels"] == DIGITS


def test_command_says_what_it_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(classifier(), tmp_path / "seven.onnx")
    (tmp_path / "labels.txt").write_text("\n".join(DIGITS))
    arguments = ["models", "add", str(source), "--models", str(tmp_path / "models")]
    assert main([*arguments, "--labels", str(tmp_path / "labels.txt")]) == 0
    out = capsys.readouterr().out
    assert "added seven version 1" in out
    assert "image.fit = ink: a guess" in out
    assert read_manifest(tmp_path / "models" / "seven").labels == tuple(DIGITS)
    assert main([*arguments, "--name", "other", "--labels", ",".join(DIGITS)]) == 0
    assert read_manifest(tmp_path / "models" / "other").labels == tuple(DIGITS)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--labels", "nowhere.txt"], "--labels: cannot read nowhere.txt"),
        (["--range", "1"], "--range takes two numbers"),
        (["--name", "1"], "a letter, then"),
    ],
)
def test_command_with_bad_arguments_fails_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], text: str
) -> None:
    source = save(classifier(), tmp_path / "seven.onnx")
    status = main(["models", "add", str(source), "--models", str(tmp_path / "models"), *extra])
    assert status == 1
    errors = capsys.readouterr().err
    assert text in errors
    assert errors.count("\n") == 1


def test_command_for_a_missing_file_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", "nowhere.onnx"]) == 1
    assert capsys.readouterr().err == "gpu_backend: there is no file nowhere.onnx\n"

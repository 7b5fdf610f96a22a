"""Tiny ONNX models, each with one property that a test needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "classifier",
    "first_row",
    "fixed_rows",
    "identity",
    "lookup",
    "row_sum",
    "save",
    "write_model",
]

_IR_VERSION = 9
_OPSET = 17


def _model(graph: onnx.GraphProto, opset: int = _OPSET) -> onnx.ModelProto:
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR_VERSION
    )


def classifier(seed: int = 0) -> onnx.ModelProto:
    """`image` uint8 (n, 1, 8, 8) to `logits` float32 (n, 10): what the digits model looks like."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(64, 10)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return _model(graph)


def identity(element_type: int, shape: tuple[str | int, ...] = ("n", "width")) -> onnx.ModelProto:
    """`x` to `y`, equal, of one element type."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", element_type, list(shape))],
        [helper.make_tensor_value_info("y", element_type, list(shape))],
    )
    return _model(graph)


def lookup(rows: int = 4, width: int = 3) -> onnx.ModelProto:
    """`ids` int64 (n, tokens) to `vectors` float32 (n, tokens, width); an id past `rows` fails.

    Row r of the table holds r in every column.
    """
    table = np.repeat(np.arange(rows, dtype=np.float32)[:, None], width, axis=1)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["vectors"])],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "tokens"])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", "tokens", width])],
        [numpy_helper.from_array(table, "table")],
    )
    return _model(graph)


def row_sum() -> onnx.ModelProto:
    """`a` and `b`, float32 (n, tokens), to `total` (n, 1): the sum of a x b over a row."""
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["product"]),
        helper.make_node("ReduceSum", ["product", "axes"], ["total"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "row_sum",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", "tokens"]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", "tokens"]),
        ],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")],
    )
    return _model(graph)


def fixed_rows() -> onnx.ModelProto:
    """`x` float32 (1, 4) to `y`, its double: a graph that knows no batches."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "fixed_rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    return _model(graph)


def first_row() -> onnx.ModelProto:
    """`x` float32 (n, 2) to `y`, declared (n, 2): its first row, whatever n is.

    How many rows are kept is computed, so that no shape inference sees through it.
    """
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["highest"], keepdims=0),
        helper.make_node("Mul", ["highest", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "one"], ["number"]),
        helper.make_node("Cast", ["number"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "ends_shape"], ["ends"]),
        helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["y"]),
    ]
    constants = {
        "zero": np.float32(0),
        "one": np.float32(1),
        "ends_shape": np.array([1], dtype=np.int64),
        "starts": np.array([0], dtype=np.int64),
        "axes": np.array([0], dtype=np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "first_row",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return _model(graph)


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write `model` to `path`, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def write_model(
    root: Path, name: str, model: onnx.ModelProto, manifest: str = "", version: int = 1
) -> Path:
    """A model folder in the repository `root`; gives the folder."""
    folder = root / name
    save(model, folder / str(version) / "model.onnx")
    if manifest:
        (folder / "model.toml").write_text(manifest, encoding="utf-8")
    return folder

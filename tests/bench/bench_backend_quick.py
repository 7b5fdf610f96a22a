"""Measures the backend against the limit: the same model by `session.run` in one loop.

    .venv/bin/python tests/bench/bench_backend_quick.py [--seconds 5] [--overload]

Three models: the shipped digits (microseconds, runs on the event loop), a dense network (a
millisecond, cheaper by the row in batches) and a convolution (milliseconds for every row, so its
capacity is known). The latter two run on their threads. wrk sends a different input with every
request, so nothing is collapsed. Client and server share the machine's cores. With --overload the
convolution is offered five times what it can do, by a clock and not by its answers.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bench.overload import Overload, overload  # noqa: E402
from bench.report import Latency, machine  # noqa: E402
from fakes.backend_process import BackendProcess, running_backend  # noqa: E402
from fakes.onnx_models import write_model  # noqa: E402

DIGITS = ROOT / "gpu-backend" / "models" / "digits"
WIDTH = 1024
DEADLINE_MS = 250

_LUA = """
local head = '%s'
local filler = string.rep(string.char(0), %d)
local seed, n = 0, 0
function setup(thread) thread:set("seed", math.random(0, 255)) end
function init() math.randomseed(os.time()) end
local fields = {["Inference-Header-Content-Length"] = tostring(#head)}
request = function()
  n = n + 1
  local tail = string.char(seed %% 256, n %% 256, math.floor(n / 256) %% 256, %s)
  return wrk.format("POST", "/v2/models/%s/infer", fields, head .. filler .. tail)
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("REPORT %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """One model and how to ask it.

    Attributes:
        name: Of the model.
        file: Its graph.
        input: Name of its input.
        datatype: Of the input.
        shape: Of one row.
        output: Name of its output.
    """

    name: str
    file: Path
    input: str
    datatype: str
    shape: tuple[int, ...]
    output: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape)) * (1 if self.datatype == "UINT8" else 4)

    def head(self) -> str:
        """JSON head of a binary request of one row."""
        shape = ",".join(map(str, (1, *self.shape)))
        return (
            f'{{"inputs":[{{"name":"{self.input}","datatype":"{self.datatype}","shape":[{shape}],'
            f'"parameters":{{"binary_data_size":{self.row_bytes}}}}}],'
            f'"outputs":[{{"name":"{self.output}","parameters":{{"binary_data":true}}}}]}}'
        )


def dense() -> ModelProto:
    """Milliseconds of matrix products for a row of `WIDTH` numbers."""
    random = np.random.default_rng(0)
    weights = [random.normal(size=(WIDTH, WIDTH)).astype("f4") / WIDTH for _ in range(8)]
    nodes = [
        helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"h{i + 1}"])
        for i in range(len(weights))
    ]
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(each, f"w{i}") for i, each in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def convolution() -> ModelProto:
    """Milliseconds for every row of a 32 x 32 picture, in a batch as well as alone."""
    random = np.random.default_rng(0)
    channels = (1, 128, 128, 128, 128, 1)
    nodes, weights = [], []
    for i, (before, after) in enumerate(pairwise(channels)):
        names = [f"h{i}" if i else "x", f"w{i}"]
        nodes.append(helper.make_node("Conv", names, [f"h{i + 1}"], pads=[1, 1, 1, 1]))
        kernel = random.normal(size=(after, before, 3, 3)).astype("f4") / 100
        weights.append(numpy_helper.from_array(kernel, f"w{i}"))
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 32, 32])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def main() -> int:
    """Print one line per measurement; 1 if a request failed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="per run")
    options.add_argument("--overload", action="store_true", help="offer five times the capacity")
    given = options.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        print("wrk is not on PATH (apt-get install wrk)", file=sys.stderr)
        return 1
    print(f"machine  {machine('onnxruntime', 'uvicorn', 'uvloop', 'httptools', 'orjson')}")
    failed = 0
    with served() as (backend, subjects):
        for subject in subjects:
            alone_s = raw(subject, 1, given.seconds)
            many_s = raw(subject, 32, given.seconds)
            print(f"{subject.name:7} session.run, 1 row      p50 {alone_s * 1e3:8.3f} ms")
            print(f"{subject.name:7} session.run, 32 rows    {32 / many_s:10.0f} rows/s")
            for connections in (1, 8, 32, 128):
                load = drive(wrk, backend, subject, connections, given.seconds)
                failed += load.failed
                line = f"{subject.name:7} {connections:3} connections       {load}"
                if connections == 1:
                    line += f"  {load.latency.p50_ms - alone_s * 1e3:+.3f} ms"
                print(line, flush=True)
        if given.overload:
            flood(backend, subjects[-1], given.seconds)
    return 1 if failed else 0


@contextmanager
def served() -> Iterator[tuple[BackendProcess, list[Subject]]]:
    """A backend with all models, validation, metrics and limits on."""
    with tempfile.TemporaryDirectory(prefix="backend-bench-") as directory:
        root = Path(directory) / "models"
        shutil.copytree(DIGITS, root / "digits")
        file = write_model(root, "dense", dense()) / "1" / "model.onnx"
        conv = write_model(root, "conv", convolution()) / "1" / "model.onnx"
        digits = root / "digits" / "1" / "model.onnx"
        subjects = [
            Subject("digits", digits, "image", "UINT8", (1, 8, 8), "logits"),
            Subject("dense", file, "x", "FP32", (WIDTH,), "y"),
            Subject("conv", conv, "x", "FP32", (1, 32, 32), "y"),
        ]
        with running_backend(root, Path(directory) / "log") as backend:
            yield backend, subjects


def raw(subject: Subject, rows: int, seconds: float) -> float:
    """Median seconds of `session.run`, with the threads the backend takes."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(subject.file), options)
    dtype = np.uint8 if subject.datatype == "UINT8" else np.float32
    feeds = {subject.input: np.ones((rows, *subject.shape), dtype)}
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk measured."""

    latency: Latency
    per_second: float
    failed: int

    def __str__(self) -> str:
        failed = f"  {self.failed} FAILED" if self.failed else ""
        return f"{self.latency}  {self.per_second:7.0f} req/s{failed}"


def drive(
    wrk: str, backend: BackendProcess, subject: Subject, connections: int, seconds: float
) -> Load:
    """Closed loop: each connection sends its next request when it has its answer."""
    # The last bytes vary; the top byte of a float makes it about 1: no NaN, and nothing so small
    # that the processor takes a hundred times as long for it (a denormal).
    top = "math.floor(n / 65536) % 256" if subject.datatype == "UINT8" else "63"
    script = _LUA % (subject.head(), subject.row_bytes - 4, top, subject.name)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", file.name]
        run = subprocess.run(
            [*command, f"{backend.url}/"], capture_output=True, text=True, check=True
        )
    match = re.search(r"REPORT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", run.stdout)
    assert match is not None, run.stdout
    requests, micros, failed, p50, p95, p99 = map(int, match.groups())
    latency = Latency(requests, p50 / 1e3, p95 / 1e3, p99 / 1e3)
    return Load(latency, requests / micros * 1e6, failed)


def flood(backend: BackendProcess, subject: Subject, seconds: float) -> None:
    """Print the peak, and what becomes of five times as many requests."""
    head = subject.head().encode()
    rows = (np.full(subject.row_bytes // 4, value, np.float32).tobytes() for value in range(512))
    target = Overload(
        f"{backend.url}/v2/models/{subject.name}/infer",
        subject.name,
        [head + row for row in rows],
        {"inference-header-content-length": str(len(head))},
        DEADLINE_MS,
        seconds,
    )
    overload(target, lambda name, run: print(f"{subject.name:7} {name}: {run}", flush=True))


if __name__ == "__main__":
    sys.exit(main())

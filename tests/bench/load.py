"""Load for the backend's benchmark: the same bodies for every server, no two alike in flight.

`drive` is wrk in a closed loop.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from bench.report import Latency

__all__ = ["WORKLOADS", "Load", "Workload", "drive"]

_BODIES = 512
"""More than connections, so no two requests in flight are alike and nothing can be shared."""

_LUA = """
local requests, n = {}, 0
function init(args)
  local file = assert(io.open("%s", "rb"))
  for _, size in ipairs({%s}) do
    requests[#requests + 1] = wrk.format("POST", "%s", {%s}, file:read(size))
  end
end
function request()
  n = n %% #requests + 1
  return requests[n]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("REPORT %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of a model.

    Attributes:
        name: Of the workload.
        model: Folder name of the model.
        tokens: Shortest and longest row, for a text model; (0, 0) for digits.
        connections: How many at a time, in turn.
        binary: The protocol's binary tensors instead of JSON; of the servers that speak them.
    """

    name: str
    model: str
    tokens: tuple[int, int] = (0, 0)
    connections: tuple[int, ...] = (1, 8, 32, 128)
    binary: bool = False

    def bodies(self) -> list[bytes]:
        """`_BODIES` unlike requests of one row, from a fixed seed."""
        random = np.random.default_rng(7)
        return [self._body(random)[0] for _ in range(_BODIES)]

    def fields(self) -> dict[str, str]:
        """Header fields of every request; rows of unlike length cannot be binary."""
        if not self.binary:
            return {"Content-Type": "application/json"}
        head_bytes = self._body(np.random.default_rng(7))[1]
        return {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(head_bytes),
        }

    def feeds(self, rows: int) -> dict[str, np.ndarray]:
        """Arrays for `session.run`, of the longest row."""
        if self.tokens == (0, 0):
            return {"image": np.ones((rows, 1, 8, 8), np.uint8)}
        shape = (rows, self.tokens[1])
        return {"input_ids": np.ones(shape, np.int64), "attention_mask": np.ones(shape, np.int64)}

    def _body(self, random: np.random.Generator) -> tuple[bytes, int]:
        """One request, and how many bytes of it are JSON."""
        arrays = self._arrays(random)
        document: dict[str, object] = {"inputs": [_tensor(*each, self.binary) for each in arrays]}
        if not self.binary:
            text = json.dumps(document).encode()
            return text, len(text)
        document["parameters"] = {"binary_data_output": True}
        text = json.dumps(document).encode()
        return b"".join([text, *(array.tobytes() for _, _, array in arrays)]), len(text)

    def _arrays(self, random: np.random.Generator) -> list[tuple[str, str, np.ndarray]]:
        """Name, datatype and values of every input."""
        if self.tokens == (0, 0):
            return [("image", "UINT8", random.integers(0, 256, (1, 1, 8, 8), np.uint8))]
        length = int(random.integers(self.tokens[0], self.tokens[1] + 1))
        ids = random.integers(1000, 30000, (1, length))
        mask = np.ones((1, length), np.int64)
        return [("input_ids", "INT64", ids), ("attention_mask", "INT64", mask)]


def _tensor(name: str, datatype: str, array: np.ndarray, binary: bool) -> dict[str, object]:
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if binary:
        return {**tensor, "parameters": {"binary_data_size": array.nbytes}}
    return {**tensor, "data": array.ravel().tolist()}


WORKLOADS = {
    each.name: each
    for each in (
        Workload("digits", "digits"),
        Workload("digits-binary", "digits", binary=True),
        Workload("minilm", "minilm-l6-v2", (32, 32)),
        Workload("minilm-mixed", "minilm-l6-v2", (8, 128), connections=(32,)),
    )
}


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk measured in one round."""

    latency: Latency
    per_second: float
    failed: int


def drive(
    wrk: str,
    url: str,
    bodies: Sequence[bytes],
    fields: Mapping[str, str],
    connections: int,
    seconds: int,
) -> Load:
    """Closed loop: each connection sends its next request when it has its answer."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        file, script = Path(directory) / "bodies", Path(directory) / "post.lua"
        file.write_bytes(b"".join(bodies))
        sizes = ",".join(str(len(body)) for body in bodies)
        table = ",".join(f'["{name}"]="{value}"' for name, value in fields.items())
        script.write_text(_LUA % (file, sizes, urlsplit(url).path, table), encoding="utf-8")
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
        run = subprocess.run(
            [*command, "-s", str(script), url], capture_output=True, text=True, check=True
        )
    match = re.search(r"REPORT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", run.stdout)
    assert match is not None, run.stdout
    requests, micros, failed, p50, p95, p99 = map(int, match.groups())
    latency = Latency(requests, p50 / 1e3, p95 / 1e3, p99 / 1e3)
    return Load(latency, requests / micros * 1e6, failed)

"""Load for the backend's benchmark: the same bodies for every server, no two alike in flight.

`drive` is wrk in a closed loop. `offer` is an open loop: requests leave by the clock, whatever
comes back, which is what an overload is.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from bench.report import Latency

__all__ = ["WORKLOADS", "Load", "Tally", "Workload", "drive", "offer"]

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


@dataclass(slots=True)
class Tally:
    """What became of the requests that were offered.

    Attributes:
        good: Answered 200 within the deadline.
        late: Answered 200 after it.
        broken: Neither answered nor refused.
        refusals_s: Seconds to each refusal.
    """

    good: int = 0
    late: int = 0
    broken: int = 0
    refusals_s: list[float] = field(default_factory=list)


async def offer(
    url: str, bodies: Sequence[bytes], deadline_ms: int, seconds: float, rate: float | None
) -> Tally:
    """Offer `rate` requests per second; None keeps 32 connections busy instead."""
    client = _Client(url, bodies, deadline_ms)
    end = time.perf_counter() + seconds
    if rate is None:

        async def loop() -> None:
            while time.perf_counter() < end:
                await client.ask()

        await asyncio.gather(*(loop() for _ in range(32)))
    else:
        tasks, due = set(), time.perf_counter()
        while due < end:
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.add(asyncio.create_task(client.ask()))
        await asyncio.gather(*tasks)
    client.close()
    return client.tally


class _Client:
    """Keeps connections for the next request, and opens one whenever none is idle."""

    def __init__(self, url: str, bodies: Sequence[bytes], deadline_ms: int) -> None:
        self.tally = Tally()
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port
        self._deadline_s = deadline_ms / 1e3
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._asked = 0
        head = f"POST {urlsplit(url).path} HTTP/1.1\r\nhost: bench\r\n"
        fields = f"content-type: application/json\r\ninference-deadline-ms: {deadline_ms}\r\n"
        self._messages = [
            f"{head}{fields}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies
        ]

    async def ask(self) -> None:
        message = self._messages[self._asked % len(self._messages)]
        self._asked += 1
        started = time.perf_counter()
        try:
            pair = self._idle.pop() if self._idle else await self._connect()
            pair[1].write(message)
            answer = await pair[0].readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: (\d+)", answer)
            assert length is not None, answer
            await pair[0].readexactly(int(length[1]))
        except (OSError, asyncio.IncompleteReadError):
            self.tally.broken += 1
            return
        self._idle.append(pair)
        took = time.perf_counter() - started
        if not answer.startswith(b"HTTP/1.1 200"):
            self.tally.refusals_s.append(took)
        elif took <= self._deadline_s:
            self.tally.good += 1
        else:
            self.tally.late += 1

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()

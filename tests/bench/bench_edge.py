"""What the edge adds to a call: on a hit, a miss, a fallback, beside a plain proxy.

    make bench-edge                                        about two minutes
    .venv/bin/python tests/bench/bench_edge.py --quick     writes nothing

One client, one connection, one request after the other: latency, not throughput. The backend is
the real one with its digits model; the edge has its default settings, records included. All
systems are up at once and measured in turn, round after round; what a system adds is the median
over the rounds of the differences of medians within a round. Its peer is nginx before a FastAPI
service that passes the call on and does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
for _folder in ("tests", "scripts"):
    sys.path.insert(0, str(ROOT / _folder))

from bench.peers.catalogue import PeerError, free_ports  # noqa: E402
from bench.peers.fastapi_proxy import FASTAPI, running_fastapi  # noqa: E402
from bench.report import Latency, machine  # noqa: E402
from bench.results import write_measured  # noqa: E402
from edgehost.testing import AppOptions, EdgeHostProcess  # noqa: E402
from fakes.backend_process import running_backend  # noqa: E402

DIRECT = "the backend itself, infer"
PEER = "nginx + FastAPI, infer"
WARM_UP = 40
PAUSE_S = 0.003
"""What the guest does after its response is not part of the next one's latency."""

HEAD = json.dumps(
    {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": [1, 1, 8, 8],
                "parameters": {"binary_data_size": 64},
            }
        ],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
).encode()

Make = Callable[[], tuple[bytes, dict[str, str]]]

_numbers = itertools.count(1)


def picture() -> bytes:
    """8 × 8 pixels that were not sent before, with a stroke in them."""
    pixels = bytearray(64)
    for row in range(1, 7):
        pixels[row * 8 + 3] = pixels[row * 8 + 4] = 255
    pixels[61:64] = next(_numbers).to_bytes(3, "big")
    return bytes(pixels)


def tensor(pixels: bytes) -> tuple[bytes, dict[str, str]]:
    """A picture as a binary infer request."""
    return HEAD + pixels, {"inference-header-content-length": str(len(HEAD))}


def image(pixels: bytes) -> tuple[bytes, dict[str, str]]:
    """A picture as raw pixels."""
    return pixels, {"content-type": "application/octet-stream"}


@dataclass
class Subject:
    """One thing to measure.

    Attributes:
        title: As shown in the table.
        path: What is called.
        make: Body and fields of a request.
        wanted: Part of `Inference-Placement`, where it has to be there.
        rounds: Seconds of each request, by round.
    """

    title: str
    url: str
    path: str
    make: Make
    wanted: str = ""
    rounds: list[list[float]] = field(default_factory=list)

    def measure(self, requests: int) -> None:
        """One round; every answer has to be what the title says."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        seconds = []
        with contextlib.closing(connection):
            for number in range(WARM_UP + requests):
                body, headers = self.make()
                started = time.perf_counter()
                connection.request("POST", self.path, body, headers)
                response = connection.getresponse()
                content = response.read()
                took = time.perf_counter() - started
                placement = response.getheader("inference-placement") or ""
                if response.status != 200:
                    raise SystemExit(f"{self.title}: status {response.status}: {content[:200]!r}")
                if number >= WARM_UP:
                    if self.wanted not in placement:
                        raise SystemExit(f"{self.title}: answered as {placement!r}")
                    seconds.append(took)
                time.sleep(PAUSE_S)
        self.rounds.append(seconds)

    @property
    def latency(self) -> Latency:
        """Over all rounds."""
        return Latency.of(list(itertools.chain.from_iterable(self.rounds)))

    def added_ms(self, base: Subject) -> float:
        """Median over the rounds of what its median is above that of `base`."""
        pairs = zip(self.rounds, base.rounds, strict=True)
        return statistics.median(
            (statistics.median(mine) - statistics.median(theirs)) * 1e3 for mine, theirs in pairs
        )


def edge_subjects(url: str, dead_url: str) -> list[Subject]:
    """What is asked of an edge with a backend, and of one without."""
    classify, infer = "/v1/classify/digits?width=8&height=8", "/v2/models/digits/infer"
    known = picture()
    miss, hit = "cluster;reason=preferred", "edge;reason=cache-hit"
    return [
        Subject("edge, miss, infer", url, infer, lambda: tensor(picture()), miss),
        Subject("edge, hit, infer", url, infer, lambda: tensor(known), hit),
        Subject("edge, miss, classify", url, classify, lambda: image(picture()), miss),
        Subject("edge, hit, classify", url, classify, lambda: image(known), hit),
        Subject(
            "edge, fallback, classify", dead_url, classify, lambda: image(picture()), "edge;reason="
        ),
    ]


def table(subjects: Sequence[Subject]) -> list[str]:
    """Markdown, one line each."""
    direct = subjects[0]
    lines = [
        "| | n | p50, ms | p95, ms | p99, ms | added to the backend's p50, ms |",
        "|---|---|---|---|---|---|",
    ]
    for subject in subjects:
        found = subject.latency
        added = "" if subject is direct else f"{subject.added_ms(direct):+.2f}"
        lines.append(
            f"| {subject.title} | {found.n:,} | {found.p50_ms:.2f} | {found.p95_ms:.2f} "
            f"| {found.p99_ms:.2f} | {added} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds, nothing written")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "inference-anywhere-bench",
        help="where the peer's environment is made",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args()
    rounds, requests = (2, 100) if options.quick else (8, 250)
    load_before, absent, versions = os.getloadavg()[0], "", ""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        models = ROOT / "gpu-backend" / "models"
        records = ("--records", str(folder / "records.sqlite"))
        backend = stack.enter_context(running_backend(models, folder / "backend.log", *records))
        infer = "/v2/models/digits/infer"
        subjects = [Subject(DIRECT, backend.url, infer, lambda: tensor(picture()))]
        try:
            url = stack.enter_context(running_fastapi(options.cache, backend.url, folder))
            versions = FASTAPI.versions(FASTAPI.install(options.cache))
            subjects.append(Subject(PEER, url, infer, lambda: tensor(picture())))
        except PeerError as error:
            absent = f"{PEER}: not measured, {error}"
        urls = []
        for place, upstream in (
            ("edge", backend.url),
            ("dead", f"http://127.0.0.1:{free_ports(1)}"),
        ):
            app = AppOptions({"backend_url": upstream}, state_dir=folder / place, threads=2)
            edge = stack.enter_context(EdgeHostProcess(ROOT / "spin.toml", app))
            urls.append(edge.url)
        subjects += edge_subjects(urls[0], urls[1])
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} …", flush=True)
            for subject in subjects:
                subject.measure(requests)
    conditions = (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine('wasmtime', 'onnxruntime')}. "
        f"Peer: {versions or 'none'}. {rounds} rounds. Load average before and after: "
        f"{load_before:.1f}, {os.getloadavg()[0]:.1f}."
    )
    lines = [conditions, "", *table(subjects), *filter(None, ["", absent])]
    print("\n".join(lines))
    if not options.quick:
        write_measured(options.out / "edge.md", "# What the edge adds to a call", "\n".join(lines))


if __name__ == "__main__":
    main()

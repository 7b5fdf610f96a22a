"""Show what the edge does when the backend goes away, with real components and a real backend.

    make build && .venv/bin/python scripts/demo_offline.py

Starts the backend and the edge on free ports, and then: a miss, a hit, collapsed requests, a chat;
the backend killed (stale answer, edge model, vibration, the same chat); its return, and the records
that waited.
Every line shows the status and the fields with which the edge explains its answer.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
START_S = 120.0

VARIABLES = {
    # Short, so that the demonstration need not wait.
    "classify_cache_ttl_s": "2",
    "cache_stale_while_revalidate_s": "0",
    "breaker_ejection_ms": "300",
    "breaker_max_ejection_ms": "600",
}


class DemoError(Exception):
    """A step did not show what it is there to show."""


@dataclass(frozen=True)
class Shown:
    """What one request brought."""

    status: int
    headers: Mapping[str, str]
    document: Mapping[str, object]

    def line(self) -> str:
        """Status and the fields that explain it."""
        cache = re.sub(r';key="[0-9a-f]+"', "", self.headers.get("cache-status", "-"))
        return f"{self.status}  {cache:<44} {self.headers.get('inference-placement', '-')}"


def digit(shift: int = 0) -> bytes:
    """A seven of 8 × 8 pixels; `shift` changes one pixel a little, so that it is a new picture."""
    rows = ("........", ".######.", ".....##.", "....##..", "...##...", "...##...", "..##....")
    pixels = bytearray(255 if cell == "#" else 0 for row in (*rows, "........") for cell in row)
    pixels[0] = shift % 200
    return bytes(pixels)


class Edge:
    """A client of the running edge.

    Attributes:
        asked: Inferences so far, each of which leaves one record.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port
        self._count = itertools.count(1)
        self.asked = 0

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Shown:
        """One inference over a connection of its own."""
        self.asked = next(self._count)
        connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Shown(response.status, fields, json.loads(response.read() or b"{}"))

    def classify(self, pixels: bytes, **headers: str) -> Shown:
        """One picture."""
        fields = {"content-type": "application/octet-stream"}
        fields.update((name.replace("_", "-"), value) for name, value in headers.items())
        return self.post("/v1/classify/digits?width=8&height=8", pixels, fields)

    def chat(self) -> Shown:
        """One question to the small language model, answered the same way each time."""
        document = {
            "model": "tiny-docs",
            "messages": [{"role": "user", "content": "What does open() do?"}],
            "temperature": 0,
            "max_tokens": 24,
        }
        fields = {"content-type": "application/json"}
        return self.post("/v1/chat/completions", json.dumps(document).encode(), fields)

    def vibration(self) -> Shown:
        """One window of a shaft with knocks in it."""
        samples = [math.sin(2 * math.pi * 25 * n / 12_000) for n in range(2048)]
        for start in range(40, 2040, 130):
            for n in range(start, min(start + 20, 2048)):
                samples[n] += 2 * math.exp(-(n - start) / 6) * math.sin(1.9 * (n - start))
        body = json.dumps({"samples": samples, "sample_rate_hz": 12_000}).encode()
        return self.post("/v1/detect/vibration", body, {"content-type": "application/json"})


@contextlib.contextmanager
def program(ready: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program of this repository, once it has printed a URL after `ready`."""
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        deadline_s = time.monotonic() + START_S
        for line in process.stdout:
            found = re.search(rf"{ready}\s+(http://\S+)", line)
            if found:
                yield process, found[1].rstrip("/")
                return
            if time.monotonic() > deadline_s:
                break
        raise DemoError(f"{arguments[0]} did not start: run `make build` and try again")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def backend(
    listen: str, records: Path
) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """The real backend, which keeps records in a file."""
    return program("ready on", "gpu_backend", "--listen", listen, "--records", str(records))


def edge(
    backend_url: str, state: Path
) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """The components in the embedded host."""
    flags = ["--from", str(ROOT / "spin.toml"), "--listen", "127.0.0.1:0"]
    flags += ["--state-dir", str(state)]
    for name, value in {**VARIABLES, "backend_url": backend_url}.items():
        flags += ["--variable", f"{name}={value}"]
    return program("Serving", "edgehost", "up", *flags)


def show(title: str, shown: Shown, expected: str) -> Shown:
    """Print a step; `expected` has to be in its line."""
    print(f"{title:<34} {shown.line()}", flush=True)
    if expected not in shown.line():
        raise DemoError(f"{title}: expected {expected!r}")
    return shown


def recovery(client: Edge) -> Shown:
    """The first answer of the cluster after its return."""
    deadline_s = time.monotonic() + 15
    shift = 100
    while time.monotonic() < deadline_s:
        shift += 1
        shown = client.classify(digit(shift))
        if shown.headers["inference-placement"].startswith("cluster"):
            return shown
        time.sleep(0.2)
    raise DemoError("the backend is back and not used")


def kept(url: str) -> int:
    """Records the backend has."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/records")
        return int(json.loads(connection.getresponse().read())["records"])


def report(url: str, client: Edge) -> None:
    """Print how many of the edge's records have arrived."""
    print(f"records at the backend: {kept(url)}, of {client.asked} inferences", flush=True)


def run(folder: Path) -> None:
    """All steps."""
    records = folder / "records.sqlite"
    with contextlib.ExitStack() as stack:
        process, url = stack.enter_context(backend("127.0.0.1:0", records))
        _, edge_url = stack.enter_context(edge(url, folder / "state"))
        client = Edge(edge_url)
        print(f"{'':34} status  Cache-Status                            Inference-Placement")
        show("first request: a miss", client.classify(digit()), "stored")
        time.sleep(0.2)
        show("the same again: a hit", client.classify(digit()), ";hit;")
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda _: client.classify(digit(50)), range(8)))
        waited = [shown for shown in together if "collapsed" in shown.line()]
        if waited:
            show(f"8 at once: {len(waited)} of them waited", waited[0], "collapsed")
        show("a question: a miss", client.chat(), "stored")
        time.sleep(1.2)
        show("the same again: a hit", client.chat(), ";hit;")
        time.sleep(0.3)
        report(url, client)

        process.kill()
        process.wait()
        print("--- backend killed ---")
        time.sleep(2.2)
        show("known picture: the stale answer", client.classify(digit()), "stale-if-error")
        show("new picture: the edge model", client.classify(digit(7)), "edge;reason=fallback-edge")
        for shift in range(8, 14):
            client.classify(digit(shift))
        show("breaker open: nobody waits", client.classify(digit(14)), "edge;reason=")
        detected = show("vibration needs no backend", client.vibration(), "edge;reason=edge-only")
        print(f"{'':34} anomaly {detected.document['anomaly']}, score {detected.document['score']}")
        show("the known question", client.chat(), ";hit;")

        listen = url.removeprefix("http://")
        _, url = stack.enter_context(backend(listen, records))
        print("--- backend started again ---")
        show("recovery", recovery(client), "cluster;reason=preferred")
        asked = client.asked
        deadline_s = time.monotonic() + 40
        while kept(url) < asked and time.monotonic() < deadline_s:
            time.sleep(1)
            client.classify(digit(int(time.monotonic() * 7)))
        report(url, client)
        if not asked <= kept(url) <= client.asked:
            raise DemoError(f"of {asked} records {kept(url)} arrived")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        try:
            run(Path(folder))
        except DemoError as error:
            print(f"demo_offline: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The servers we are measured beside: how each is installed, started and asked.

Each lives in a virtual environment of its own, made on demand outside the work tree from the pins
in `requirements-NAME.txt`. What cannot be installed or started is reported with its reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Peer", "PeerError", "Server", "free_ports"]

_HERE = Path(__file__).parent

_INSTALL_S = 900
_START_S = 90
_STOP_S = 10

Fields = Mapping[str, str]

_NOISE = ("is ignored: it is neither a file",)


class PeerError(Exception):
    """A peer cannot be measured; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answered.

    Attributes:
        name: As shown in tables.
        url: Of its route for inference.
        session: Process group and session of all it started.
    """

    name: str
    url: str
    session: int


@dataclass(frozen=True, slots=True)
class Peer:
    """One server from the package index.

    Attributes:
        name: As shown in tables; `requirements-NAME.txt` and `NAME_server.py` are its files.
        path: Of its route for inference; `{model}` stands for the model's name.
        packages: Whose versions the report names.
        speaks_binary: It takes the protocol's binary tensors.
    """

    name: str
    path: str
    packages: tuple[str, ...]
    speaks_binary: bool = False

    def install(self, cache: Path) -> Path:
        """Its interpreter; the environment is made unless it is there with the same pins.

        Raises:
            PeerError: The environment cannot be made.
        """
        pins = _HERE / f"requirements-{self.name}.txt"
        home = cache / self.name
        python, stamp = home / "bin" / "python", home / ".pins"
        digest = hashlib.sha256(pins.read_bytes()).hexdigest()
        if stamp.is_file() and stamp.read_text() == digest:
            return python
        shutil.rmtree(home, ignore_errors=True)
        base = shutil.which("python3.11") or "python3"
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        for command in ([base, "-m", "venv", str(home)], [*pip, "-r", str(pins)]):
            try:
                subprocess.run(
                    command, check=True, capture_output=True, text=True, timeout=_INSTALL_S
                )
            except subprocess.CalledProcessError as exc:
                raise PeerError(f"cannot be installed: {_last_line(exc.stderr)}") from exc
            except (OSError, subprocess.TimeoutExpired) as exc:
                raise PeerError(f"cannot be installed: {exc}") from exc
        stamp.write_text(digest)
        return python

    def versions(self, python: Path) -> str:
        """`package version` of what its environment has, for the report."""
        code = (
            "import sys, importlib.metadata as m;"
            "print(*(p + ' ' + m.version(p) for p in sys.argv[1:]), sep=', ')"
        )
        command = [str(python), "-c", code, *self.packages]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    @contextmanager
    def running(
        self, python: Path, model: Path, threads: int, request: tuple[bytes, Fields], log: Path
    ) -> Iterator[Server]:
        """Serve `model` until the end of the block; everything it started ends with it.

        Args:
            python: Its interpreter, from `install`.
            model: The ONNX file, NAME/VERSION/model.onnx.
            threads: Of one execution.
            request: Body and header fields; answered before the server counts as started.
            log: For its output.

        Raises:
            PeerError: It did not start, or did not answer.
        """
        port = free_ports(3)
        url = f"http://127.0.0.1:{port}{self.path.format(model=model.parents[1].name)}"
        program = f"bench.peers.{self.name}_server"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(python), "-m", program, str(model), str(port), str(threads)],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=_environment(python, port),
                start_new_session=True,
            )
        try:
            _await_answer(process, url, request, log)
            yield Server(self.name, url, process.pid)
        finally:
            _stop(process, port)


def _environment(python: Path, port: int) -> dict[str, str]:
    library = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(_HERE.parents[1]),
        # Triton's Python backend loads libpython from there.
        "LD_LIBRARY_PATH": library,
        "BENTOML_DO_NOT_TRACK": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Every descendant carries it, also those that leave the session.
        "BENCH_PEER": str(port),
    }


def _await_answer(
    process: subprocess.Popen[bytes], url: str, asked: tuple[bytes, Fields], log: Path
) -> None:
    body, fields = asked
    deadline = time.monotonic() + _START_S
    last = "no connection"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            text = log.read_text(errors="replace")
            raise PeerError(f"ended with status {process.returncode}: {_last_line(text)}")
        try:
            request = urllib.request.Request(url, body, dict(fields))
            with urllib.request.urlopen(request, timeout=10) as response:
                length = response.headers.get("Inference-Header-Content-Length")
                text = response.read()
                answer = json.loads(text if length is None else text[: int(length)])
            outputs = answer["outputs"] if isinstance(answer, dict) else answer
            assert outputs, answer
            return
        except (OSError, ValueError) as exc:
            last = str(exc)
        time.sleep(0.3)
    raise PeerError(f"did not answer within {_START_S} s: {last}")


def _stop(process: subprocess.Popen[bytes], port: int) -> None:
    for number, patience in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)):
        for pid in _descendants(port):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    # What outlived its parent.
    for pid in _descendants(port):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(port: int) -> list[int]:
    """Every process with our mark in its environment (Linux)."""
    mark = f"BENCH_PEER={port}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            first: int = server.getsockname()[1]
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except (OSError, OverflowError):
            continue
        return first


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    useful = [line for line in lines if not any(noise in line for noise in _NOISE)]
    return useful[-1][:300] if useful else "no output"


PEERS = (
    Peer("mlserver", "/v2/models/{model}/infer", ("mlserver", "onnxruntime")),
    Peer("litserve", "/predict", ("litserve", "onnxruntime")),
    Peer("bentoml", "/infer", ("bentoml", "onnxruntime")),
    Peer("ray", "/", ("ray", "onnxruntime")),
    Peer("kserve", "/v2/models/{model}/infer", ("kserve", "onnxruntime"), True),
    Peer("pytriton", "/v2/models/{model}/infer", ("nvidia-pytriton", "onnxruntime"), True),
)

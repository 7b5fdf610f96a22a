"""`make up` as a user meets it: it works when pasted, says what is wrong, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from e2e.conftest import ROOT, MakeUp, StartApp

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def curl_lines(output: str) -> list[str]:
    """The commands it printed, continuation lines joined."""
    joined = output.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("curl ")]


def wait_gone(app: MakeUp, timeout_s: float = 60.0) -> set[int]:
    """Processes still alive once all have gone or the time is over."""
    deadline = time.monotonic() + timeout_s
    while (left := app.pids()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def test_printed_curl_lines_when_pasted_all_answer_json(app: MakeUp) -> None:
    lines = curl_lines(app.output)
    assert len(lines) == 4
    for line in lines:
        done = subprocess.run(
            line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
        assert json.loads(done.stdout), line


def test_example_picture_of_a_seven_is_classified_as_seven(app: MakeUp) -> None:
    (line,) = (line for line in curl_lines(app.output) if "seven.png" in line)
    done = subprocess.run(
        line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["predictions"][0]["label"] == "7"
    assert answer["model"] == "digits"


def test_interrupt_stops_everything_and_exits_cleanly(start_app: StartApp) -> None:
    app = start_app()
    app.wait_ready()
    assert len(app.pids()) >= 3
    app.interrupt()
    app.process.wait(timeout=60)
    assert wait_gone(app) == set()
    assert "Traceback" not in app.output


def test_interrupt_under_load_lets_running_requests_finish(start_app: StartApp) -> None:
    app = start_app()
    app.wait_ready()
    host, port = app.edge.split(":")
    seven = (ROOT / "examples" / "seven.png").read_bytes()
    head = (
        "POST /v1/classify/digits HTTP/1.1\r\nhost: edge\r\ncontent-type: image/png\r\n"
        f"content-length: {len(seven)}\r\nexpect: 100-continue\r\ncache-control: no-store\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(8):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            client.sendall(head.encode())
            clients.append(client)
        for client in clients:  # its guest runs, and wants the body
            assert client.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"
        app.interrupt()
        for client in clients:
            client.sendall(seven)
        for client in clients:
            answer = b"".join(iter(lambda: client.recv(65536), b""))  # noqa: B023
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b'"label": "7"' in answer
    app.process.wait(timeout=60)
    assert wait_gone(app) == set()


def test_killed_outright_leaves_no_process(start_app: StartApp) -> None:
    app = start_app()
    app.wait_ready()
    (pid,) = re.findall(r"\d+", (ROOT / ".run" / f"up-{app.edge.split(':')[1]}.lock").read_text())
    os.kill(int(pid), signal.SIGKILL)
    assert wait_gone(app) == set()


def test_backend_that_dies_ends_everything_with_one_line(start_app: StartApp) -> None:
    app = start_app()
    app.wait_ready()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in app.pids()}
    (backend,) = (pid for pid, command in commands.items() if b"gpu_backend" in command)
    os.kill(backend, signal.SIGKILL)
    assert app.process.wait(timeout=60) != 0
    assert "error: backend ended with code -9" in app.output
    assert wait_gone(app) == set()


@pytest.mark.parametrize("which", ["edge", "backend"])
def test_port_in_use_says_so_and_leaves_no_process(start_app: StartApp, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        app = start_app(**{f"{which.upper()}_LISTEN": address})
        assert app.process.wait(timeout=60) != 0
    error = f"error: cannot listen on {address} (Address already in use): "
    assert error + f"free it, or choose another with {which.upper()}_LISTEN=host:port" in app.output
    assert wait_gone(app) == set()


def test_down_stops_what_another_terminal_started(start_app: StartApp) -> None:
    app = start_app()
    app.wait_ready()
    subprocess.run(
        ["python3", "scripts/up.py", "--down", "--port", app.edge.split(":")[1]],
        cwd=ROOT, check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    app.process.wait(timeout=60)
    assert wait_gone(app) == set()


def test_second_start_on_the_same_address_is_refused(start_app: StartApp) -> None:
    app = start_app()
    app.wait_ready()
    second = start_app(EDGE_LISTEN=app.edge)
    assert second.process.wait(timeout=60) != 0
    assert "already serves port" in second.output
    assert app.process.poll() is None

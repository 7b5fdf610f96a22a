"""What `make up` makes of its settings, before anything is started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import up
from up import Address, Plan, UpError


@pytest.mark.parametrize(
    ("text", "host", "port", "url"),
    [
        ("127.0.0.1:3000", "127.0.0.1", 3000, "http://127.0.0.1:3000"),
        ("0.0.0.0:80", "0.0.0.0", 80, "http://127.0.0.1:80"),
        ("[::1]:3000", "::1", 3000, "http://[::1]:3000"),
        ("localhost:1", "localhost", 1, "http://localhost:1"),
    ],
)
def test_address_valid_text_is_read(text: str, host: str, port: int, url: str) -> None:
    address = Address.parse("EDGE_LISTEN", text)
    assert (address.host, address.port, address.url) == (host, port, url)


@pytest.mark.parametrize("text", ["3000", ":3000", "host:", "host:0", "host:65536", "host:x", ""])
def test_address_malformed_text_names_variable_and_form(text: str) -> None:
    with pytest.raises(UpError, match=r"^EDGE_LISTEN=.* is no address: write host:port"):
        Address.parse("EDGE_LISTEN", text)


def test_plan_defaults_are_the_documented_ports() -> None:
    plan = Plan.read({"PATH": ""})
    assert (str(plan.edge), str(plan.backend), plan.spin) == (
        "127.0.0.1:3000",
        "127.0.0.1:8080",
        None,
    )


def test_plan_same_address_twice_is_refused() -> None:
    with pytest.raises(UpError, match=r"both 127\.0\.0\.1:9"):
        Plan.read({"EDGE_LISTEN": "127.0.0.1:9", "BACKEND_LISTEN": "127.0.0.1:9", "PATH": ""})


def test_plan_unknown_host_lists_the_choices() -> None:
    with pytest.raises(UpError, match="EDGE_HOST=docker is unknown: use auto, embedded or spin"):
        Plan.read({"EDGE_HOST": "docker", "PATH": ""})


def test_plan_spin_forced_without_spin_says_so() -> None:
    with pytest.raises(UpError, match="`spin` is not on PATH"):
        Plan.read({"EDGE_HOST": "spin", "PATH": ""})


@pytest.fixture
def path_with_spin(tmp_path: Path) -> str:
    program = tmp_path / "spin"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return str(tmp_path)


def test_plan_auto_takes_spin_where_it_is_on_path(path_with_spin: str) -> None:
    plan = Plan.read({"PATH": path_with_spin})
    assert plan.edge_command(Path("python"))[:2] == [f"{path_with_spin}/spin", "up"]


def test_plan_embedded_ignores_spin_on_path(path_with_spin: str) -> None:
    plan = Plan.read({"PATH": path_with_spin, "EDGE_HOST": "embedded"})
    assert plan.edge_command(Path("python"))[:4] == ["python", "-m", "edgehost", "up"]


def test_plan_edge_is_told_where_the_backend_is() -> None:
    plan = Plan.read({"BACKEND_LISTEN": "0.0.0.0:9000", "PATH": ""})
    assert plan.edge_environment({})["SPIN_VARIABLE_BACKEND_URL"] == "http://127.0.0.1:9000"


def test_plan_backend_url_set_by_the_user_wins() -> None:
    plan = Plan.read({"PATH": ""})
    mine = {"SPIN_VARIABLE_BACKEND_URL": "http://gpu:8080"}
    assert plan.edge_environment(mine)["SPIN_VARIABLE_BACKEND_URL"] == "http://gpu:8080"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(up, "BUILT_MODELS", tmp_path)
    return tmp_path


def test_plan_built_models_are_served_beside_those_that_ship(built: Path) -> None:
    found = Plan.read({"PATH": ""}).backend_environment({"A": "b"})
    assert found.pop("BACKEND_MODELS").split(os.pathsep) == [
        str(up.ROOT / "gpu-backend" / "models"),
        str(built),
    ]
    assert found == {"A": "b"}


def test_plan_without_built_models_leaves_the_backend_its_default(built: Path) -> None:
    built.rmdir()
    assert Plan.read({"PATH": ""}).backend_environment({"A": "b"}) == {"A": "b"}


def test_plan_folders_the_user_names_stay(built: Path) -> None:
    given = {"BACKEND_MODELS": "mine"}
    assert Plan.read({"PATH": ""}).backend_environment(given) == given


PREPARING = """
import subprocess, sys
import environments, up
def ensure(name):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        print(child.pid, flush=True)
        child.wait()
    finally:
        child.kill()
        child.wait()
environments.ensure = ensure
sys.exit(up.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_signal_while_it_prepares_ends_that_and_is_no_error(number: signal.Signals) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        edge, backend = (f"127.0.0.1:{probe.getsockname()[1]}" for probe in (one, two))
    addresses = {"EDGE_LISTEN": edge, "BACKEND_LISTEN": backend}
    with subprocess.Popen(
        [sys.executable, "-c", PREPARING],
        env={**os.environ, **addresses, "PYTHONPATH": str(up.ROOT / "scripts")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert "stopped before anything was started" in said
    assert not Path(f"/proc/{child}").exists()

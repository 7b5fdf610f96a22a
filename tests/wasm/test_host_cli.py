"""`python -m edgehost` as a user meets it: what it prints, how it fails, how it stops."""

from __future__ import annotations

import http.client
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgehost.testing import AppOptions, EdgeHostProcess, SpinAppFactory
from fakes.host_app import write_app
from fakes.http_peers import WAIT_S, RawClient

pytestmark = pytest.mark.wasm

TINY_APP = """\
spin_manifest_version = 2
[application]
name = "tiny"
version = "0.1.0"
[[trigger.http]]
id = "hi"
route = "/hi"
[trigger.http.static_response]
body = "hi"
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_app(tmp_path)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "spin.toml"
    path.write_text(TINY_APP)
    return path


def run(
    *arguments: str, cwd: Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgehost", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=before,
    )


def get(url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=WAIT_S)
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def address(app: EdgeHostProcess) -> tuple[str, int]:
    parts = urlsplit(app.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def test_up_prints_what_spin_prints(tiny: Path) -> None:
    command = [sys.executable, "-m", "edgehost", "up", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=tiny.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(4)]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    url = lines[1].removeprefix("Serving ").strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    assert lines == ["\n", f"Serving {url}\n", "Available Routes:\n", f"  hi: {url}/hi\n"]


def test_routes_are_listed_with_wildcards_and_descriptions(manifest: Path) -> None:
    command = [sys.executable, "-m", "edgehost", "up", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command, cwd=manifest.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(8)]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    url = lines[1].removeprefix("Serving ").strip()
    assert f"  traffic: {url}/users/:user_id (wildcard)\n" in lines
    assert f"  teapot: {url}/teapot\n" in lines
    assert "    Does what tests ask\n" in lines


def test_port_in_use_is_one_clear_line(tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("up", "--listen", listen, cwd=tiny.parent)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: {listen} is already in use\n"


def test_address_of_another_machine_is_one_clear_line(tiny: Path) -> None:
    result = run("up", "--listen", "192.0.2.1:3000", cwd=tiny.parent)
    assert result.returncode == 1
    reason = "Cannot assign requested address"
    assert result.stderr == f"error: cannot listen on 192.0.2.1:3000: {reason}\n"


def test_missing_manifest_is_one_clear_line(tmp_path: Path) -> None:
    result = run("up", "-f", "absent.toml", cwd=tmp_path)
    assert result.returncode == 1
    assert re.fullmatch(r"error: absent\.toml.*\n", result.stderr)


def test_missing_wasm_file_is_one_clear_line(manifest: Path) -> None:
    text = manifest.read_text()
    manifest.write_text(re.sub(r'source = ".*traffic.*"', 'source = "absent.wasm"', text, count=1))
    result = run("check", cwd=manifest.parent)
    assert result.returncode == 1
    assert re.fullmatch(r"error: spin\.toml.*absent\.wasm.*\n", result.stderr)


def test_file_that_is_no_component_is_one_clear_line(manifest: Path) -> None:
    text = manifest.read_text()
    manifest.write_text(re.sub(r'source = ".*traffic.*"', 'source = "not.wasm"', text))
    (manifest.parent / "not.wasm").write_bytes(b"\0asm nonsense")
    result = run("up", "--listen", "127.0.0.1:0", cwd=manifest.parent)
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*not\.wasm: not .*WebAssembly.*\n", result.stderr)


def test_every_fault_of_the_manifest_is_a_line(tiny: Path) -> None:
    tiny.write_text(TINY_APP.replace("\nversion", "\nversoin").replace('route = "/hi"', "rout = 1"))
    result = run("up", cwd=tiny.parent)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("error: spin.toml") for line in lines)


@pytest.mark.parametrize(
    "flags",
    [
        ["--listen", "3000"],
        ["--request-timeout", "soon"],
        ["--max-instance-memory", "-1"],
        ["--threads", "0"],
        ["--unknown"],
    ],
)
def test_wrong_flag_is_exit_code_2_with_the_usage(tiny: Path, flags: list[str]) -> None:
    result = run("up", *flags, cwd=tiny.parent)
    assert result.returncode == 2
    assert f"error: argument {flags[0]}" in result.stderr or "unrecognized" in result.stderr


def test_help_names_the_flags_of_spin_up(tmp_path: Path) -> None:
    result = run("up", "--help", cwd=tmp_path)
    assert result.returncode == 0
    for flag in (
        "--from", "--listen", "--runtime-config-file", "--variable", "--state-dir", "--env",
        "--quiet", "--max-instance-memory", "--request-timeout", "--log-dir",
    ):  # fmt: skip
        assert flag in result.stdout


def test_check_of_a_good_app_says_so(manifest: Path) -> None:
    result = run("check", "-f", str(manifest), cwd=Path("/"))
    assert result.returncode == 0
    assert result.stdout.endswith("spin.toml: 3 components, no faults\n")


def test_flags_reach_the_app(manifest: Path, tmp_path: Path) -> None:
    options = AppOptions(variables={"greeting": "moin"}, component_env={"COLOUR": "blue"})
    with EdgeHostProcess(manifest, options, "--log-dir", str(tmp_path / "logs")) as app:
        assert b'"known": "moin"' in get(app.url + "/get_variables")[1]
        assert b'"COLOUR": "blue"' in get(app.url + "/environment")[1]
        get(app.url + "/output")
    assert ("probe", "stderr", "one line") in app.logs
    assert "one line\n" in (tmp_path / "logs" / "probe_stdout.txt").read_text()


def test_quiet_silences_components_but_not_the_host(manifest: Path) -> None:
    with EdgeHostProcess(manifest, None, "--quiet", "--access-log") as app:
        get(app.url + "/output")
        assert get(app.url + "/raises")[0] == 500
    assert app.logs == [] or all("GET /raises" in line.text for line in app.logs)
    assert any(" GET /output 200 0 " in line for line in app.stderr)


def test_interrupt_under_load_lets_running_requests_finish(manifest: Path) -> None:
    with EdgeHostProcess(manifest) as app:
        clients = [RawClient(address(app)) for _ in range(8)]
        for client in clients:
            client.send(b"GET /t/drip?count=4&ms=100 HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in clients:
            client.receive_head()
        app.process.send_signal(signal.SIGINT)
        for client in clients:
            assert client.receive_to_end().endswith(b"line 3\n\r\n0\r\n\r\n")
            client.close()
        assert app.process.wait(WAIT_S) == 0


def test_second_interrupt_ends_at_once(manifest: Path) -> None:
    with EdgeHostProcess(manifest) as app, RawClient(address(app)) as client:
        client.send(b"GET /t/drip?count=2&ms=60000 HTTP/1.1\r\nHost: a\r\n\r\n")
        client.receive_head()
        app.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + WAIT_S
        while not any("Shutting down" in line for line in app.stderr):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        app.process.send_signal(signal.SIGINT)
        assert app.process.wait(WAIT_S) == 128 + signal.SIGINT


def test_grace_period_ends_a_request_that_does_not(manifest: Path) -> None:
    with (
        EdgeHostProcess(manifest, None, "--shutdown-timeout", "100ms") as app,
        RawClient(address(app)) as client,
    ):
        client.send(b"GET /loops_after_head HTTP/1.1\r\nHost: a\r\n\r\n")
        client.receive_head()
        app.process.send_signal(signal.SIGTERM)
        assert app.process.wait(WAIT_S) == 0
    assert any("did not finish in time" in line for line in app.stderr)


def test_state_outlives_the_host(manifest: Path, tmp_path: Path) -> None:
    options = AppOptions(state_dir=tmp_path / "state")
    with EdgeHostProcess(manifest, options) as app:
        assert get(app.url + "/work_after_response")[0] == 200
        assert b'"value": "\\u0000value"' in get(app.url + "/spin_store")[1]
    with EdgeHostProcess(manifest, options) as app:
        assert b'"recorded"' in get(app.url + "/spin_store")[1]


def test_two_hosts_share_one_state_directory(manifest: Path, tmp_path: Path) -> None:
    options = AppOptions(state_dir=tmp_path / "state")
    with EdgeHostProcess(manifest, options) as one, EdgeHostProcess(manifest, options) as two:
        for _ in range(5):
            for app in (one, two):
                assert get(app.url + "/compare_and_swap") == (200, b'["old", "after retry"]')
                assert get(app.url + "/work_after_response")[0] == 200


def test_disk_that_is_full_costs_the_request_not_the_host(manifest: Path, tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: writes to the store's file fail alike."""
    with EdgeHostProcess(manifest, AppOptions(state_dir=tmp_path / "state")) as app:
        assert get(app.url + "/spin_store")[0] == 200
        resource.prlimit(app.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        statuses = {get(app.url + "/spin_store")[0] for _ in range(3)}
        assert statuses == {500}
        assert get(app.url + "/t/hello") == (200, b"hello")


def test_fixture_runs_apps_in_process_and_in_a_subprocess(
    spin_app: SpinAppFactory, manifest: Path
) -> None:
    for app in (spin_app(manifest), spin_app(manifest, subprocess=True)):
        assert get(app.url + "/t/hello") == (200, b"hello")


def test_fixture_refuses_an_unknown_option(spin_app: SpinAppFactory, manifest: Path) -> None:
    with pytest.raises(TypeError, match="varaibles"):
        spin_app(manifest, varaibles={})

"""Lines of guests, and the access log."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgehost.access_log import log_access
from edgehost.stdio import GuestLog
from fakes.http_peers import RunningServer, respond, wait_until


def test_line_goes_to_stderr_with_its_component(capsys: pytest.CaptureFixture[str]) -> None:
    GuestLog()("chat", "stdout", "hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "[chat] hello\n")


def test_quiet_log_prints_nothing_and_still_keeps_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = GuestLog(quiet=True, log_dir=tmp_path / "logs")
    log("chat", "stdout", "one")
    log("chat", "stdout", "two")
    log("chat", "stderr", "three")
    log.close()
    assert capsys.readouterr().err == ""
    assert (tmp_path / "logs" / "chat_stdout.txt").read_text() == "one\ntwo\n"
    assert (tmp_path / "logs" / "chat_stderr.txt").read_text() == "three\n"


def test_log_file_that_cannot_be_written_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat_stdout.txt").mkdir()
    log = GuestLog(quiet=True, log_dir=tmp_path)
    log("chat", "stdout", "one")
    log("chat", "stdout", "two")
    assert capsys.readouterr().err.count("no longer kept") == 1


def test_access_line_tells_request_status_size_and_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with RunningServer(lambda exchange: respond(exchange, b"hello")) as server:
        with server.client() as client:
            host, port = client.address
            client.send(b"GET /p?q=1 HTTP/1.1\r\nHost: a\r\n\r\n")
            client.receive_response()
        wait_until(lambda: bool(server.over), "the end of the exchange")
        log_access(server.over[0])
    words = capsys.readouterr().err.split()
    assert words[1:6] == [f"{host}:{port}", "GET", "/p?q=1", "200", "5"]
    assert words[0].endswith("Z")
    assert words[6].endswith("ms")


def test_access_line_of_a_client_that_left_shows_499(capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(lambda exchange: None) as server:
        with server.client() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_until(lambda: bool(server.exchanges), "the request")
        wait_until(lambda: bool(server.over), "the end of the exchange")
        log_access(server.over[0])
    assert " 499 0+ " in capsys.readouterr().err

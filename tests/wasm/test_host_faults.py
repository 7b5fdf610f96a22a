"""One bad request costs one 500 and nothing else: guests that misbehave, peers that leave."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator

import pytest

from edgehost.testing import AppOptions, EdgeHost
from fakes.host_app import write_app
from fakes.http_peers import WAIT_S, RawClient, Upstream, wait_until

pytestmark = pytest.mark.wasm

MEMORY_LIMIT = 128 << 20


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeHost]:
    """With a time limit that no test reaches: what ends a guest here is something else."""
    manifest = write_app(tmp_path_factory.mktemp("app"))
    options = AppOptions(request_timeout_s=300.0, max_instance_memory=MEMORY_LIMIT)
    with EdgeHost(manifest, options) as host:
        yield host


@pytest.fixture(scope="module")
def hasty_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeHost]:
    """With a time limit that ends what would go on for ever."""
    manifest = write_app(tmp_path_factory.mktemp("app"))
    with EdgeHost(manifest, AppOptions(request_timeout_s=2.0)) as host:
        yield host


def get(app: EdgeHost, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*app.host.address, timeout=WAIT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def is_healthy(app: EdgeHost) -> bool:
    return get(app, "/t/hello") == (200, b"hello")


def no_guest_runs(app: EdgeHost) -> bool:
    return app.host.running_requests == 0


@pytest.mark.parametrize("scenario", ["loops", "sleeps", "spins_on_ready"])
def test_guest_that_goes_on_and_on_is_500_with_an_empty_body(
    hasty_app: EdgeHost, scenario: str
) -> None:
    assert get(hasty_app, f"/{scenario}") == (500, b"")
    assert is_healthy(hasty_app)


@pytest.mark.parametrize("scenario", ["raises", "exits", "no_response", "error_code"])
def test_guest_that_gives_no_answer_is_500_with_an_empty_body(app: EdgeHost, scenario: str) -> None:
    assert get(app, f"/{scenario}") == (500, b"")
    assert is_healthy(app)


def test_unserved_import_is_500_and_names_what_was_called(
    app: EdgeHost, caplog: pytest.LogCaptureFixture
) -> None:
    assert get(app, "/unavailable")[0] == 500
    assert "fermyon:spin/redis" in caplog.text
    assert is_healthy(app)


def test_memory_hog_gets_a_memory_error_of_its_own(app: EdgeHost) -> None:
    assert get(app, "/hogs") == (200, b"MemoryError")
    assert is_healthy(app)


def test_guest_that_stops_after_its_head_leaves_the_answer_incomplete(
    hasty_app: EdgeHost,
) -> None:
    with RawClient(hasty_app.host.address) as client:
        client.send(b"GET /loops_after_head HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive_head()[0] == 200
        assert client.receive_to_end() == b"5\r\nbegun\r\n"
    assert is_healthy(hasty_app)


def test_other_requests_are_served_beside_guests_that_loop(app: EdgeHost) -> None:
    with contextlib.ExitStack() as loops:
        for _ in range(4):
            client = loops.enter_context(RawClient(app.host.address))
            client.send(b"GET /loops HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: app.host.running_requests == 4, "the loops")
        assert is_healthy(app)
        assert app.host.running_requests >= 4
    wait_until(lambda: no_guest_runs(app), "the loops' end")


@pytest.mark.parametrize(
    "path",
    [
        "/loops",
        "/sleeps",
        "/t/drip?count=2&ms=100000",
        "/t/flood",
        "/t/relay?authority=probe.spin.internal&path=/sleeps",
        "/t/relay?authority=hidden.spin.internal&path=/flood",
    ],
)
def test_client_that_leaves_frees_its_instance(app: EdgeHost, path: str) -> None:
    with RawClient(app.host.address) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_until(lambda: app.host.running_requests >= 1, "the guest")
    wait_until(lambda: no_guest_runs(app), "the guest's end")
    assert is_healthy(app)


def test_client_that_leaves_in_mid_upload_frees_its_instance(app: EdgeHost) -> None:
    with RawClient(app.host.address) as client:
        client.send(b"POST /t/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        wait_until(lambda: app.host.running_requests == 1, "the guest")
    wait_until(lambda: no_guest_runs(app), "the guest's end")
    assert is_healthy(app)


def test_client_that_leaves_while_an_upstream_is_slow_drops_the_upstream(
    app: EdgeHost,
) -> None:
    dropped = threading.Event()

    def script(connection: RawClient, _: int) -> None:
        connection.receive()
        connection.receive_to_end()
        dropped.set()

    with Upstream(script) as upstream:
        with RawClient(app.host.address) as client:
            target = f"/t/relay?authority={upstream.authority}"
            client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            wait_until(lambda: upstream.accepted == 1, "the call")
        assert dropped.wait(WAIT_S)
    wait_until(lambda: no_guest_runs(app), "the guest's end")


def test_upstream_that_dies_in_mid_body_breaks_the_answer(app: EdgeHost) -> None:
    def script(connection: RawClient, _: int) -> None:
        connection.receive()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")

    with Upstream(script) as upstream, RawClient(app.host.address) as client:
        target = f"/t/relay?authority={upstream.authority}"
        client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        client.receive_head()
        assert not client.receive_to_end().endswith(b"0\r\n\r\n")
    assert is_healthy(app)


def test_chained_component_that_traps_is_a_500_for_its_caller(app: EdgeHost) -> None:
    assert get(app, "/t/relay?authority=probe.spin.internal&path=/raises") == (500, b"")
    assert is_healthy(app)


def test_chained_call_finds_a_thread_although_every_other_is_taken(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    manifest = write_app(tmp_path_factory.mktemp("app"))
    with EdgeHost(manifest, AppOptions(threads=1)) as app:
        path = "/t/relay?authority=hidden.spin.internal&path=/hello"
        assert get(app, path) == (200, b"hello")


def test_upstream_that_is_not_there_is_told_to_the_guest(app: EdgeHost) -> None:
    status, body = get(app, "/t/relay?authority=127.0.0.1:1")
    assert (status, body) == (502, b"ErrorCode_ConnectionRefused")


def test_upstream_that_answers_garbage_is_told_to_the_guest(app: EdgeHost) -> None:
    with Upstream(lambda connection, _: connection.send(b"\x00\x01garbage\r\n\r\n")) as upstream:
        status, body = get(app, f"/t/relay?authority={upstream.authority}")
    assert (status, body) == (502, b"ErrorCode_HttpProtocolError")


def test_slow_upstream_ends_by_the_guests_own_timeout(app: EdgeHost) -> None:
    def script(connection: RawClient, _: int) -> None:
        connection.receive_to_end()

    with Upstream(script) as upstream:
        status, body = get(app, f"/t/relay?authority={upstream.authority}&first=50000000")
    assert (status, body) == (502, b"ErrorCode_ConnectionReadTimeout")


def test_slow_upstream_without_a_timeout_ends_by_the_hosts_limit(hasty_app: EdgeHost) -> None:
    def script(connection: RawClient, _: int) -> None:
        connection.receive_to_end()

    with Upstream(script) as upstream:
        assert get(hasty_app, f"/t/relay?authority={upstream.authority}") == (500, b"")
    assert is_healthy(hasty_app)


def test_outbound_call_that_is_not_allowed_says_so_on_the_components_stderr(
    app: EdgeHost,
) -> None:
    status, body = get(app, "/t/relay?authority=example.test")
    assert (status, body) == (502, b"ErrorCode_HttpRequestDenied")
    texts = [line.text for line in app.logs if line.component == "traffic"]
    assert any("example.test" in text for text in texts)


def test_full_house_answers_503_with_retry_after(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    manifest = write_app(tmp_path_factory.mktemp("app"))
    options = AppOptions(threads=1, request_timeout_s=2.0)
    with EdgeHost(manifest, options) as app:
        with RawClient(app.host.address) as first, RawClient(app.host.address) as second:
            first.send(b"GET /t/drip?count=999&ms=20 HTTP/1.1\r\nHost: a\r\n\r\n")
            first.receive_head()
            second.send(b"GET /loops HTTP/1.1\r\nHost: a\r\n\r\n")
            status, fields, _ = second.receive_response()
        assert status in (500, 503)  # 503 when it expired before the thread was free
        assert status != 503 or fields["retry-after"] == "1"


def test_shut_down_lets_a_running_request_finish(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    manifest = write_app(tmp_path_factory.mktemp("app"))
    with EdgeHost(manifest) as app, RawClient(app.host.address) as client:
        client.send(b"GET /t/drip?count=3&ms=150 HTTP/1.1\r\nHost: a\r\n\r\n")
        client.receive_head()
        finished: list[bool] = []
        stopper = threading.Thread(target=lambda: finished.append(app.host.stop(WAIT_S)))
        stopper.start()
        assert client.receive_to_end().endswith(b"line 2\n\r\n0\r\n\r\n")
        stopper.join(WAIT_S)
    assert finished == [True]


def test_shut_down_cuts_a_request_that_outlives_the_grace_period(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    manifest = write_app(tmp_path_factory.mktemp("app"))
    with EdgeHost(manifest) as app, RawClient(app.host.address) as client:
        client.send(b"GET /loops HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: app.host.running_requests == 1, "the guest")
        started = time.monotonic()
        assert not app.host.stop(0.1)
        assert time.monotonic() - started < WAIT_S
        assert client.receive_to_end() == b""

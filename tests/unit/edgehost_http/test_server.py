"""The HTTP/1.1 server over real sockets."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable

import pytest

from edgehost.http.exchange import Exchange
from edgehost.http.server import ServerLimits
from edgehost.ports import BodyFailedError
from fakes.http_peers import (
    WAIT_S,
    RunningServer,
    read_all,
    respond,
    wait_until,
    write_all,
)

Handler = Callable[[Exchange], None]


def hello(exchange: Exchange) -> None:
    respond(exchange, b"hello", [("content-type", b"text/plain")])


def echo(exchange: Exchange) -> None:
    respond(exchange, read_all(exchange.body))


def echo_streaming(exchange: Exchange) -> None:
    body = read_all(exchange.body)
    writer = exchange.start(200, [])
    write_all(writer, body)
    writer.finish(exchange.body.trailers())


def reflect_head(exchange: Exchange) -> None:
    request = exchange.request
    shown = [request.method, request.path, str(request.query), request.authority]
    shown += [f"{name}={value.decode('latin-1')}" for name, value in request.headers]
    respond(exchange, "\n".join(shown).encode())


def test_get_with_content_length_answers_in_one_message() -> None:
    with RunningServer(hello) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, fields, body = client.receive_response()
    assert (status, body) == (200, b"hello")
    assert fields["content-type"] == "text/plain"
    assert fields["date"].endswith(" GMT")


def test_keep_alive_serves_many_requests_on_one_connection() -> None:
    with RunningServer(hello) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=WAIT_S)
        for _ in range(20):
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"hello"
        connection.close()
        assert len({id(e._transport) for e in server.exchanges}) == 1


def test_head_request_keeps_content_length_and_sends_no_body() -> None:
    with RunningServer(hello) as server, server.client() as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, fields = client.receive_head()
        assert (status, fields["content-length"]) == (200, "5")
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive_response()[2] == b"hello"


@pytest.mark.parametrize("status", [204, 304])
def test_bodiless_status_sends_no_body_even_if_the_guest_writes_one(status: int) -> None:
    def handler(exchange: Exchange) -> None:
        writer = exchange.start(status, [])
        writer.write(b"not for the wire")
        writer.finish()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.receive_head()[0] == status
        assert client.receive_to_end() == b""


def test_body_of_unknown_length_is_chunked_with_trailers() -> None:
    def handler(exchange: Exchange) -> None:
        writer = exchange.start(200, [("trailer", b"x-sum")])
        writer.write(b"abc")
        writer.finish([("x-sum", b"7"), ("content-length", b"3")])

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        _, fields = client.receive_head()
        assert fields["transfer-encoding"] == "chunked"
        assert client.receive_to_end() == b"3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"


def test_body_of_unknown_length_in_http_1_0_ends_with_the_connection() -> None:
    with RunningServer(echo_streaming) as server, server.client() as client:
        client.send(b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        _, fields = client.receive_head()
        assert "transfer-encoding" not in fields
        assert client.receive_to_end() == b"abc"


def test_empty_body_without_length_says_content_length_zero() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.start(200, []).finish()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive_response()[1]["content-length"] == "0"


def test_first_chunk_arrives_while_the_guest_goes_on() -> None:
    go_on = threading.Event()

    def handler(exchange: Exchange) -> None:
        writer = exchange.start(200, [])
        writer.write(b"first")
        assert go_on.wait(WAIT_S)
        writer.write(b"second")
        writer.finish()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        client.receive_head()
        assert client.receive_exactly(10) == b"5\r\nfirst\r\n"
        go_on.set()
        assert b"second" in client.receive_to_end()


def test_head_arrives_before_the_guest_writes_anything() -> None:
    go_on = threading.Event()

    def handler(exchange: Exchange) -> None:
        writer = exchange.start(200, [("x-early", b"yes")])
        assert go_on.wait(WAIT_S)
        writer.finish()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.receive_head()[1]["x-early"] == "yes"
        go_on.set()
        assert client.receive_to_end() == b"0\r\n\r\n"


@pytest.mark.parametrize("handler", [echo, echo_streaming])
def test_large_body_comes_back_unchanged(handler: Handler) -> None:
    body = bytes(range(256)) * 4 * 4096
    with RunningServer(handler) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=WAIT_S)
        connection.request("POST", "/", body)
        assert connection.getresponse().read() == body
        connection.close()


def test_chunked_request_with_trailers_reaches_the_guest() -> None:
    with RunningServer(echo_streaming) as server, server.client() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\nHost: evil\r\n\r\n"
        )
        client.receive_head()
        assert client.receive_to_end() == b"5\r\nabcde\r\n0\r\nx-sum: 5\r\n\r\n"


def test_pipelined_requests_are_answered_in_order() -> None:
    with RunningServer(reflect_head) as server, server.client() as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(10)))
        paths = [client.receive_response()[2].split(b"\n")[1] for _ in range(10)]
    assert paths == [b"/%d" % n for n in range(10)]


def test_expect_continue_is_sent_when_the_guest_reads() -> None:
    with RunningServer(echo) as server, server.client() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.receive_head()[0] == 100
        client.send(b"abc")
        assert client.receive_response()[2] == b"abc"


def test_expect_continue_not_wanted_gets_the_answer_and_a_close() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.respond(413)

    with RunningServer(handler) as server, server.client() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.receive_head()[0] == 413
        assert client.receive_to_end() == b""


def test_early_answer_drains_the_request_and_keeps_the_connection() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.respond(413)

    body = b"x" * 2_000_000
    with RunningServer(handler) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=WAIT_S)
        for _ in range(2):
            connection.request("POST", "/", body)
            response = connection.getresponse()
            assert (response.status, response.read()) == (413, b"")
        connection.close()
        assert len({id(e._transport) for e in server.exchanges}) == 1


def test_body_the_guest_dropped_does_not_cut_its_answer() -> None:
    dropped, go_on = threading.Event(), threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.body.cancel()
        dropped.set()
        assert go_on.wait(WAIT_S)
        respond(exchange, b"hello")

    total = 2_000_000
    with (
        RunningServer(handler, ServerLimits(drain_bytes=100_000)) as server,
        server.client() as client,
    ):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
        assert dropped.wait(WAIT_S)
        client.send(b"x" * total)
        go_on.set()
        assert client.receive_response()[2] == b"hello"


def test_drain_keeps_its_deadline_while_the_client_reads_slowly() -> None:
    clock = Clock()

    def handler(exchange: Exchange) -> None:
        respond(exchange, b"x" * 5_000_000)

    with RunningServer(handler, clock=clock) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        assert len(client.receive_response()[2]) == 5_000_000
        wait_until(lambda: bool(server.over), "the end of the exchange")
        clock.now += server.server.limits.drain_timeout_s + 1
        assert client.receive_to_end() == b""


def test_early_answer_to_an_endless_request_cuts_the_connection() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.respond(413)

    limits = ServerLimits(drain_bytes=100_000)
    with RunningServer(handler, limits) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.receive_head()[0] == 413
        endless = (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 10_000
        with pytest.raises(OSError, match=r"[Rr]eset|[Bb]roken pipe"):
            client.send(endless)


def test_guest_failure_answers_500_with_empty_body() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.fail(RuntimeError("trap"))

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, _, body = client.receive_response()
    assert (status, body) == (500, b"")


def test_application_that_raises_answers_500() -> None:
    def application(exchange: Exchange) -> None:
        raise RuntimeError("bug")

    with RunningServer(hello) as server, server.client() as client:
        server.server._application = application
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive_response()[0] == 500


def test_head_that_is_not_valid_http_answers_500() -> None:
    def handler(exchange: Exchange) -> None:
        writer = exchange.start(200, [("x-bad", b"a\r\nset-cookie: b")])
        writer.finish()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive_response()[0] == 500


def test_abort_before_the_first_byte_answers_500() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.start(200, []).abort()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive_response()[0] == 500


def test_abort_in_mid_response_leaves_the_message_incomplete() -> None:
    def handler(exchange: Exchange) -> None:
        writer = exchange.start(200, [])
        writer.write(b"abc")
        writer.abort()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.receive_head()
        assert client.receive_to_end() == b"3\r\nabc\r\n"


def test_abort_in_mid_response_resets_an_http_1_0_client() -> None:
    go_on = threading.Event()

    def handler(exchange: Exchange) -> None:
        writer = exchange.start(200, [])
        writer.write(b"abc")
        assert go_on.wait(WAIT_S)
        writer.abort()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        client.receive_head()
        assert client.receive_exactly(3) == b"abc"
        go_on.set()
        with pytest.raises(ConnectionResetError):
            client.receive()


def test_guest_short_of_its_content_length_leaves_the_message_incomplete() -> None:
    def handler(exchange: Exchange) -> None:
        writer = exchange.start(200, [("content-length", b"5")])
        writer.write(b"abc")
        with pytest.raises(BodyFailedError):
            writer.finish()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive_head()[1]["content-length"] == "5"
        assert client.receive_to_end() == b"abc"


def test_transport_fields_of_the_guest_are_dropped() -> None:
    def handler(exchange: Exchange) -> None:
        respond(exchange, b"x", [("connection", b"upgrade"), ("transfer-encoding", b"gzip")])

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        _, fields, _ = client.receive_response()
    assert "connection" not in fields
    assert "transfer-encoding" not in fields


def test_request_head_reaches_the_application_without_transport_fields() -> None:
    with RunningServer(reflect_head) as server, server.client() as client:
        client.send(
            b"PATCH /a%20b?x=1&y HTTP/1.1\r\nHost: example.org:8080\r\nConnection: close\r\n"
            b"Upgrade: h2c\r\nX-Two: 1\r\nX-Two: \xff\r\n\r\n"
        )
        body = client.receive_response()[2].decode()
    assert body.split("\n") == [
        "PATCH",
        "/a%20b",
        "x=1&y",
        "example.org:8080",
        "x-two=1",
        "x-two=ÿ",
    ]


def test_absolute_form_target_gives_path_and_authority() -> None:
    with RunningServer(reflect_head) as server, server.client() as client:
        client.send(b"GET http://Example.org/p?q=/r HTTP/1.1\r\nHost: example.org\r\n\r\n")
        lines = client.receive_response()[2].decode().split("\n")
    assert lines[1:4] == ["/p", "q=/r", "Example.org"]


BAD_REQUESTS = {
    "no request": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "host is no authority": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host differs from target": b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "target is no path": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "length and chunked": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n"
    ),
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
    "signed length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "space before colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "nul in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_request_gets_400_and_a_close_and_never_reaches_the_application(
    request_bytes: bytes,
) -> None:
    with RunningServer(hello) as server, server.client() as client:
        client.send(request_bytes + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        status, fields, _ = client.receive_response()
        assert (status, fields["connection"]) == (400, "close")
        assert client.receive_to_end() == b""
        assert server.exchanges == []


def test_unknown_transfer_coding_gets_501() -> None:
    with RunningServer(hello) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n")
        assert client.receive_head()[0] == 501


@pytest.mark.parametrize("complete", [True, False])
def test_header_section_beyond_its_limit_gets_431(complete: bool) -> None:
    limits = ServerLimits(head_bytes=4096)
    end = b"\r\n\r\n" if complete else b""
    with RunningServer(hello, limits) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Big: " + b"x" * 5000 + end)
        assert client.receive_head()[0] == 431


def test_more_header_fields_than_the_limit_get_431() -> None:
    fields = b"".join(b"X-%d: 1\r\n" % number for number in range(101))
    with RunningServer(hello) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
        assert client.receive_head()[0] == 431


@pytest.mark.parametrize(
    ("headers", "trailers"),
    [
        ([("content-length", b"3")], [("x-sum", b"1")]),
        ([], [("x-bad", b"a\r\nb")]),
    ],
)
def test_trailers_that_cannot_be_sent_do_not_spoil_the_response(
    headers: list[tuple[str, bytes]], trailers: list[tuple[str, bytes]]
) -> None:
    def handler(exchange: Exchange) -> None:
        writer = exchange.start(200, headers)
        writer.write(b"abc")
        writer.finish(trailers)

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        client.receive_head()
        assert client.receive_to_end() in (b"abc", b"3\r\nabc\r\n0\r\n\r\n")


def test_trailers_for_an_http_1_0_client_are_left_out() -> None:
    with RunningServer(echo_streaming) as server, server.client() as client:

        def handler(exchange: Exchange) -> None:
            writer = exchange.start(200, [])
            writer.write(b"abc")
            writer.finish([("x-sum", b"1")])

        server._handler = handler
        client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        client.receive_head()
        assert client.receive_to_end() == b"abc"


def test_malformed_chunk_fails_the_guests_read_and_closes() -> None:
    failures: list[BodyFailedError] = []

    def handler(exchange: Exchange) -> None:
        try:
            read_all(exchange.body)
        except BodyFailedError as exc:
            failures.append(exc)
        exchange.respond(400)

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
        assert client.receive_head()[0] == 400
        assert client.receive_to_end() == b""
    assert "malformed" in str(failures[0])


def test_garbage_behind_a_request_does_not_spoil_its_answer() -> None:
    with RunningServer(hello) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\ngarbage")
        assert client.receive_response()[2] == b"hello"
        assert client.receive_to_end() == b""


@pytest.mark.parametrize("half", [True, False])
def test_client_that_leaves_while_the_guest_runs_is_told_to_the_application(half: bool) -> None:
    gone = threading.Event()
    failures: list[BodyFailedError] = []
    done = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.on_gone = gone.set
        writer = exchange.start(200, [])
        writer.write(b"x")
        assert gone.wait(WAIT_S)
        try:
            writer.write(b"y")
        except BodyFailedError as exc:
            failures.append(exc)
        done.set()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.receive_head()
        if half:
            client.shut_down_sending()
        else:
            client.close()
        assert gone.wait(WAIT_S)
        assert done.wait(WAIT_S)
        assert server.exchanges[0].client_gone()
        assert not server.exchanges[0].stats.complete
    assert [f.wasi_code for f in failures] == ["connection-terminated"]


def test_client_that_leaves_in_mid_upload_fails_the_guests_read() -> None:
    failed = threading.Event()

    def handler(exchange: Exchange) -> None:
        with pytest.raises(BodyFailedError, match="disconnected"):
            read_all(exchange.body)
        failed.set()

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        wait_until(lambda: bool(server.exchanges), "the request")
        client.close()
        assert failed.wait(WAIT_S)


def test_client_that_does_not_read_holds_back_the_guest() -> None:
    written = 0
    blocked = threading.Event()
    release = threading.Event()

    def handler(exchange: Exchange) -> None:
        nonlocal written
        writer = exchange.start(200, [])
        for _ in range(100_000):
            if writer.capacity() < 4096:
                blocked.set()
                if release.wait(0.2):
                    return
                continue
            writer.write(b"x" * 4096)
            written += 4096

    with RunningServer(handler) as server, server.client() as client:
        client.shrink_receive_buffer()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert blocked.wait(WAIT_S)
        release.set()
    assert written < 50_000_000


def test_guest_that_does_not_read_holds_back_the_client() -> None:
    go_on = threading.Event()

    def handler(exchange: Exchange) -> None:
        assert go_on.wait(WAIT_S)
        respond(exchange, b"%d" % len(read_all(exchange.body)))

    total = 8_000_000
    with RunningServer(handler) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
        sender = threading.Thread(target=client.send, args=(b"x" * total,), daemon=True)
        sender.start()
        wait_until(
            lambda: bool(server.exchanges) and server.exchanges[0].body.producer_paused, "the pause"
        )
        assert sender.is_alive()
        assert server.exchanges[0].body._size < 1_000_000
        go_on.set()
        assert client.receive_response()[2] == b"%d" % total
        sender.join(WAIT_S)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_slow_head_gets_408_after_its_deadline() -> None:
    clock = Clock()
    with RunningServer(hello, clock=clock) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHo")
        wait_until(lambda: any(c._receiving for c in server.server._connections), "the first byte")
        clock.now += server.server.limits.head_timeout_s + 1
        assert client.receive_head()[0] == 408
        assert client.receive_to_end() == b""


def test_dribbled_head_does_not_move_its_deadline() -> None:
    clock = Clock()
    with RunningServer(hello, clock=clock) as server, server.client() as client:
        for byte in (b"G", b"E", b"T"):
            client.send(byte)
            wait_until(
                lambda: any(c._receiving for c in server.server._connections), "the first byte"
            )
            clock.now += server.server.limits.head_timeout_s * 0.4
        assert client.receive_head()[0] == 408


def test_idle_connection_is_closed_after_its_timeout() -> None:
    clock = Clock()
    with RunningServer(hello, clock=clock) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.receive_response()
        wait_until(lambda: bool(server.over), "the end of the exchange")
        clock.now += server.server.limits.idle_timeout_s + 1
        assert client.receive_to_end() == b""


def test_running_guest_is_not_cut_by_idle_deadlines() -> None:
    clock = Clock()
    go_on = threading.Event()

    def handler(exchange: Exchange) -> None:
        assert go_on.wait(WAIT_S)
        hello(exchange)

    with RunningServer(handler, clock=clock) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: bool(server.exchanges), "the request")
        clock.now += 10_000
        server.io.call(_swept(server))
        go_on.set()
        assert client.receive_response()[2] == b"hello"


async def _swept(server: RunningServer) -> None:
    server.server.sweep()


def test_connection_beyond_the_limit_gets_503() -> None:
    with (
        RunningServer(hello, ServerLimits(connections=1)) as server,
        server.client() as first,
        server.client() as second,
    ):
        assert second.receive_head()[0] == 503
        first.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert first.receive_response()[2] == b"hello"


def test_shut_down_lets_the_running_request_finish_and_closes_idle_connections() -> None:
    go_on = threading.Event()

    def handler(exchange: Exchange) -> None:
        assert go_on.wait(WAIT_S)
        hello(exchange)

    with RunningServer(handler) as server, server.client() as busy, server.client() as idle:
        busy.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: len(server.server._connections) == 2, "both connections")
        wait_until(lambda: bool(server.exchanges), "the request")
        finished: list[bool] = []
        stopper = threading.Thread(
            target=lambda: finished.append(server.server.shut_down(WAIT_S)), daemon=True
        )
        stopper.start()
        assert idle.receive_to_end() == b""
        with pytest.raises(ConnectionRefusedError):
            server.client()
        go_on.set()
        _, fields, body = busy.receive_response()
        stopper.join(WAIT_S)
    assert (body, fields["connection"], finished) == (b"hello", "close", [True])


def test_shut_down_answers_the_first_request_of_a_client_that_had_connected() -> None:
    clock = Clock()
    with RunningServer(hello, clock=clock) as server, server.client() as early:
        wait_until(lambda: len(server.server._connections) == 1, "the connection")
        stopper = threading.Thread(target=server.server.shut_down, args=(WAIT_S,), daemon=True)
        stopper.start()
        wait_until(lambda: all(c._shutting_down for c in server.server._connections), "the end")
        early.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        _, fields, body = early.receive_response()
        stopper.join(WAIT_S)
    assert (body, fields["connection"]) == (b"hello", "close")


def test_shut_down_waits_a_moment_for_a_client_that_sends_nothing() -> None:
    clock = Clock()
    with RunningServer(hello, clock=clock) as server, server.client() as silent:
        wait_until(lambda: len(server.server._connections) == 1, "the connection")
        finished: list[bool] = []
        stopper = threading.Thread(
            target=lambda: finished.append(server.server.shut_down(WAIT_S)), daemon=True
        )
        stopper.start()
        wait_until(lambda: all(c._shutting_down for c in server.server._connections), "the end")
        clock.now += server.server.limits.first_request_s + 1
        assert silent.receive_to_end() == b""
        stopper.join(WAIT_S)
    assert finished == [True]


def test_shut_down_cuts_what_outlives_the_grace_period() -> None:
    gone = threading.Event()

    def handler(exchange: Exchange) -> None:
        exchange.on_gone = gone.set

    with RunningServer(handler) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: bool(server.exchanges), "the request")
        wait_until(lambda: server.exchanges[0].on_gone is not None, "the handler")
        assert not server.server.shut_down(0.05)
        assert gone.wait(WAIT_S)


def test_port_in_use_is_told_with_its_address() -> None:
    with RunningServer(hello) as server:
        host, port = server.address
        with pytest.raises(OSError, match=f"{host}:{port} is already in use"):
            server.server.listen(host, port)


def test_two_hundred_connections_at_once_are_all_answered() -> None:
    with RunningServer(hello) as server:
        clients = [server.client() for _ in range(200)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        bodies = [client.receive_response()[2] for client in clients]
        for client in clients:
            client.close()
    assert bodies == [b"hello"] * 200

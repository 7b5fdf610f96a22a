"""The outbound client against scripted upstreams."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from edgehost.http.call import Call
from edgehost.http.client import HttpClient
from edgehost.http.connector import Connector
from edgehost.http.loop import LoopThread
from edgehost.http.pool import PoolLimits
from edgehost.ports import BodyFailedError, OutboundError, OutboundRequest, Wakeup
from fakes.http_peers import (
    WAIT_S,
    RawClient,
    RunningServer,
    Upstream,
    read_all,
    respond,
    wait_ready,
    wait_until,
    write_all,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def io() -> Iterator[LoopThread]:
    thread = LoopThread()
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def client(io: LoopThread) -> Iterator[HttpClient]:
    client = HttpClient(io)
    yield client
    close(client)


def close(client: HttpClient) -> None:
    async def closing() -> None:
        client.close()

    client._io.call(closing())
    wait_until(lambda: client.pool.open_count == 0, "the last connection closing")


def get(authority: str, path: str = "/", method: str = "GET") -> OutboundRequest:
    return OutboundRequest(method, "http", authority, path, [])


def fetch(client: HttpClient, request: OutboundRequest, body: bytes = b"") -> tuple[int, bytes]:
    call = client.send(request)
    write_all(call.body, body)
    call.body.finish()
    response = wait_ready(call).result()
    return response.status, read_all(response.body)


def failure(call: Call) -> OutboundError:
    with pytest.raises(OutboundError) as caught:
        wait_ready(call).result()
    return caught.value


def answer(*replies: bytes) -> Callable[[RawClient, int], None]:
    """A script that reads one head per reply, then sends it."""

    def script(connection: RawClient, _: int) -> None:
        for reply in replies:
            read_request(connection)
            connection.send(reply)

    return script


def read_request(connection: RawClient) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.receive()
        if not data:
            return received
        received += data
    return received


def test_get_reaches_the_upstream_with_its_fields(client: HttpClient) -> None:
    seen: list[bytes] = []

    def script(connection: RawClient, _: int) -> None:
        seen.append(read_request(connection))
        connection.send(OK)

    with Upstream(script) as upstream:
        request = replace(
            get(upstream.authority, "/p?q=1"),
            headers=[("x-a", b"1"), ("connection", b"close"), ("host", b"evil"), ("x-a", b"2")],
        )
        assert fetch(client, request) == (200, b"ok")
        host = upstream.authority.encode()
    assert seen == [b"GET /p?q=1 HTTP/1.1\r\nhost: %s\r\nx-a: 1\r\nx-a: 2\r\n\r\n" % host]


@pytest.mark.parametrize(
    ("method", "headers", "body", "framed"),
    [
        ("GET", [], b"", b""),
        ("POST", [], b"", b"content-length: 0\r\n"),
        ("POST", [], b"abc", b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"),
        ("POST", [("content-length", b"3")], b"abc", b"content-length: 3\r\n\r\nabc"),
        ("DELETE", [], b"abc", b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"),
    ],
)
def test_request_body_is_framed_as_its_length_is_known(
    client: HttpClient,
    method: str,
    headers: list[tuple[str, bytes]],
    body: bytes,
    framed: bytes,
) -> None:
    seen: list[bytes] = []

    def script(connection: RawClient, _: int) -> None:
        received = b""
        while not received.lower().endswith(framed + (b"\r\n" if body == b"" else b"")) and (
            not received.endswith(b"0\r\n\r\n")
        ):
            received += connection.receive()
        seen.append(received.lower())
        connection.send(OK)

    with Upstream(script) as upstream:
        request = replace(get(upstream.authority, method=method), headers=headers)
        assert fetch(client, request, body) == (200, b"ok")
    assert framed in seen[0]
    if not body and method == "GET":
        assert b"transfer-encoding" not in seen[0]


def test_head_and_small_body_leave_together(client: HttpClient) -> None:
    first: list[bytes] = []

    def script(connection: RawClient, _: int) -> None:
        first.append(connection.receive())
        connection.send(OK)

    with Upstream(script) as upstream:
        request = replace(
            get(upstream.authority, method="POST"), headers=[("content-length", b"3")]
        )
        fetch(client, request, b"abc")
    assert first[0].endswith(b"\r\n\r\nabc")


def test_head_leaves_although_the_guest_writes_no_body_yet(client: HttpClient) -> None:
    arrived = threading.Event()

    def script(connection: RawClient, _: int) -> None:
        read_request(connection)
        arrived.set()
        connection.send(OK)

    with Upstream(script) as upstream:
        call = client.send(get(upstream.authority, method="POST"))
        assert arrived.wait(WAIT_S)
        assert wait_ready(call).result().status == 200
        call.cancel()


def test_connection_is_reused_and_large_bodies_pass_both_ways(client: HttpClient) -> None:
    def echo(exchange: object) -> None:
        from edgehost.http.exchange import Exchange

        assert isinstance(exchange, Exchange)
        respond(exchange, read_all(exchange.body))

    body = bytes(range(256)) * 8192
    with RunningServer(echo) as server:
        authority = "{}:{}".format(*server.address)
        for _ in range(3):
            assert fetch(client, get(authority, method="POST"), body) == (200, body)
        assert len(server.server._connections) == 1
        close(client)


def test_informational_responses_are_skipped(client: HttpClient) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    with Upstream(answer(b"HTTP/1.1 100 Continue\r\n\r\n" + early + OK)) as upstream:
        assert fetch(client, get(upstream.authority)) == (200, b"ok")


def test_response_body_streams_with_trailers(client: HttpClient) -> None:
    go_on = threading.Event()

    def script(connection: RawClient, _: int) -> None:
        read_request(connection)
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert go_on.wait(WAIT_S)
        connection.send(b"2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n")

    with Upstream(script) as upstream:
        call = client.send(get(upstream.authority))
        call.body.finish()
        response = wait_ready(call).result()
        assert ("transfer-encoding", b"chunked") not in response.headers
        wait_until(response.body.ready, "the first chunk")
        assert response.body.read(100) == b"abc"
        go_on.set()
        assert read_all(response.body) == b"de"
        assert response.body.trailers() == [("x-sum", b"5")]


def test_request_trailers_reach_the_upstream(client: HttpClient) -> None:
    seen: list[bytes] = []

    def script(connection: RawClient, _: int) -> None:
        received = b""
        while not received.endswith(b"0\r\nx-sum: 3\r\n\r\n"):
            received += connection.receive()
        seen.append(received)
        connection.send(OK)

    with Upstream(script) as upstream:
        call = client.send(get(upstream.authority, method="POST"))
        call.body.write(b"abc")
        call.body.finish([("x-sum", b"3")])
        assert wait_ready(call).result().status == 200
    assert len(seen) == 1


def test_request_trailers_beside_a_content_length_are_left_out(client: HttpClient) -> None:
    with Upstream(answer(OK)) as upstream:
        request = replace(
            get(upstream.authority, method="POST"), headers=[("content-length", b"3")]
        )
        call = client.send(request)
        call.body.write(b"abc")
        call.body.finish([("x-sum", b"3")])
        assert wait_ready(call).result().status == 200


def test_body_that_ends_with_the_connection_is_whole(client: HttpClient) -> None:
    with Upstream(answer(b"HTTP/1.0 200 OK\r\n\r\nabc")) as upstream:
        assert fetch(client, get(upstream.authority)) == (200, b"abc")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
    ],
)
def test_upstream_that_dies_in_mid_body_fails_the_read(client: HttpClient, reply: bytes) -> None:
    with Upstream(answer(reply)) as upstream:
        call = client.send(get(upstream.authority))
        call.body.finish()
        response = wait_ready(call).result()
        with pytest.raises(BodyFailedError) as caught:
            read_all(response.body)
    assert caught.value.wasi_code == "HTTP-protocol-error"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
def test_upstream_that_breaks_http_is_a_protocol_error(client: HttpClient, reply: bytes) -> None:
    with Upstream(answer(reply)) as upstream:
        call = client.send(get(upstream.authority))
        call.body.finish()
        assert failure(call).wasi_code == "HTTP-protocol-error"


def test_nothing_listens_is_connection_refused(client: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert failure(client.send(get(f"127.0.0.1:{port}"))).wasi_code == "connection-refused"


def test_unknown_name_is_a_dns_error(client: HttpClient) -> None:
    error = failure(client.send(get("name.invalid")))
    assert error.wasi_code == "DNS-error"
    assert error.wasi_payload == ("address not available", 0)


@pytest.mark.parametrize("authority", ["a:b", "a:99999", "[::1", "[::1]x", "ä"])
def test_authority_that_is_none_is_an_invalid_uri(client: HttpClient, authority: str) -> None:
    assert failure(client.send(get(authority))).wasi_code == "HTTP-request-URI-invalid"


def test_other_scheme_is_a_protocol_error(client: HttpClient) -> None:
    request = replace(get("a"), scheme="ftp")
    assert failure(client.send(request)).wasi_code == "HTTP-protocol-error"


def test_blocked_network_is_prohibited(io: LoopThread) -> None:
    client = HttpClient(io, connector=Connector(is_blocked=lambda address: True))
    assert failure(client.send(get("127.0.0.1:1"))).wasi_code == "destination-IP-prohibited"


def test_every_address_of_a_name_is_tried(client: HttpClient) -> None:
    # localhost means ::1 first; the upstream listens on 127.0.0.1 only.
    with Upstream(answer(OK)) as upstream:
        port = upstream.authority.rpartition(":")[2]
        assert fetch(client, get(f"localhost:{port}")) == (200, b"ok")


def test_connect_timeout_is_told(io: LoopThread) -> None:
    client = HttpClient(io, limits=PoolLimits(open=1))
    with Upstream(lambda connection, _: void(connection.receive_to_end())) as upstream:
        held = client.send(get(upstream.authority))
        wait_until(lambda: upstream.accepted == 1, "the first connection")
        late = client.send(replace(get(upstream.authority), connect_timeout_s=0.02))
        assert failure(late).wasi_code == "connection-timeout"
        held.cancel()
    close(client)


def test_no_connection_allowed_is_a_reached_limit(io: LoopThread) -> None:
    client = HttpClient(io, limits=PoolLimits(open=0))
    assert failure(client.send(get("127.0.0.1:1"))).wasi_code == "connection-limit-reached"


def test_first_byte_timeout_is_a_read_timeout_and_drops_the_connection(
    client: HttpClient,
) -> None:
    def script(connection: RawClient, _: int) -> None:
        read_request(connection)
        assert connection.receive_to_end() == b""

    with Upstream(script) as upstream:
        call = client.send(replace(get(upstream.authority), first_byte_timeout_s=0.02))
        call.body.finish()
        assert failure(call).wasi_code == "connection-read-timeout"
        wait_until(lambda: client.pool.open_count == 0, "the connection closing")


def test_between_bytes_timeout_fails_the_read(client: HttpClient) -> None:
    def script(connection: RawClient, _: int) -> None:
        read_request(connection)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        connection.receive_to_end()

    with Upstream(script) as upstream:
        call = client.send(replace(get(upstream.authority), between_bytes_timeout_s=0.02))
        call.body.finish()
        response = wait_ready(call).result()
        with pytest.raises(BodyFailedError) as caught:
            read_all(response.body)
    assert caught.value.wasi_code == "connection-read-timeout"


def test_idle_connection_that_died_is_not_used(client: HttpClient) -> None:
    with Upstream(answer(OK)) as upstream:
        assert fetch(client, get(upstream.authority, method="POST"), b"x")[0] == 200
        wait_until(lambda: client.pool.idle_count == 0, "the upstream's close")
        assert fetch(client, get(upstream.authority, method="POST"), b"x")[0] == 200
        assert upstream.accepted == 2


def test_reused_connection_that_dies_before_the_answer_is_retried_once_for_get(
    client: HttpClient,
) -> None:
    def script(connection: RawClient, number: int) -> None:
        read_request(connection)
        connection.send(OK)
        if number == 1:
            read_request(connection)  # and hang up instead of answering

    with Upstream(script) as upstream:
        for _ in range(2):
            assert fetch(client, get(upstream.authority)) == (200, b"ok")
        assert upstream.accepted == 2


def test_reused_connection_that_dies_after_a_post_was_read_is_not_retried(
    client: HttpClient,
) -> None:
    def script(connection: RawClient, _: int) -> None:
        read_request(connection)
        connection.send(OK)
        read_request(connection)

    with Upstream(script) as upstream:
        assert fetch(client, get(upstream.authority))[0] == 200
        call = client.send(get(upstream.authority, method="POST"))
        call.body.finish()
        assert failure(call).wasi_code == "HTTP-protocol-error"
        assert upstream.accepted == 1


def test_retry_sends_the_body_again(client: HttpClient) -> None:
    bodies: list[bytes] = []

    def script(connection: RawClient, number: int) -> None:
        if number == 1:
            read_request(connection)
            connection.send(OK)
        request = read_request(connection)
        while not request.endswith(b"0\r\n\r\n"):
            request += connection.receive()
        bodies.append(request.partition(b"\r\n\r\n")[2])
        if number == 2:
            connection.send(OK)

    with Upstream(script) as upstream:
        assert fetch(client, get(upstream.authority))[0] == 200
        assert fetch(client, get(upstream.authority, method="PUT"), b"abc") == (200, b"ok")
    assert bodies == [b"3\r\nabc\r\n0\r\n\r\n"] * 2


def test_cancel_drops_the_connection(client: HttpClient) -> None:
    closed = threading.Event()

    def script(connection: RawClient, _: int) -> None:
        read_request(connection)
        assert connection.receive_to_end() == b""
        closed.set()

    with Upstream(script) as upstream:
        call = client.send(get(upstream.authority))
        call.body.finish()
        wait_until(lambda: upstream.accepted == 1, "the connection")
        call.cancel()
        assert closed.wait(WAIT_S)
        wait_until(lambda: client.pool.open_count == 0, "the connection closing")


def test_dropping_the_response_body_drops_the_connection(client: HttpClient) -> None:
    closed = threading.Event()

    def script(connection: RawClient, _: int) -> None:
        read_request(connection)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        connection.receive_to_end()
        closed.set()

    with Upstream(script) as upstream:
        call = client.send(get(upstream.authority))
        call.body.finish()
        wait_ready(call).result().body.cancel()
        assert closed.wait(WAIT_S)


def test_aborted_request_body_drops_the_connection(client: HttpClient) -> None:
    def script(connection: RawClient, _: int) -> None:
        assert not connection.receive_to_end().endswith(b"0\r\n\r\n")

    with Upstream(script) as upstream:
        call = client.send(get(upstream.authority, method="POST"))
        call.body.write(b"abc")
        call.body.abort()
        assert failure(call).wasi_code == "HTTP-protocol-error"


def test_request_shorter_than_its_content_length_fails(client: HttpClient) -> None:
    with Upstream(lambda connection, _: void(connection.receive_to_end())) as upstream:
        request = replace(
            get(upstream.authority, method="POST"), headers=[("content-length", b"5")]
        )
        call = client.send(request)
        call.body.write(b"abc")
        with pytest.raises(BodyFailedError) as caught:
            call.body.finish()
        assert caught.value.wasi_code == "HTTP-request-body-size"
        assert failure(call).wasi_code == "HTTP-protocol-error"


def void(_: bytes) -> None:
    return None


def test_upstream_that_sends_much_is_held_back_until_the_guest_reads(client: HttpClient) -> None:
    total = 8_000_000

    def script(connection: RawClient, _: int) -> None:
        read_request(connection)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        connection.send(b"x" * total)

    with Upstream(script) as upstream:
        call = client.send(get(upstream.authority))
        call.body.finish()
        response = wait_ready(call).result()
        wait_until(lambda: call.inbound.producer_paused, "the pause")
        assert call.inbound._size < 1_000_000
        assert len(read_all(response.body)) == total


def test_upstream_that_does_not_read_holds_back_the_guest(client: HttpClient) -> None:
    seen_enough = threading.Event()

    def script(connection: RawClient, _: int) -> None:
        assert seen_enough.wait(WAIT_S)
        connection.receive_to_end()

    wakeup = Wakeup()
    with Upstream(script) as upstream:
        call = client.send(get(upstream.authority, method="POST"))
        call.body.watch(wakeup)
        written = 0
        while call.body.capacity() >= 4096 or wakeup.wait(0.1):
            call.body.write(b"x" * 4096)
            written += 4096
        seen_enough.set()
        assert written < 50_000_000
        call.cancel()


def test_idle_connections_per_origin_are_bounded(io: LoopThread) -> None:
    client = HttpClient(io, limits=PoolLimits(idle_per_origin=1))
    with RunningServer(lambda exchange: respond(exchange, b"ok")) as server:
        authority = "{}:{}".format(*server.address)
        calls = [client.send(get(authority)) for _ in range(4)]
        for call in calls:
            call.body.finish()
        for call in calls:
            assert read_all(wait_ready(call).result().body) == b"ok"
        wait_until(lambda: client.pool.open_count == 1, "all but one connection closing")
        close(client)


def test_waiting_call_takes_over_the_connection_that_becomes_idle(io: LoopThread) -> None:
    client = HttpClient(io, limits=PoolLimits(open=1))
    with RunningServer(lambda exchange: respond(exchange, b"ok")) as server:
        authority = "{}:{}".format(*server.address)
        calls = [client.send(get(authority)) for _ in range(5)]
        for call in calls:
            call.body.finish()
        for call in calls:
            assert read_all(wait_ready(call).result().body) == b"ok"
        assert len(server.server._connections) == 1
        close(client)


def test_call_to_another_origin_evicts_an_idle_connection(io: LoopThread) -> None:
    client = HttpClient(io, limits=PoolLimits(open=1))
    with Upstream(answer(OK)) as first, Upstream(answer(OK)) as second:
        assert fetch(client, get(first.authority)) == (200, b"ok")
        assert fetch(client, get(second.authority)) == (200, b"ok")
    close(client)


def test_pooling_switched_off_opens_a_connection_per_call(io: LoopThread) -> None:
    client = HttpClient(io, limits=PoolLimits(idle=0))
    with Upstream(answer(OK)) as upstream:
        for _ in range(2):
            assert fetch(client, get(upstream.authority)) == (200, b"ok")
        assert upstream.accepted == 2
    close(client)


@pytest.mark.parametrize("authority", ["", ":443", "self.alt", "self.alt:80"])
def test_self_request_goes_to_this_host(io: LoopThread, authority: str) -> None:
    seen: list[str] = []
    with RunningServer(lambda exchange: respond(exchange, b"me")) as server:
        here = "{}:{}".format(*server.address)
        client = HttpClient(io, self_authority=lambda: here)
        request = replace(get(authority, "/x"), scheme="https")
        assert fetch(client, request) == (200, b"me")
        seen.append(server.exchanges[0].request.authority)
        close(client)
    assert seen == [here]


def test_service_chaining_without_a_chain_is_denied(client: HttpClient) -> None:
    call = client.send(get("other.spin.internal"))
    assert failure(call).wasi_code == "HTTP-request-denied"


def test_tls_with_an_untrusted_certificate_is_a_tls_error(
    client: HttpClient, tls_server_context: ssl.SSLContext
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(
            target=serve_tls, args=(listener, tls_server_context), daemon=True
        )
        thread.start()
        request = replace(get(f"localhost:{listener.getsockname()[1]}"), scheme="https")
        assert failure(client.send(request)).wasi_code == "TLS-protocol-error"
        thread.join(WAIT_S)


def test_tls_with_a_trusted_certificate_answers(
    io: LoopThread, tls_server_context: ssl.SSLContext, tls_certificate: str
) -> None:
    def trust() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=tls_certificate)

    client = HttpClient(io, connector=Connector(tls_context=trust))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(
            target=serve_tls, args=(listener, tls_server_context), daemon=True
        )
        thread.start()
        request = replace(get(f"localhost:{listener.getsockname()[1]}"), scheme="https")
        assert fetch(client, request) == (200, b"ok")
        thread.join(WAIT_S)
    close(client)


def serve_tls(listener: socket.socket, context: ssl.SSLContext) -> None:
    accepted, _ = listener.accept()
    with accepted:
        try:
            wrapped = context.wrap_socket(accepted, server_side=True)
        except (ssl.SSLError, OSError):
            return
        with wrapped:
            wrapped.recv(65536)
            wrapped.sendall(OK)

"""The whole host over sockets: what a component and its clients see of HTTP, as under Spin."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from edgehost.testing import AppOptions, EdgeHost
from fakes.host_app import write_app
from fakes.http_peers import WAIT_S, RawClient, RunningServer, Upstream, respond, wait_until

pytestmark = pytest.mark.wasm


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeHost]:
    manifest = write_app(tmp_path_factory.mktemp("app"))
    with EdgeHost(manifest, AppOptions(variables={"greeting": "hello"})) as host:
        yield host


def get(
    app: EdgeHost, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*app.host.address, timeout=WAIT_S)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return response.status, fields, response.read()
    finally:
        connection.close()


def get_json(app: EdgeHost, path: str, **headers: str) -> Any:
    status, _, body = get(app, path, "GET", None, **headers)
    assert status == 200, body
    return json.loads(body)


def test_health_is_answered_by_the_host(app: EdgeHost) -> None:
    status, fields, body = get(app, "/.well-known/spin/health")
    assert (status, fields["content-length"], body) == (200, "2", b"OK")


def test_info_tells_name_and_version(app: EdgeHost) -> None:
    _, fields, body = get(app, "/.well-known/spin/info")
    assert fields["content-type"] == "application/json"
    assert body == b'{\n  "name": "host-tests",\n  "version": "1.2.3"\n}'


def test_other_well_known_paths_are_404_and_reach_no_component(app: EdgeHost) -> None:
    assert get(app, "/.well-known/spin/other")[0] == 404


def test_static_response_is_sent_as_written(app: EdgeHost) -> None:
    status, fields, body = get(app, "/teapot")
    assert (status, fields["x-kind"], body) == (418, "static", b"short and stout")


def test_no_route_is_404_with_an_empty_body(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("no-catch-all")
    manifest = write_app(directory)
    text = manifest.read_text()
    catch_all = '[[trigger.http]]\nroute = "/..."\ncomponent = "probe"\n'
    assert catch_all in text
    manifest.write_text(text.replace(catch_all, ""))
    with EdgeHost(manifest) as host:
        status, fields, body = get(host, "/nowhere")
        assert (status, fields["content-length"], body) == (404, "0", b"")


def test_request_carries_the_fields_spin_adds_in_spins_order(app: EdgeHost) -> None:
    seen = get_json(app, "/describe_request?x=1", **{"X-Own": "1"})
    host, port = app.host.address
    added = [pair for pair in seen["headers"] if pair[0].startswith("spin-")]
    assert [name for name, _ in added] == [
        "spin-path-info",
        "spin-full-url",
        "spin-matched-route",
        "spin-base-path",
        "spin-raw-component-route",
        "spin-component-route",
        "spin-client-addr",
    ]
    values = dict(added)
    assert values.pop("spin-client-addr").startswith("127.0.0.1:")
    assert values == {
        "spin-path-info": "/describe_request",
        "spin-full-url": f"http://{host}:{port}/describe_request?x=1",
        "spin-matched-route": "/...",
        "spin-base-path": "/",
        "spin-raw-component-route": "/...",
        "spin-component-route": "",
    }
    assert (seen["scheme"], seen["authority"]) == ("Http", f"{host}:{port}")
    assert ["x-own", "1"] in seen["headers"]
    assert "host" not in {name for name, _ in seen["headers"]}


def test_route_parameters_arrive_as_fields(app: EdgeHost) -> None:
    _, _, body = get(app, "/users/Ann%20B/x/fields")
    fields = dict(line.split(": ", 1) for line in body.decode().split("\n"))
    assert fields["spin-path-match-user-id"] == "Ann%20B"
    assert fields["spin-path-info"] == "/x/fields"
    assert fields["spin-matched-route"] == "/users/:user_id/..."
    assert fields["spin-component-route"] == "/users/:user_id"


def test_fields_of_a_client_come_before_those_of_the_host(app: EdgeHost) -> None:
    seen = get_json(app, "/describe_request", **{"Spin-Client-Addr": "6.6.6.6:6"})
    values = [value for name, value in seen["headers"] if name == "spin-client-addr"]
    assert values[0] == "6.6.6.6:6"
    assert values[-1].startswith("127.0.0.1:")


def test_header_value_that_is_not_utf8_is_500(app: EdgeHost) -> None:
    with RawClient(app.host.address) as client:
        client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n")
        assert client.receive_response()[0] == 500


def test_head_request_has_the_length_and_no_body(app: EdgeHost) -> None:
    status, fields, body = get(app, "/t/hello", "HEAD")
    assert (status, fields["content-length"], body) == (200, "5", b"")


@pytest.mark.parametrize("size", [0, 1, 4096, 150_000, 3_000_000])
def test_body_of_any_size_comes_back_unchanged(app: EdgeHost, size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    status, _, echoed = get(app, "/t/echo", "POST", body[:size])
    assert status == 200
    assert echoed == body[:size]


def test_trailers_pass_both_ways(app: EdgeHost) -> None:
    with RawClient(app.host.address) as client:
        client.send(
            b"POST /trailers_in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n"
        )
        _, fields = client.receive_head()
        assert fields["transfer-encoding"] == "chunked"
        size = int(client.receive_exactly(4).partition(b"\r\n")[0], 16)
        answer = json.loads(client.receive_exactly(size))
        assert answer["trailers"] == [["x-sum", "3"]]
    with RawClient(app.host.address) as client:
        client.send(b"GET /trailers_out HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.receive_to_end().endswith(b"4\r\ndata\r\n0\r\nx-checksum: 42\r\n\r\n")


def test_chunks_arrive_as_the_guest_writes_them(app: EdgeHost) -> None:
    with RawClient(app.host.address) as client:
        client.send(b"GET /t/drip?count=3&ms=100 HTTP/1.1\r\nHost: a\r\n\r\n")
        client.receive_head()
        assert client.receive_exactly(12) == b"7\r\nline 0\n\r\n"
        assert client.receive_exactly(24 + 5) == b"7\r\nline 1\n\r\n7\r\nline 2\n\r\n0\r\n\r\n"


def test_expect_continue_uploads_after_the_guest_asks(app: EdgeHost) -> None:
    with RawClient(app.host.address) as client:
        client.send(
            b"POST /t/count HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert client.receive_head()[0] == 100
        client.send(b"abc")
        assert client.receive_response()[2] == b"3"


def test_expect_continue_refused_sends_no_100(app: EdgeHost) -> None:
    with RawClient(app.host.address) as client:
        client.send(
            b"POST /t/early HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert client.receive_response()[0] == 413


def test_eleven_megabytes_answered_early_reach_a_client_that_sends_first(app: EdgeHost) -> None:
    status, _, body = get(app, "/t/early", "POST", bytes(11_000_000))
    assert (status, body) == (413, b"too large")


def test_pipelined_requests_are_answered_in_order(app: EdgeHost) -> None:
    with RawClient(app.host.address) as client:
        posts = [
            b"POST /t/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n%02d" % number
            for number in range(8)
        ]
        client.send(b"".join(posts))
        bodies = [client.receive_response()[2] for _ in posts]
    assert bodies == [b"%02d" % number for number in range(8)]


def test_guest_goes_on_after_its_response(app: EdgeHost) -> None:
    assert get(app, "/t/linger?ms=50")[2] == b"answered"
    wait_until(lambda: ("traffic", "stdout", "lingered") in app.logs, "the guest's last line")


def test_lines_of_guests_carry_their_component(app: EdgeHost) -> None:
    get(app, "/output")
    texts = [(line.component, line.stream, line.text) for line in app.logs]
    for line in [("probe", "stdout", "one line"), ("probe", "stderr", "to stderr")]:
        assert line in texts


def test_variables_reach_the_component(app: EdgeHost) -> None:
    assert get_json(app, "/get_variables")["known"] == "hello"


def test_upstreams_answer_is_relayed_as_it_arrives(app: EdgeHost) -> None:
    go_on = threading.Event()

    def script(connection: RawClient, _: int) -> None:
        connection.receive()
        connection.send(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert go_on.wait(WAIT_S)
        connection.send(b"2\r\nde\r\n0\r\n\r\n")

    with Upstream(script) as upstream, RawClient(app.host.address) as client:
        target = f"/t/relay?authority={upstream.authority}"
        client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert client.receive_head()[0] == 201
        assert client.receive_exactly(8) == b"3\r\nabc\r\n"
        go_on.set()
        assert client.receive_exactly(12) == b"2\r\nde\r\n0\r\n\r\n"


def test_outbound_connections_are_reused(app: EdgeHost) -> None:
    with RunningServer(lambda exchange: respond(exchange, b"up")) as server:
        authority = "{}:{}".format(*server.address)
        for _ in range(5):
            assert get(app, f"/t/relay?authority={authority}")[2] == b"up"
        assert len(server.server._connections) == 1


def test_self_request_comes_back_to_this_app(app: EdgeHost) -> None:
    answer = get_json(app, "/fetch?authority=self.alt&path=/t/hello")
    assert (answer["status"], answer["body"]) == (200, "hello")


def test_service_chaining_calls_a_component_even_a_private_one(app: EdgeHost) -> None:
    for component in ("traffic", "hidden"):
        answer = get_json(app, f"/fetch?authority={component}.spin.internal&path=/hello")
        assert (answer["status"], answer["body"]) == (200, "hello")


def test_chained_component_sees_the_fields_spin_gives_it(app: EdgeHost) -> None:
    answer = get_json(app, "/t/relay?authority=probe.spin.internal&path=/describe_request%3Fa%3D1")
    fields = dict(answer["headers"])
    assert answer["path"] == "/describe_request?a=1"
    assert fields["spin-matched-route"] == "/..."
    assert fields["spin-path-info"] == "/describe_request"
    assert fields["spin-component-route"] == ""
    assert fields["spin-client-addr"] == "0.0.0.0:0"
    assert fields["spin-full-url"] == "http://localhost/describe_request?a=1"


def test_large_body_passes_between_components(app: EdgeHost) -> None:
    path = "/stream_out%3Fsize%3D3000000"
    status, _, body = get(app, f"/t/relay?authority=probe.spin.internal&path={path}")
    assert (status, len(body)) == (200, 3_000_000)


def test_private_component_has_no_route(app: EdgeHost) -> None:
    # The catch-all answers, not the private component.
    assert get(app, "/hidden")[0] == 500


def test_two_hundred_connections_at_once_are_all_answered(app: EdgeHost) -> None:
    clients = [RawClient(app.host.address) for _ in range(200)]
    for client in clients:
        client.send(b"GET /t/hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answers = [client.receive_response() for client in clients]
    for client in clients:
        client.close()
    assert [(status, body) for status, _, body in answers] == [(200, b"hello")] * 200

"""Connections of the real server: limits on heads, time and bodies, departures, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from onnx import ModelProto, TensorProto, helper, numpy_helper
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from fakes.backend_process import BackendProcess, running_backend
from fakes.onnx_models import classifier, write_model
from gpu_backend.api.connection import BoundedProtocol, ConnectionLimits, make_protocol
from gpu_backend.api.http import respond

BODY = json.dumps(
    {
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": list(range(64))}
        ]
    }
).encode()


def slow_model(side: int = 600, layers: int = 12) -> ModelProto:
    """`x` (n, side) through many products: tens of milliseconds for one row."""
    weights = np.eye(side, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["w" if i == 0 else f"h{i}", "w"], [f"h{i + 1}"])
        for i in range(layers)
    ]
    nodes[0] = helper.make_node("MatMul", ["x", "w"], ["h1"])
    # Each product is side x side once the row is spread by Expand, so it takes its time.
    nodes.insert(0, helper.make_node("Expand", ["row", "shape"], ["x"]))
    nodes.append(helper.make_node("ReduceSum", [f"h{layers}", "axes"], ["y"], keepdims=1))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "slow",
            [helper.make_tensor_value_info("row", TensorProto.FLOAT, [1, side])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, side])],
            [
                numpy_helper.from_array(weights, "w"),
                numpy_helper.from_array(np.array([side, side], dtype=np.int64), "shape"),
                numpy_helper.from_array(np.array([0], dtype=np.int64), "axes"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


def slow_body(value: float = 1.0) -> bytes:
    tensor = {"name": "row", "datatype": "FP32", "shape": [1, 600], "data": [value] * 600}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "digits", classifier())
    write_model(root, "slow", slow_model())
    return root


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    log = tmp_path_factory.mktemp("log") / "backend.log"
    flags = ("--request-timeout-s", "1", "--max-header-bytes", "4096", "--max-connections", "60")
    with running_backend(models, log, *flags) as process:
        yield process


def connect(server: BackendProcess) -> socket.socket:
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def talk(server: BackendProcess, *parts: bytes) -> bytes:
    """Send `parts`, then everything the server says until it closes or falls silent."""
    with connect(server) as client:
        for part in parts:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while part := client.recv(65536):
            received += part
    return received


def test_request_in_small_pieces_is_answered(server: BackendProcess) -> None:
    head = (
        f"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n"
        "connection: close\r\n\r\n"
    ).encode()
    whole = head + BODY
    with connect(server) as client:
        for start in range(0, len(whole), 37):
            client.sendall(whole[start : start + 37])
        assert read_all(client).startswith(b"HTTP/1.1 200 OK\r\n")


def test_pipelined_requests_are_answered_in_order(server: BackendProcess) -> None:
    def request(number: int, last: bool = False) -> bytes:
        close = "connection: close\r\n" if last else ""
        return (
            f"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\nx-request-id: n{number}\r\n"
            f"content-length: {len(BODY)}\r\n{close}\r\n"
        ).encode() + BODY

    with connect(server) as client:
        client.sendall(b"".join(request(n, n == 4) for n in range(5)))
        answers = read_all(client)
    assert answers.count(b"HTTP/1.1 200 OK") == 5
    order = [answers.index(b"x-request-id: n%d" % n) for n in range(5)]
    assert order == sorted(order)


def test_expectation_is_met_before_the_body(server: BackendProcess) -> None:
    head = (
        f"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n"
        "expect: 100-continue\r\nconnection: close\r\n\r\n"
    ).encode()
    with connect(server) as client:
        client.sendall(head)
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert read_all(client).startswith(b"HTTP/1.1 200 OK")


def test_expectation_of_a_body_beyond_the_limit_is_refused(server: BackendProcess) -> None:
    answer = talk(
        server,
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 11000000\r\n"
        b"expect: 100-continue\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_body_of_eleven_megabytes_gets_its_refusal(server: BackendProcess) -> None:
    response = httpx.post(f"{server.url}/v2/models/digits/infer", content=b"0" * 11_000_000)
    assert response.status_code == 413
    assert "the limit is 10485760" in response.json()["error"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nfiller: " + b"a" * 5000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 500 + b"\r\n", 431),
    ],
    ids=["garbage", "no colon", "negative", "two lengths", "long field", "long path", "many"],
)
def test_bad_head_is_refused_in_the_shape_of_every_error(
    server: BackendProcess, request_bytes: bytes, status: int
) -> None:
    answer = talk(server, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["status"] == status


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"POST /v2/models/digits/infer HTT",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
    ],
    ids=["silent", "half a head", "half a body"],
)
def test_client_that_dawdles_is_cut_off(server: BackendProcess, start: bytes) -> None:
    with connect(server) as client:
        client.sendall(start)
        started = time.monotonic()
        answer = read_all(client)
        assert time.monotonic() - started < 10
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_client_that_drips_bytes_is_cut_off(server: BackendProcess) -> None:
    answer = b""
    with connect(server) as client:
        client.settimeout(0.1)
        client.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\n")
        started = time.monotonic()
        while not answer and time.monotonic() - started < 15:
            client.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = client.recv(1000)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < 10


def test_connections_beyond_the_limit_are_refused(server: BackendProcess) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(60)]
        assert held
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with connect(server) as extra:
                extra.settimeout(0.3)
                if read_all(extra).startswith(b"HTTP/1.1 503 "):
                    break
        else:
            pytest.fail("no connection was refused")


async def metric(client: httpx.AsyncClient, name: str) -> float:
    """Value of a metric of the slow model."""
    text = (await client.get("/metrics")).text
    prefix = f'{name}{{model="slow"}} '
    return next(float(t.removeprefix(prefix)) for t in text.splitlines() if t.startswith(prefix))


async def test_client_that_leaves_frees_its_place_in_the_queue(server: BackendProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        before = await metric(client, "backend_dropped_items_total")
        tasks = [
            asyncio.create_task(client.post("/v2/models/slow/infer", content=slow_body(n)))
            for n in range(12)
        ]
        async with asyncio.timeout(20):
            while await metric(client, "backend_queue_items") < 6:
                pass
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(20):
            while await metric(client, "backend_queue_items") > 0:
                pass
        assert await metric(client, "backend_dropped_items_total") >= before + 4


async def test_slow_model_does_not_hold_up_a_quick_one(server: BackendProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        slow = [
            asyncio.create_task(client.post("/v2/models/slow/infer", content=slow_body(n)))
            for n in range(8)
        ]
        await asyncio.sleep(0)
        for _ in range(10):
            quick = await client.post("/v2/models/digits/infer", content=BODY)
            assert quick.status_code == 200
        assert not all(task.done() for task in slow)
        for response in await asyncio.gather(*slow):
            assert response.status_code == 200


async def test_requests_beyond_their_deadline_are_refused_not_computed(
    server: BackendProcess,
) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        answers = await asyncio.gather(
            *(
                client.post(
                    "/v2/models/slow/infer",
                    content=slow_body(n),
                    headers={"Inference-Deadline-Ms": "150"},
                )
                for n in range(60)
            )
        )
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {200, 429, 504}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["retry_after_ms"] > 0


def test_shutdown_lets_running_requests_finish(models: Path, tmp_path: Path) -> None:
    with running_backend(models, tmp_path / "log") as server:
        with connect(server) as client:
            body = slow_body()
            client.sendall(
                (
                    f"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\n"
                    f"content-length: {len(body)}\r\n\r\n"
                ).encode()
                + body
            )
            time.sleep(0.02)  # the request has to be on its way before the signal
            server.process.send_signal(signal.SIGTERM)
            assert read_all(client).startswith(b"HTTP/1.1 200 OK")
        assert server.process.wait(20) == 0


class FakeTransport:
    """A socket whose peer reads when the test says so."""

    def __init__(self) -> None:
        self.written = b""
        self.unread = 0
        self.state = "open"

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def is_closing(self) -> bool:
        return self.state != "open"

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def refusing_app(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(scope, send, 413, [], b"too much")


async def open_connection(app: ASGIApp) -> tuple[BoundedProtocol, FakeTransport]:
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    kind = make_protocol(ConnectionLimits(request_timeout_s=10))
    transport = FakeTransport()
    protocol = kind(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(transport)  # type: ignore[arg-type]
    return protocol, transport


async def test_client_that_reads_slowly_but_reads_is_kept() -> None:
    protocol, transport = await open_connection(refusing_app)
    protocol._awaiting_since = 0
    for second, unread in enumerate(range(1000, 0, -50)):
        transport.unread = unread
        protocol.cut_off_if_late(1000.0 + second * 9)
    assert transport.state == "open"


async def test_client_that_reads_nothing_is_cut_off() -> None:
    protocol, transport = await open_connection(refusing_app)
    protocol._awaiting_since = 0
    transport.unread = 1000
    for second in (0, 5, 9):
        protocol.cut_off_if_late(1000.0 + second)
        assert transport.state == "open"
    protocol.cut_off_if_late(1011.0)
    assert transport.state == "aborted"


async def test_answered_request_that_goes_on_arriving_gets_no_second_answer() -> None:
    protocol, transport = await open_connection(refusing_app)
    protocol.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nstart")
    await asyncio.sleep(0)
    assert transport.written.startswith(b"HTTP/1.1 413 ")
    written = transport.written
    protocol.cut_off_if_late(time.monotonic() + 11)
    assert transport.state == "closed"
    assert transport.written == written


def test_large_answer_arrives_whole(server: BackendProcess) -> None:
    body = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "datatype": "UINT8",
                    "shape": [4000, 1, 8, 8],
                    "data": list(range(64)) * 4000,
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    response = httpx.post(f"{server.url}/v2/models/digits/infer", content=body, timeout=60)
    assert response.status_code == 200
    length = int(response.headers["inference-header-content-length"])
    assert len(response.content) == length + 4000 * 10 * 4
    rows = np.frombuffer(response.content[length:], "<f4").reshape(4000, 10)
    np.testing.assert_allclose(rows, np.broadcast_to(rows[0], rows.shape), rtol=1e-4)


def test_access_log_has_a_line_per_request(models: Path, tmp_path: Path) -> None:
    with running_backend(models, tmp_path / "log", "--access-log", "true") as server:
        httpx.post(f"{server.url}/v2/models/digits/infer", content=BODY)
        httpx.get(f"{server.url}/v2")
    lines = [line for line in server.log.read_text().splitlines() if "uvicorn.access" in line]
    assert ['"POST /v2/models/digits/infer HTTP/1.1" 200' in lines[0], "/v2 " in lines[1]] == [
        True,
        True,
    ]


def test_provider_of_a_manifest_that_cannot_be_met_ends_the_start(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m", classifier(), '[execution]\nprovider = "cuda"\n')
    command = [sys.executable, "-m", "gpu_backend", "--listen", "127.0.0.1:0"]
    ended = subprocess.run(
        [*command, "--models", str(tmp_path / "models"), "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("gpu_backend: execution provider 'cuda' cannot be met")
    assert ended.stderr.count("\n") == 1


def test_port_in_use_is_told_in_one_line(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]  # noqa: UP031
        ended = subprocess.run(
            [sys.executable, "-m", "gpu_backend", "--listen", address, "--models", str(models)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == (
        f"gpu_backend: cannot listen on {address}: Address already in use; "
        "--listen HOST:PORT moves it\n"
    )

"""`smoke`: the README's calls, through a forwarded port, against what stands in the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from deployment.cluster import Cluster
from deployment.forwarding import forward
from deployment.smoke import readme_calls
from k8s.conftest import World
from k8s.rendered import REPOSITORY

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on PATH")

DOCUMENT = """
Text with curl 127.0.0.1:3000/in-a-sentence.

```sh
$ curl -s 127.0.0.1:3000/one
curl -s 'http://127.0.0.1:3000/two?a=b&c=d' -H 'content-type: application/json' \\
  -d '{"a": [1, 2]}'   # a comment
curl -s 127.0.0.1:3000/piped | python3 -m json.tool
curl -s 127.0.0.1:3000/into > file
curl -s 127.0.0.1:3000/$(whoami)
curl -s https://elsewhere.example.com/
```

    curl 127.0.0.1:3000/indented
    make up
"""


def test_readme_calls_are_the_plain_curl_lines_of_code_blocks() -> None:
    assert readme_calls(DOCUMENT) == [
        ["curl", "-s", "127.0.0.1:3000/one"],
        [
            "curl",
            "-s",
            "http://127.0.0.1:3000/two?a=b&c=d",
            "-H",
            "content-type: application/json",
            "-d",
            '{"a": [1, 2]}',
        ],
        ["curl", "127.0.0.1:3000/indented"],
    ]


def ready(world: World) -> None:
    code, output = world.deploy("apply", "dev")
    assert code == 0, output


def answering(world: World, status: str, body: str) -> list[bytes]:
    """Let the pod answer every connection's first request."""
    seen: list[bytes] = []

    async def answer(request: bytes) -> bytes:
        seen.append(request)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return head.encode() + body.encode()

    world.api.forwarded = answer
    return seen


def test_forward_carries_a_request_to_the_pod_and_its_answer_back(world: World) -> None:
    ready(world)
    seen = answering(world, "200 OK", "hello from the pod")
    with (
        contextlib.closing(Cluster.connect(str(world.kubeconfig))) as cluster,
        forward(cluster, "inference-anywhere", "inference-anywhere-abc12", 80) as port,
    ):
        for _ in range(2):
            url = f"http://127.0.0.1:{port}/path?q=1"
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.read() == b"hello from the pod"
    assert [request.split(b"\r\n")[0] for request in seen] == [b"GET /path?q=1 HTTP/1.1"] * 2


def test_forward_client_that_leaves_early_ends_its_tunnel(world: World) -> None:
    never = threading.Event()

    async def silent(_request: bytes) -> bytes:
        never.set()
        await asyncio.sleep(3600)
        return b""

    world.api.forwarded = silent
    before = threading.active_count()
    with (
        contextlib.closing(Cluster.connect(str(world.kubeconfig))) as cluster,
        forward(cluster, "inference-anywhere", "pod", 80) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert never.wait(10)
    assert threading.active_count() == before


def test_forward_pod_that_is_gone_closes_the_connection(world: World) -> None:
    with (
        contextlib.closing(Cluster.connect(str(world.kubeconfig))) as cluster,
        forward(cluster, "inference-anywhere", "gone", 80) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.settimeout(10)
        assert client.recv(1) == b""


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README whose calls are made is `DOCUMENT`."""
    (tmp_path / "README.md").write_text(DOCUMENT)
    monkeypatch.setattr("deployment.smoke.REPOSITORY", tmp_path)


@needs_curl
@pytest.mark.usefixtures("readme")
def test_smoke_runs_the_readme_calls(world: World) -> None:
    ready(world)
    seen = answering(world, "200 OK", '{"predictions": []}')
    code, output = world.deploy("smoke")
    assert code == 0, output
    assert "3 calls of the README answered" in output
    assert output.count('{"predictions": []}') == 3
    assert [request.split(b" ")[1] for request in seen] == [b"/one", b"/two?a=b&c=d", b"/indented"]


@needs_curl
@pytest.mark.usefixtures("readme")
def test_smoke_failing_call_shows_command_and_answer(world: World) -> None:
    ready(world)
    answering(world, "502 Bad Gateway", '{"code": "upstream_unavailable"}')
    code, output = world.deploy("smoke")
    assert code == 1
    assert "curl -s 127.0.0.1:" in output
    assert "error: 502" in output
    assert '{"code": "upstream_unavailable"}' in output


@needs_curl
@pytest.mark.usefixtures("readme")
def test_smoke_with_a_key_sends_it_and_never_shows_it(world: World, tmp_path: Path) -> None:
    ready(world)
    seen = answering(world, "200 OK", "{}")
    key = tmp_path / "key"
    key.write_text("sk-of-the-test\n")
    code, output = world.deploy("smoke", "--api-key-file", str(key))
    assert code == 0, output
    assert all(b"\r\nAuthorization: Bearer sk-of-the-test\r\n" in request for request in seen)
    assert len(seen) == 3
    assert "sk-of-the-test" not in output


@needs_curl
@pytest.mark.usefixtures("readme")
def test_smoke_without_a_key_where_one_is_needed_says_how_to_give_it(world: World) -> None:
    ready(world)
    answering(world, "401 Unauthorized", '{"code": "unauthenticated"}')
    code, output = world.deploy("smoke")
    assert code == 1
    assert "the edge has tenants: --api-key-file FILE" in output


@pytest.mark.parametrize("content", ["", "two words", 'quote"d', "two\nlines", "b\\s"])
def test_smoke_key_that_is_none_is_refused(world: World, tmp_path: Path, content: str) -> None:
    key = tmp_path / "key"
    key.write_text(content)
    code, output = world.deploy("smoke", "--api-key-file", str(key))
    assert code == 1
    assert "the API key is none: one line of printable characters" in output


def test_smoke_without_a_ready_pod_says_why(world: World) -> None:
    world.controllers.broken["inference-anywhere"] = "image"
    world.deploy("apply", "dev", "--timeout", "9")
    code, output = world.deploy("smoke")
    assert code == 1
    assert "no pod of inference-anywhere is ready" in output
    assert "ErrImagePull" in output


def test_readme_of_this_repository_has_calls_to_run() -> None:
    calls = readme_calls((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert all(call[0] == "curl" for call in calls)
    if not calls:
        pytest.skip("README.md shows no curl call to 127.0.0.1:3000 yet")

"""The key-value store's configuration, loaded by a real server: who may do what.

Valkey speaks Redis's protocol and reads its configuration; where only Redis is installed, it
stands in.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from k8s.rendered import SPINKUBE, load

SERVER = shutil.which("valkey-server") or shutil.which("redis-server")
CLIENT = shutil.which("valkey-cli") or shutil.which("redis-cli")
# The client takes a refusal for a connection that failed, and tries again for ten seconds.
AT_ONCE = Retry(NoBackoff(), 0)
PASSWORD = "a password of the test"

pytestmark = pytest.mark.skipif(
    SERVER is None, reason="neither valkey-server nor redis-server is on PATH"
)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    assert SERVER is not None
    folder = tmp_path_factory.mktemp("key-value")
    acl = (SPINKUBE / "secrets" / "users.acl").read_text()
    digest = sha256(PASSWORD.encode()).hexdigest()
    (folder / "users.acl").write_text(acl.format(password_sha256=digest))
    settings = load("base").generated("ConfigMap", "redis-settings")["data"]["valkey.conf"]
    settings = settings.replace("/etc/valkey-users/users.acl", str(folder / "users.acl"))
    (folder / "server.conf").write_text(settings.replace("dir /data", f"dir {folder}"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    command = [SERVER, str(folder / "server.conf"), "--port", str(number), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = any("Ready to accept connections" in line for line in process.stdout)
        assert started, f"{SERVER} refuses the configuration"
        yield number
        process.kill()


@pytest.fixture
def edge(port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port, username="edge", password=PASSWORD) as client:
        yield client


def test_edge_may_do_what_spin_asks_of_a_store(edge: redis.Redis) -> None:
    # Source: spinframework/spin, crates/key-value-redis/src/store.rs.
    assert edge.set("key", b"value") is True
    assert edge.get("key") == b"value"
    assert edge.exists("key") == 1
    assert edge.mset({"one": "1", "two": "2"}) is True
    assert sorted(edge.keys("*")) == [b"key", b"one", b"two"]
    assert edge.incrby("counter", 5) == 5
    with edge.pipeline(transaction=True) as transaction:
        transaction.watch("key")  # type: ignore[no-untyped-call]
        transaction.multi()
        transaction.set("key", b"swapped")
        assert transaction.execute() == [True]
    assert edge.delete("key", "one", "two", "counter") == 4


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("CONFIG", "GET", "maxmemory"),
        ("ACL", "LIST"),
        ("EVAL", "return 1", "0"),
        ("SHUTDOWN",),
        ("REPLICAOF", "NO", "ONE"),
    ],
    ids=lambda command: str(command[0]),
)
def test_edge_may_not_administer(edge: redis.Redis, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        edge.execute_command(*command)  # type: ignore[no-untyped-call]


def test_probe_user_may_only_ping(port: int) -> None:
    with redis.Redis(port=port, username="probe", password="anything") as probe:
        assert probe.ping() is True
        with pytest.raises(redis.exceptions.NoPermissionError):
            probe.get("key")


def probe(folder: Path, port: int) -> int:
    """The exit code of the StatefulSet's probe, its client told another port."""
    container = load("base").get("StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    command = container[0]["readinessProbe"]["exec"]["command"]
    assert command == container[0]["livenessProbe"]["exec"]["command"]
    client = folder / "valkey-cli"
    client.write_text(f'#!/bin/sh\nexec {CLIENT} -p {port} "$@"\n')
    client.chmod(0o755)
    env = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, env=env, capture_output=True, timeout=30, check=False).returncode


@pytest.mark.skipif(CLIENT is None, reason="neither valkey-cli nor redis-cli is on PATH")
def test_probe_of_the_manifest_tells_a_server_that_answers_from_one_that_does_not(
    port: int, tmp_path: Path
) -> None:
    assert probe(tmp_path, port) == 0
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert probe(tmp_path, unused.getsockname()[1]) == 1


def test_stranger_is_refused(port: int) -> None:
    with (
        redis.Redis(port=port, retry=AT_ONCE) as stranger,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        stranger.ping()
    with (
        redis.Redis(port=port, username="edge", password="wrong", retry=AT_ONCE) as impostor,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        impostor.ping()


def test_settings_never_evict_and_outlive_a_restart() -> None:
    settings = load("base").generated("ConfigMap", "redis-settings")["data"]["valkey.conf"]
    lines = [line.split() for line in settings.splitlines() if line and not line.startswith("#")]
    configured = {line[0]: line[1:] for line in lines}
    assert configured["maxmemory-policy"] == ["noeviction"]
    assert configured["appendonly"] == ["yes"]

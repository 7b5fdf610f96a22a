"""runtime-config.toml as it is right; what is wrong with it is in the golden texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from edgehost.runtime_config import (
    MemoryStoreConfig,
    OutboundHttpConfig,
    RedisStoreConfig,
    RuntimeConfig,
    SqliteStoreConfig,
    read_dotenv,
    read_runtime_config,
)
from edgehost.strict_toml import Report


def read(
    tmp_path: Path, text: str, environment: Mapping[str, str] | None = None
) -> tuple[RuntimeConfig, Report]:
    path = tmp_path / "config" / "runtime-config.toml"
    path.parent.mkdir()
    path.write_text(text)
    report = Report()
    config = read_runtime_config(path, "runtime-config.toml", environment or {}, tmp_path, report)
    return config, report


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    config, report = read(tmp_path, "")
    assert config == RuntimeConfig()
    assert (report.faults, report.warnings) == ([], [])


def test_missing_file_is_a_fault(tmp_path: Path) -> None:
    report = Report()
    read_runtime_config(tmp_path / "none.toml", "none.toml", {}, tmp_path, report)
    assert report.faults == ["none.toml: no such file"]


def test_directory_in_its_place_is_a_fault(tmp_path: Path) -> None:
    report = Report()
    read_runtime_config(tmp_path, "dir", {}, tmp_path, report)
    assert report.faults == ["dir: cannot be read: Is a directory"]


def test_file_that_is_no_utf8_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b'a = "\xff"')
    report = Report()
    read_runtime_config(tmp_path / "x.toml", "x.toml", {}, tmp_path, report)
    assert report.faults == ["x.toml: is not UTF-8 (byte 5)"]


def test_directories_and_limits_are_read(tmp_path: Path) -> None:
    config, report = read(
        tmp_path, 'state_dir = "state"\nlog_dir = "/logs"\nmax_instance_memory = 10_000_000\n'
    )
    assert (config.state_dir, config.log_dir) == ("state", "/logs")
    assert config.max_instance_memory == 10_000_000
    assert report.faults == []


def test_stores_are_read_with_paths_beside_the_file(tmp_path: Path) -> None:
    config, report = read(
        tmp_path,
        """
        [key_value_store.default]
        type = "redis"
        url = "redis://user:s3cret@localhost:6380/1"
        [key_value_store.near]
        type = "spin"
        path = "data/near.db"
        [key_value_store.far]
        type = "spin"
        path = "/data/far.db"
        [key_value_store.memory]
        type = "spin"
        """,
    )
    assert report.faults == []
    assert config.key_value_stores == {
        "default": RedisStoreConfig("redis://user:s3cret@localhost:6380/1"),
        "near": SqliteStoreConfig(tmp_path / "config" / "data" / "near.db"),
        "far": SqliteStoreConfig(Path("/data/far.db")),
        "memory": MemoryStoreConfig(),
    }
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", "localhost"),
        ("rediss://user:s3cret@cache.example:6380/2", "cache.example:6380"),
        ("redis://:s3cret@[::1]:6379", "[::1]:6379"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
    ],
)
def test_redis_url_is_taken_and_shown_without_password(
    tmp_path: Path, url: str, address: str
) -> None:
    config, report = read(tmp_path, f'key_value_store.r = {{ type = "redis", url = "{url}" }}')
    assert report.faults == []
    store = config.key_value_stores["r"]
    assert isinstance(store, RedisStoreConfig)
    assert store.address == address


@pytest.mark.parametrize("url", ["", "localhost:6379", "redis://", "redis://h:port", "http://h",
                                 "redis://[::1", "//h"])  # fmt: skip
def test_redis_url_is_refused(tmp_path: Path, url: str) -> None:
    _, report = read(tmp_path, f'key_value_store.r = {{ type = "redis", url = "{url}" }}')
    assert len(report.faults) == 1
    assert "key_value_store.r.url: must be redis://" in report.faults[0]


@pytest.mark.parametrize("name", ["variables_provider", "config_provider"])
def test_variable_providers_are_read_in_order(tmp_path: Path, name: str) -> None:
    (tmp_path / "my.env").write_text("MY_C=from dotenv".replace(" ", "-"))
    config, report = read(
        tmp_path,
        f"""
        [[{name}]]
        type = "static"
        values = {{ a = "static" }}
        [[{name}]]
        type = "env"
        prefix = "MY"
        dotenv_path = "my.env"
        [[{name}]]
        type = "env"
        """,
        {"MY_B": "env", "SPIN_VARIABLE_B": "default prefix"},
    )
    assert report.faults == []
    static, mine, standard = config.variable_providers
    assert static.get("a") == "static"
    assert (mine.get("a"), mine.get("b"), mine.get("c")) == (None, "env", "from-dotenv")
    assert (standard.get("b"), standard.get("c")) == ("default prefix", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", OutboundHttpConfig(True, None)),
        ("outbound_http.connection_pooling = true", OutboundHttpConfig(True, None)),
        ("outbound_http.connection_pooling = false", OutboundHttpConfig(False, None)),
        ("[outbound_http]", OutboundHttpConfig(False, None)),
        (
            "outbound_http = { connection_pooling = true, max_connections = 0 }",
            OutboundHttpConfig(True, 0),
        ),
        (
            "outbound_http = { connection_pooling = true, max_concurrent_requests = 0 }",
            OutboundHttpConfig(True, 1),
        ),
    ],
)
def test_outbound_http_has_the_defaults_of_spin(
    tmp_path: Path, text: str, expected: OutboundHttpConfig
) -> None:
    config, report = read(tmp_path, text)
    assert config.outbound_http == expected
    assert report.faults == []


def test_dotenv_file_that_is_absent_is_empty(tmp_path: Path) -> None:
    report = Report()
    assert read_dotenv(tmp_path / ".env", ".env", {}, report) == {}
    assert report.faults == []


def test_dotenv_file_that_is_wrong_is_a_fault_without_its_values(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\nKEY=my s3cret\n")
    report = Report()
    read_dotenv(tmp_path / ".env", ".env", {}, report)
    assert report.faults == [".env: line 2: white space in a value needs quotes"]

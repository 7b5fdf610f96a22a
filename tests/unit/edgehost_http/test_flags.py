"""Flag values in Spin's syntax."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgehost.errors import ConfigError
from edgehost.flags import parse_duration, parse_environment, parse_listen, parse_variables


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10.0), ("10s", 10.0), ("500ms", 0.5), ("20us", 2e-5), ("20μs", 2e-5), ("7ns", 7e-9)],
)
def test_duration_with_a_unit_gives_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "0ms", "-1", "1.5", "10m", "ms", "1h", "١s"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time such as"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3000", ("127.0.0.1", 3000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_listen_address_is_split(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", ["", "3000", ":3000", "a:", "a:b", "a:65536", "a:-1"])
def test_listen_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be an address such as"):
        parse_listen(text)


def test_environment_keeps_the_last_value_and_everything_after_the_first_equals() -> None:
    assert parse_environment(["A=1", "B=x=y", "A=2"]) == {"A": "2", "B": "x=y"}


def test_environment_reports_every_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_environment(["A", "=x", "B=1"])
    assert caught.value.faults == ("--env A: must be KEY=VALUE", "--env =x: must be KEY=VALUE")


def test_variables_come_from_values_and_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "a.json").write_text('{"two": "2"}')
    (tmp_path / "b.toml").write_text('three = "3"')
    found = parse_variables(
        ["one=1", f"key=@{tmp_path}/secret", f"@{tmp_path}/a.json", f"@{tmp_path}/b.toml"]
    )
    assert found == {"one": "1", "key": "s3cret\n", "two": "2", "three": "3"}


def test_variables_report_every_fault_without_values(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"n": 1}')
    (tmp_path / "b.json").write_text("{")
    flags = ["nope", "x=@/absent", "@file.yaml", f"@{tmp_path}/a.json", f"@{tmp_path}/b.json"]
    with pytest.raises(ConfigError) as caught:
        parse_variables([*flags, "token=hush"])
    faults = caught.value.faults
    assert len(faults) == 5
    assert "must be KEY=VALUE" in faults[0]
    assert faults[1] == "--variable x: No such file or directory"
    assert "must end in .json or .toml" in faults[2]
    assert "one table of strings" in faults[3]
    assert "hush" not in str(caught.value)

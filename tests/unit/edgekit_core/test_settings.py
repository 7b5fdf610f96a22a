"""`edgekit.settings`: what variables may hold, and that every fault is told at once."""

from __future__ import annotations

import pytest

from edgekit.errors import InternalError
from edgekit.settings import read_settings
from fakes.edge_ports import DictVariables


def test_settings_defaults_of_tests_are_read_in_their_units() -> None:
    settings = read_settings(DictVariables())
    assert settings.backend_url == "http://backend.test:8080"
    assert settings.backend_timeouts.connect_s == 1.0
    assert settings.backend_timeouts.first_byte_s == 2.0
    assert settings.backend_timeouts.between_bytes_s == 3.0
    assert settings.max_body_bytes == 100_000
    assert settings.max_image_pixels == 65_536
    assert settings.metadata_ttl_s == 60


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        (" https://gpu.example ", "https://gpu.example"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_settings_backend_url_valid_is_an_origin(url: str, expected: str) -> None:
    assert read_settings(DictVariables(backend_url=url)).backend_url == expected


@pytest.mark.parametrize(
    "url",
    ["", "backend:8080", "ftp://x", "http://", "http://x/path", "http://x?q", "http://x#f",
     "http://x:99999", "http://x:0", "http://[::1"],
)  # fmt: skip
def test_settings_backend_url_invalid_is_refused_without_its_value(url: str) -> None:
    with pytest.raises(InternalError, match="backend_url takes a URL") as caught:
        read_settings(DictVariables(backend_url=url))
    assert not url or f"{url!r}" not in caught.value.message


@pytest.mark.parametrize("value", ["", "abc", "-1", "1.5", "0", "²", "9" * 40])
def test_settings_number_invalid_names_variable_and_range(value: str) -> None:
    with pytest.raises(InternalError, match=r"max_body_bytes .* takes a whole number from 1 to"):
        read_settings(DictVariables(max_body_bytes=value))


def test_settings_several_faults_are_told_together() -> None:
    with pytest.raises(InternalError) as caught:
        read_settings(DictVariables(max_body_bytes="x", metadata_ttl_s="y", backend_url="z"))
    for name in ("max_body_bytes", "metadata_ttl_s", "backend_url"):
        assert name in caught.value.message

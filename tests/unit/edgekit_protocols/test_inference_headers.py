"""`edgekit.protocols.inference_headers`: reading and writing who answered."""

from __future__ import annotations

import pytest

from edgekit.protocols.inference_headers import (
    ModelIdentity,
    format_server_timing,
    parse_model_identity,
)


@pytest.mark.parametrize(
    "value",
    [
        "digits;version=1;digest=sha256:ab;provider=CPUExecutionProvider",
        'digits; version="1"; digest="sha256:ab"; provider="CPUExecutionProvider"',
        "digits;provider=CPUExecutionProvider;VERSION=1;digest=sha256:ab;later=unknown",
    ],
)
def test_model_identity_is_read_in_any_order_with_or_without_quotes(value: str) -> None:
    expected = ModelIdentity("digits", "1", "sha256:ab", "CPUExecutionProvider")
    assert parse_model_identity(value) == expected


@pytest.mark.parametrize("value", [None, "", ";version=1", '""'])
def test_model_identity_without_a_name_is_none(value: str | None) -> None:
    assert parse_model_identity(value) is None


def test_model_identity_name_alone_leaves_the_rest_empty() -> None:
    assert parse_model_identity("digits") == ModelIdentity("digits", "", "", "")


@pytest.mark.parametrize(
    ("identity", "field"),
    [
        (
            ModelIdentity("digits", "1", "sha256:ab", "CPU"),
            'digits;version="1";digest="sha256:ab";provider="CPU"',
        ),
        (ModelIdentity("digits", "", "", ""), "digits"),
        (ModelIdentity("my model", "é", "", ""), '"my model";version="?"'),
        (ModelIdentity("zahlen-ä", "", "", ""), '"zahlen-?"'),
    ],
)
def test_model_identity_is_written_as_a_structured_field(
    identity: ModelIdentity, field: str
) -> None:
    assert identity.serialize() == field


def test_server_timing_lists_stages_in_milliseconds() -> None:
    assert format_server_timing([("a", 1.234), ("b", 0)]) == "a;dur=1.23, b;dur=0.00"

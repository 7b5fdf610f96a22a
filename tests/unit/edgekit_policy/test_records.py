import base64
import json

import pytest

from edgekit.policy.records import (
    MAX_RECORD_BYTES,
    InferenceRecord,
    encode_record,
    record_id,
    sampled_payload,
    tenant_digest,
)
from fakes.edge_ports import CountingRandom

RECORD = InferenceRecord(
    id="00" * 16,
    time_ms=1_800_000_000_000,
    tenant=tenant_digest("acme"),
    route="classify",
    model="digits",
    model_version="1",
    model_digest="d1",
    tier="cluster",
    reason="preferred",
    cache="miss",
    status=200,
    latency_ms=12.3456789,
    confidence=0.987654321,
    class_id=0,
)


def test_record_is_compact_json_without_absent_values() -> None:
    value = json.loads(encode_record(RECORD))
    assert value["latency_ms"] == 12.345679
    assert value["class_id"] == 0
    assert "payload" not in value
    assert "request_id" not in value


def test_record_names_no_tenant_and_no_payload() -> None:
    raw = encode_record(RECORD)
    assert b"acme" not in raw
    assert len(raw) < 400


def test_record_long_texts_are_cut_to_a_bound() -> None:
    long = InferenceRecord(
        **{
            **{name: getattr(RECORD, name) for name in RECORD.__slots__},
            "model": "m" * 10_000,
            "request_id": "r" * 10_000,
        }
    )
    assert len(encode_record(long)) < 1200


def test_record_ids_differ() -> None:
    random = CountingRandom()
    assert record_id(random) != record_id(random)


def test_tenant_digest_is_stable_and_tells_tenants_apart() -> None:
    assert tenant_digest("acme") == tenant_digest("acme") != tenant_digest("beta")


@pytest.mark.parametrize(
    ("rate", "size", "sampled"),
    [(0.0, 10, False), (0.5, 10, False), (0.51, 10, True), (1.0, 10, True), (1.0, 40_000, False)],
)
def test_payload_is_sampled_at_its_rate_and_within_its_bound(
    rate: float, size: int, sampled: bool
) -> None:
    payload = sampled_payload(b"x" * size, rate, CountingRandom())
    assert (payload is not None) == sampled
    if payload is not None:
        assert base64.b64decode(payload) == b"x" * size
        assert len(payload) < MAX_RECORD_BYTES

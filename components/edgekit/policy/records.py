"""What is written down about every inference: enough to account for it, nothing it was about.

A record names tenants by a digest and holds no payload, unless an operator samples payloads.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass

from edgekit.ports import RandomSource

__all__ = ["InferenceRecord", "encode_record", "record_id", "sampled_payload", "tenant_digest"]

MAX_RECORD_BYTES = 49_152
"""Fields are short; this bounds what a sampled payload may add."""

_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class InferenceRecord:
    """One inference.

    Attributes:
        id: Random; the backend keeps one record per id, however often it is delivered.
        time_ms: Wall time of the answer, since the Unix epoch.
        tenant: See `tenant_digest`.
        route: Kind of route.
        tier: Who answered: edge, cluster, cloud or cache.
        reason: Reason code of the placement.
        cache: hit, miss, stale, collapsed or bypass.
        status: HTTP status; of a stream that ended otherwise than its head said, 502 where it broke
            off and 499 where its client left.
        latency_ms: From accept to the head of the answer; to its last byte where it was streamed.
        confidence: Of the top class, 0 to 1, where there is one.
        class_id: The top class, where there is one.
        tokens: Model tokens, where they are counted.
        cost_micro: Millionths of the operator's currency, where there are prices.
        payload: Sampled request body, base64; None when it was not sampled.
    """

    id: str
    time_ms: int
    tenant: str
    route: str
    model: str
    model_version: str
    model_digest: str
    tier: str
    reason: str
    cache: str
    status: int
    latency_ms: float
    confidence: float | None = None
    class_id: int | None = None
    tokens: int | None = None
    cost_micro: int | None = None
    request_id: str = ""
    payload: str | None = None


def record_id(random: RandomSource) -> str:
    """A new id: 128 random bits."""
    return random.token_bytes(16).hex()


def tenant_digest(name: str) -> str:
    """How a record names a tenant: equal names give equal digests, and nothing else shows."""
    return hashlib.sha256(b"tenant:" + name.encode()).hexdigest()[:16]


def sampled_payload(body: bytes, rate: float, random: RandomSource) -> str | None:
    """The body for the record when this request is drawn; a body too large for one is not.

    Args:
        body: The request's body.
        rate: Share of requests to sample; 0, the default everywhere, samples none.
        random: Draws.
    """
    encoded_bytes = (len(body) + 2) // 3 * 4
    if rate <= 0 or random.random() >= rate or encoded_bytes > MAX_RECORD_BYTES - 4096:
        return None
    return base64.b64encode(body).decode()


def encode_record(record: InferenceRecord) -> bytes:
    """The spooled form: compact JSON, absent values left out, long texts cut."""
    fields: dict[str, object] = {}
    for name, value in asdict(record).items():
        if value is None or value == "":
            continue
        if isinstance(value, str) and name != "payload":
            value = value[:_MAX_TEXT]
        if isinstance(value, float):
            value = round(value, 6)
        fields[name] = value
    return json.dumps(fields, separators=(",", ":")).encode()

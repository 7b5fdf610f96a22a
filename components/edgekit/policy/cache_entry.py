"""Stored answers as bytes.

    "IAE" · schema (1 byte) · head length (4, little-endian) · head (JSON) · body · SHA-256[:16]

The checksum covers all before it. Whatever does not decode to the last bit is not an entry: a
store may truncate, a disk may rot, and another version of this program may have written it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from edgekit.policy.freshness import Freshness

__all__ = ["MAX_CLOCK_SKEW_S", "StoredAnswer", "decode_answer", "encode_answer"]

SCHEMA = 2
MAX_CLOCK_SKEW_S = 5.0
"""How far a peer's clock may run ahead before its entries count as being from the future."""

_MAGIC = b"IAE" + bytes([SCHEMA])
_CHECKSUM_BYTES = 16


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """One complete answer with all that decides on its reuse.

    Attributes:
        address: Where it lies, see `cache_key`.
        identity: Which request and model version it answers.
        generations: Purge counters at the time the request began; any change makes it a miss.
        stored_at_s: Wall time of generation.
        status: HTTP status.
        headers: Fields to send again, without those of the policy itself.
        frames: Sizes of the chunks of a streamed answer, in order; empty for a whole one.
        facts: What records and headers need of the answer: model, version, confidence.
    """

    address: str
    identity: str
    generations: tuple[int, ...]
    stored_at_s: float
    lifetime_s: int
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    stale_while_revalidate_s: int = 0
    stale_if_error_s: int = 0
    must_revalidate: bool = False
    frames: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def freshness(self, now_s: float) -> Freshness:
        """Age and windows at `now_s`.

        An entry from the future (the clock went back) is taken as just expired: its true age
        cannot be known, so it may help out as a stale answer but never passes as fresh.
        """
        age_s = now_s - self.stored_at_s
        if age_s < -MAX_CLOCK_SKEW_S:
            age_s = self.lifetime_s
        return Freshness(
            age_s=max(0, int(age_s)),
            lifetime_s=self.lifetime_s,
            stale_while_revalidate_s=self.stale_while_revalidate_s,
            stale_if_error_s=self.stale_if_error_s,
            must_revalidate=self.must_revalidate,
        )


def encode_answer(answer: StoredAnswer) -> bytes:
    """The stored form of `answer`."""
    fields = asdict(answer)
    body = fields.pop("body")
    head = json.dumps(fields, separators=(",", ":")).encode()
    data = b"".join((_MAGIC, len(head).to_bytes(4, "little"), head, body))
    return data + _checksum(data)


def decode_answer(data: bytes | None) -> StoredAnswer | None:
    """The answer in `data`; None when it is absent, corrupt, truncated or of another schema."""
    if not data or not data.startswith(_MAGIC):
        return None
    data, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if _checksum(data) != checksum:
        return None
    start = len(_MAGIC) + 4
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    try:
        head = json.loads(data[start:end])
        for name in ("generations", "frames"):
            head[name] = tuple(head[name])
        head["headers"] = tuple((name, value) for name, value in head["headers"])
        return StoredAnswer(body=data[end:], **head)
    except (ValueError, TypeError, KeyError):
        # Written whole, but by a program whose fields differ without a new schema number.
        return None


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_CHECKSUM_BYTES]

"""Which version of a model is active, as answers of the cluster last showed it.

Cached answers are looked up for the digest that is active. It is known without asking for as long
as metadata is trusted (`metadata_ttl_s`); after that one request goes on to the upstream, and its
answer tells. So a replaced model's answers are served for at most that long.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from edgekit.protocols.inference_headers import ModelIdentity

__all__ = ["ActiveModel", "active_by", "active_key", "decode_active", "encode_active"]

_SLOTS = 512


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """What was last seen.

    Attributes:
        digest: Of the version; its number where the backend gives no digest; empty: never seen.
        seen_s: Wall time.
    """

    digest: str = ""
    seen_s: float = 0.0

    def known(self, now_s: float, ttl_s: float) -> bool:
        """True while it may be relied on; a clock that went back ends that."""
        return bool(self.digest) and 0 <= now_s - self.seen_s <= ttl_s


def active_by(identity: ModelIdentity, now_s: float) -> ActiveModel:
    """What an answer of the cluster shows about the model that is active."""
    return ActiveModel(identity.digest or identity.version, now_s)


def active_key(model: str, version: str | None) -> str:
    """Where the facts about a model lie: one of 512 keys, however many are asked for."""
    slot = int(hashlib.sha256(_label(model, version).encode()).hexdigest()[:8], 16) % _SLOTS
    return f"active/{slot}"


def encode_active(active: ActiveModel, model: str, version: str | None) -> bytes:
    """The stored form."""
    fields = [_label(model, version), active.digest, round(active.seen_s, 3)]
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_active(raw: bytes | None, model: str, version: str | None) -> ActiveModel:
    """The facts; none when they are absent, unreadable, or of another model."""
    try:
        label, digest, seen_s = json.loads(raw or b'["","",0]')
        found = ActiveModel(str(digest), float(seen_s))
    except (ValueError, TypeError):
        return ActiveModel()
    return found if label == _label(model, version) else ActiveModel()


def _label(model: str, version: str | None) -> str:
    return f"{model}/{version or ''}"

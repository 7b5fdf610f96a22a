"""The `Cache-Status` field (RFC 9211) and `Age` (RFC 9111, section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.policy.structured import BareItem, Token, serialize_item

__all__ = ["CacheStatus"]

_CACHE = Token("edge")


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What the cache did for one request.

    Attributes:
        hit: The answer came from the store and nothing was forwarded.
        fwd: Why the request went on: ``miss``, ``stale``, ``request`` or ``bypass``.
        fwd_status: Status the upstream gave, when it was asked and answered.
        ttl_s: Remaining freshness of the answer; negative when it is stale.
        stored: The answer was accepted for storage.
        collapsed: Another request's answer was waited for; False when waiting was in vain.
        key: Address of the entry: what a purge by key takes.
        detail: A word of explanation, such as ``stale-if-error``.
    """

    hit: bool = False
    fwd: str | None = None
    fwd_status: int | None = None
    ttl_s: int | None = None
    stored: bool = False
    collapsed: bool | None = None
    key: str | None = None
    detail: str | None = None

    def serialize(self) -> str:
        """The field value."""
        params: dict[str, BareItem] = {}
        # Section 2.1: "hit and fwd are exclusive; only one of them should appear on each list
        # member."
        if self.hit:
            params["hit"] = True
        elif self.fwd is not None:
            params["fwd"] = Token(self.fwd)
            if self.fwd_status is not None:
                params["fwd-status"] = self.fwd_status
        if self.ttl_s is not None:
            params["ttl"] = self.ttl_s
        if self.stored:
            params["stored"] = True
        if self.collapsed is not None:
            params["collapsed"] = self.collapsed
        if self.key is not None:
            params["key"] = self.key
        if self.detail is not None:
            params["detail"] = Token(self.detail)
        return serialize_item(_CACHE, params)

"""The `RateLimit-Policy` and `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers-10)."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.http import Headers
from edgekit.policy.ledger import QuotaUse
from edgekit.policy.structured import BareItem, serialize_list

__all__ = ["set_rate_limit_fields"]


def set_rate_limit_fields(headers: Headers, uses: Sequence[QuotaUse]) -> None:
    """Tell the client its limits and what is left of them; nothing when it has none."""
    if not uses:
        return
    headers.set("ratelimit-policy", serialize_list((use.name, _policy(use)) for use in uses))
    headers.set("ratelimit", serialize_list((use.name, _state(use)) for use in uses))


def _policy(use: QuotaUse) -> dict[str, BareItem]:
    params: dict[str, BareItem] = {"q": use.quota}
    if use.unit:
        params["qu"] = use.unit
    if use.window_s is not None:
        params["w"] = use.window_s
    return params


def _state(use: QuotaUse) -> dict[str, BareItem]:
    params: dict[str, BareItem] = {"r": use.remaining}
    if use.reset_s is not None:
        params["t"] = use.reset_s
    return params

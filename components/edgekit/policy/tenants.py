"""Tenants and their limits, as the secret variable `api_keys` holds them.

    {"acme": {"keys": ["<SHA-256 of the key, hex>"], "scopes": ["infer", "admin"],
              "rate_per_s": 50, "burst": 100, "concurrency": 8,
              "daily_requests": 100000, "daily_tokens": 2000000, "daily_cost": 5.0}}

Only digests are configured, so the variable gives away no key. A limit that is left out does not
apply. An empty variable means an open system: everybody is the tenant `anonymous`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.policy.configuration import Faults, parse_object

__all__ = ["ANONYMOUS", "SCOPES", "Limits", "Tenant", "Tenants", "parse_tenants"]

SCOPES = frozenset({"infer", "admin"})
"""``infer`` calls models, ``admin`` purges the cache and looks into state."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may use; None means without limit.

    Attributes:
        rate_per_s: Refill of the token bucket.
        burst: Size of the token bucket.
        concurrency: Requests that may be at an upstream at one time.
        daily_requests: Per UTC day, cached answers included.
        daily_tokens: Model tokens per UTC day.
        daily_cost_micro: Millionths of the operator's currency per UTC day.
    """

    rate_per_s: float | None = None
    burst: int = 1
    concurrency: int | None = None
    daily_requests: int | None = None
    daily_tokens: int | None = None
    daily_cost_micro: int | None = None

    @property
    def any(self) -> bool:
        """True when at least one limit applies, so that the tenant needs a ledger."""
        return any(
            limit is not None
            for limit in (
                self.rate_per_s,
                self.concurrency,
                self.daily_requests,
                self.daily_tokens,
                self.daily_cost_micro,
            )
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody who may call, and how much."""

    name: str
    key_digests: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset({"infer"})
    limits: Limits = field(default_factory=Limits)


ANONYMOUS = Tenant("anonymous")
"""Everybody, where no key is configured. It may not administrate."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """All tenants; none means the system is open."""

    members: tuple[Tenant, ...] = ()

    @property
    def open(self) -> bool:
        """True when no key is configured."""
        return not self.members


def parse_tenants(text: str) -> Tenants:
    """Read the variable.

    Raises:
        ConfigurationError: With every fault in it.
    """
    faults = Faults()
    members = []
    owners: dict[str, str] = {}
    for name, value in parse_object("api_keys", text).items():
        place = f"api_keys.{name}"
        if not _NAME.match(name) or name == ANONYMOUS.name:
            faults.add(place, "a tenant's name is 1-63 of a-z 0-9 . _ - and not 'anonymous'")
        if not isinstance(value, dict):
            faults.add(place, "must be an object")
            continue
        tenant = _tenant(name, value, place, faults)
        for digest in tenant.key_digests:
            if owners.setdefault(digest, name) != name:
                faults.add(place, f"shares a key with {owners[digest]!r}; keys must be distinct")
        members.append(tenant)
    faults.raise_any()
    return Tenants(tuple(members))


_FIELDS = (
    "keys",
    "scopes",
    "rate_per_s",
    "burst",
    "concurrency",
    "daily_requests",
    "daily_tokens",
    "daily_cost",
)


def _tenant(name: str, value: Mapping[str, Any], place: str, faults: Faults) -> Tenant:
    faults.check_names(place, dict(value), _FIELDS)
    return Tenant(
        name=name,
        key_digests=_digests(value.get("keys"), f"{place}.keys", faults),
        scopes=_scopes(value.get("scopes", ["infer"]), f"{place}.scopes", faults),
        limits=_limits(value, place, faults),
    )


def _digests(value: object, place: str, faults: Faults) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        faults.add(place, "must list at least one SHA-256 digest")
        return ()
    digests = []
    for index, digest in enumerate(value):
        if isinstance(digest, str) and _DIGEST.match(digest):
            digests.append(digest)
        else:
            # The value is not shown: somebody may have put the key itself here.
            faults.add(f"{place}[{index}]", "must be 64 lower-case hex digits: the key's SHA-256")
    return tuple(digests)


def _scopes(value: object, place: str, faults: Faults) -> frozenset[str]:
    if not isinstance(value, list) or not all(scope in SCOPES for scope in value):
        faults.add(place, f"must list scopes out of {', '.join(sorted(SCOPES))}")
        return frozenset()
    return frozenset(value)


def _limits(value: Mapping[str, Any], place: str, faults: Faults) -> Limits:
    def number(name: str, *, at_least: float, whole: bool = True) -> float | None:
        if name not in value:
            return None
        return faults.number(f"{place}.{name}", value[name], at_least=at_least, whole=whole)

    def whole(name: str) -> int | None:
        found = number(name, at_least=1)
        return None if found is None else int(found)

    rate_per_s = number("rate_per_s", at_least=0.001, whole=False)
    cost = number("daily_cost", at_least=0, whole=False)
    burst = whole("burst")
    if burst is not None and "rate_per_s" not in value:
        faults.add(f"{place}.burst", "needs rate_per_s beside it")
    return Limits(
        rate_per_s=rate_per_s,
        # One second's worth, where nothing is said.
        burst=burst or max(1, int(rate_per_s or 0)),
        concurrency=whole("concurrency"),
        daily_requests=whole("daily_requests"),
        daily_tokens=whole("daily_tokens"),
        daily_cost_micro=None if cost is None else round(cost * _MICRO),
    )

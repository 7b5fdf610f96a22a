"""What the operator decides about policy: application variables, with defaults and their reasons.

`docs/edge-policy.md` explains the variables; spin.toml declares them with these very defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from edgekit.policy.breaker import BreakerRule
from edgekit.policy.cache import CacheShape
from edgekit.policy.cache_rules import CacheRule
from edgekit.policy.configuration import ConfigurationError
from edgekit.policy.cors import CorsRule
from edgekit.policy.prices import Prices, parse_prices
from edgekit.policy.retry import RetryRule
from edgekit.policy.spool import SpoolShape
from edgekit.policy.tenants import Tenants, parse_tenants
from edgekit.variables import VariableReader

__all__ = ["PolicySettings", "RecordSettings", "RoutePolicy", "read_policy_settings"]

_Read = TypeVar("_Read")

_NO_CLOUD = ".invalid"
"""Ending of a host that never exists (RFC 6761): the default, and how the cloud is switched off.
An empty URL would make Spin deny every outbound call of the component."""


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """What holds for one kind of route.

    Attributes:
        deadline_ms: Budget of a request that names none.
        cache: How its answers are kept.
        cascade: The edge model answers first, where there is one.
    """

    deadline_ms: int
    cache: CacheRule
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """How inferences are recorded.

    Attributes:
        enabled: Whether they are at all.
        shape: Bounds of the spool.
        sample_rate: Share of requests whose body goes into the record.
    """

    enabled: bool
    shape: SpoolShape
    sample_rate: float


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """All of it; see the modules whose rules these are.

    Attributes:
        deadline_max_ms: Longest budget a client may ask for.
        collapse: Identical requests wait for one answer.
        retry_share: Retries per request to an upstream.
        cloud_url: Where the third tier is; None when there is none.
    """

    tenants: Tenants
    prices: Prices
    limits_fail_open: bool
    cors: CorsRule
    routes: Mapping[str, RoutePolicy]
    deadline_max_ms: int
    cache: CacheShape
    collapse: bool
    breaker: BreakerRule
    retry: RetryRule
    retry_share: float
    cloud_url: str | None
    records: RecordSettings


def read_policy_settings(reader: VariableReader) -> PolicySettings:
    """The settings in force; faults are left in `reader`."""
    stale_while_revalidate_s = reader.number("cache_stale_while_revalidate_s", 0, 86_400, 30)
    # A day: whoever wants nothing that old says so, and everybody else gets an answer.
    stale_if_error_s = reader.number("cache_stale_if_error_s", 0, 31_536_000, 86_400)

    def route(kind: str, *, deadline_ms: int, ttl_s: int, cascade: bool = False) -> RoutePolicy:
        ttl_s = reader.number(f"{kind}_cache_ttl_s", 0, 31_536_000, ttl_s)
        return RoutePolicy(
            deadline_ms=reader.number(f"{kind}_deadline_ms", 1, 600_000, deadline_ms),
            cache=CacheRule(ttl_s, stale_while_revalidate_s, stale_if_error_s),
            cascade=cascade and reader.flag(f"{kind}_cascade", default=False),
        )

    return PolicySettings(
        tenants=_parsed(reader, "api_keys", parse_tenants) or Tenants(),
        prices=_parsed(reader, "model_prices", parse_prices) or Prices(),
        limits_fail_open=reader.flag("limits_fail_open", default=True),
        cors=CorsRule.parse(reader.text("cors_origins")),
        routes={
            "classify": route("classify", deadline_ms=10_000, ttl_s=300, cascade=True),
            "infer": route("infer", deadline_ms=30_000, ttl_s=60),
            # A long answer of a large model takes minutes; the client sees it grow.
            "chat": route("chat", deadline_ms=120_000, ttl_s=300),
            # No two windows of a sensor are alike.
            "detect": RoutePolicy(deadline_ms=2_000, cache=CacheRule(0)),
        },
        deadline_max_ms=reader.number("deadline_max_ms", 1, 600_000, 120_000),
        cache=CacheShape(
            sets=reader.number("cache_sets", 1, 65_536, CacheShape().sets),
            # Below the 1 MB that a value may have, with room for the head.
            max_entry_bytes=reader.number(
                "cache_max_entry_bytes", 1024, 900_000, CacheShape().max_entry_bytes
            ),
        ),
        collapse=reader.flag("cache_collapse", default=True),
        breaker=BreakerRule(
            consecutive_failures=reader.number("breaker_failures", 1, 1000, 5),
            base_ejection_s=reader.number("breaker_ejection_ms", 1, 600_000, 2_000) / 1000,
            max_ejection_s=reader.number("breaker_max_ejection_ms", 1, 3_600_000, 60_000) / 1000,
        ),
        retry=RetryRule(attempts=reader.number("retry_attempts", 1, 10, 3)),
        retry_share=reader.number("retry_share_percent", 0, 100, 20) / 100,
        cloud_url=_cloud_url(reader),
        records=RecordSettings(
            enabled=reader.flag("records_enabled", default=True),
            shape=SpoolShape(
                capacity=reader.number("records_capacity", 1, 10_000_000, SpoolShape().capacity)
            ),
            sample_rate=reader.number("records_sample_percent", 0, 100, 0) / 100,
        ),
    )


def _parsed(reader: VariableReader, name: str, parse: Callable[[str], _Read]) -> _Read | None:
    """A variable that holds JSON; None after noting its faults."""
    try:
        return parse(reader.text(name))
    except ConfigurationError as error:
        for fault in error.faults:
            reader.fault(fault)
        return None


def _cloud_url(reader: VariableReader) -> str | None:
    if not reader.text("cloud_url"):
        return None
    url = reader.origin("cloud_url")
    host = urlsplit(url).hostname or ""
    return None if host.endswith(_NO_CLOUD) else url or None

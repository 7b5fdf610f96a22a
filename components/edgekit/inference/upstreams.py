"""Which servers a model can be asked at, by tier."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.backend import Upstream
from edgekit.policy.placement import Tier
from edgekit.settings import Settings

__all__ = ["backend_upstreams"]


def backend_upstreams(settings: Settings) -> Mapping[Tier, Upstream]:
    """The cluster's backend, and its like in the cloud where there is one."""
    timeouts = settings.backend_timeouts
    found = {Tier.CLUSTER: Upstream(Tier.CLUSTER.value, settings.backend_url, timeouts)}
    if settings.policy.cloud_url is not None:
        found[Tier.CLOUD] = Upstream(Tier.CLOUD.value, settings.policy.cloud_url, timeouts)
    return found

"""Which servers a model can be asked at, by tier."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.backend import Upstream
from edgekit.policy.placement import Tier
from edgekit.settings import Settings

__all__ = ["backend_upstreams", "with_cloud"]


def backend_upstreams(settings: Settings) -> Mapping[Tier, Upstream]:
    """The cluster's backend, and its like in the cloud where there is one."""
    return with_cloud(settings.cluster, settings, name="cloud")


def with_cloud(cluster: Upstream, settings: Settings, *, name: str) -> Mapping[Tier, Upstream]:
    """`cluster`, and the backend in the cloud where there is one: as patient, under `name`."""
    cloud_url = settings.policy.cloud_url
    if cloud_url is None:
        return {Tier.CLUSTER: cluster}
    return {Tier.CLUSTER: cluster, Tier.CLOUD: Upstream(name, cloud_url, cluster.timeouts)}

#!/usr/bin/env python3
"""Simulate the deployment under growing load: what breaks first, and what it takes to go on.

    scripts/simulate_scale.py                     the first table of docs/scale.md
    scripts/simulate_scale.py --one-site          the second: no limit to a site's size
    scripts/simulate_scale.py --backend gpu       a model that a GPU runs in batches
    scripts/simulate_scale.py --base-rps 20       another load to begin with

A discrete-event simulation of one class of request (classify an image) through the stations it
really visits: gateway, edge pod, key-value store, backend. Deterministic: the same seed gives the
same table. docs/scale.md says where each cost comes from and what the model leaves out.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import accumulate
from random import Random

__all__ = [
    "BACKENDS",
    "Batching",
    "Costs",
    "Deployment",
    "Outcome",
    "Step",
    "climb",
    "hit_rate",
    "report",
    "simulate",
]

FACTORS = (1, 10, 100, 1000)
REQUESTS = 8_000
SHORTEST_S = 0.25
"""A simulation lasts for so many requests, and for no less than this time."""

WARM_UP = 0.25
"""Share of the requests that only fill the queues and is not counted."""

SATURATED = 0.9
"""A station this busy has queues that grow with every burst: it is taken for broken."""

SPREAD = 0.4
"""Sigma of the log-normal service times of CPU work."""


@dataclass(frozen=True, slots=True)
class Batching:
    """A backend replica: a batch costs a fixed part and a part per item."""

    fixed_ms: float
    item_ms: float
    max_batch: int

    @property
    def items_per_s(self) -> float:
        """The most that one replica computes."""
        return self.max_batch / (self.fixed_ms + self.item_ms * self.max_batch) * 1000


BACKENDS = {
    # digits on one core, measured through the edge: 0.8 ms of CPU per request, protocol included.
    "cpu": Batching(fixed_ms=0.4, item_ms=0.4, max_batch=32),
    # A transformer of some hundred million parameters on a data-centre GPU: an assumption.
    "gpu": Batching(fixed_ms=6.0, item_ms=0.25, max_batch=64),
}


@dataclass(frozen=True, slots=True)
class Costs:
    """What one request costs at each station. Measured unless it says otherwise."""

    gateway_ms: float = 0.05
    """CPU of the proxy in front: an assumption, 20,000 requests/s per core."""

    edge_hit_ms: float = 7.5
    edge_miss_ms: float = 12.8
    """CPU of the Wasm component, policy and records included."""

    store_hit_ops: float = 8.3
    store_miss_ops: float = 10.1
    """Commands to the key-value store, compare-and-swaps apart."""

    store_op_ms: float = 0.01
    """CPU of a command on the store's one thread."""

    store_connect_ms: float = 0.075
    """A compare-and-swap: Spin opens a connection for it, then WATCH, GET, MULTI, SET, EXEC."""

    store_swaps: float = 1.15
    """Compare-and-swaps per request where tenants have limits: one, and now and then another."""

    backend: Batching = BACKENDS["cpu"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """How many of each there are."""

    sites: int = 1
    gateway_cores: int = 2
    edge_pods: int = 2
    edge_cores_per_pod: int = 1
    stores: int = 1
    backends: int = 2
    cache_entries: int = 2048
    """Four per set: the variable cache_sets, times four."""

    def servers(self, station: str) -> int:
        """How many requests a station works on at once, in all sites."""
        per_site = {
            "gateway": self.gateway_cores,
            "edge": self.edge_pods * self.edge_cores_per_pod,
            "store": self.stores,
            "backend": self.backends,
        }
        return self.sites * per_site[station]


@dataclass(slots=True)
class _Station:
    """Servers with one queue in front, first come first served; a batching one takes several."""

    name: str
    servers: int
    batching: Batching | None = None
    waiting: deque[tuple[int, float]] = field(default_factory=deque)
    busy: int = 0
    busy_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulated load met."""

    rps: float
    hits: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    utilization: dict[str, float]

    @property
    def bottleneck(self) -> str | None:
        """The busiest station where that is too busy; None where all keep up."""
        name = max(self.utilization, key=lambda one: self.utilization[one])
        return name if self.utilization[name] >= SATURATED else None


def hit_rate(
    rps: float, entries: int, *, items: int = 100_000, exponent: float = 0.9, ttl_s: float = 300.0
) -> float:
    """Share of requests that a cache answers.

    Args:
        rps: Requests per second that share the cache.
        entries: Answers it holds; the most popular ones, as LRU tends to keep.
        items: Distinct inputs.
        exponent: Of the Zipf law of their popularity.
        ttl_s: How long an answer is fresh.

    Source:
        A cache with a lifetime answers an item of rate r with probability rT / (1 + rT):
        Jung, Berger, Balakrishnan 2003, "Modeling TTL-based Internet caches".
    """
    total = _zipf_total(items, exponent)
    hits = 0.0
    for rank in range(1, entries + 1):
        share = rank**-exponent / total
        expected = rps * share * ttl_s
        hits += share * expected / (1 + expected)
    return hits


@cache
def _zipf_total(items: int, exponent: float) -> float:
    return math.fsum(rank**-exponent for rank in range(1, items + 1))


def simulate(
    rps: float,
    deployment: Deployment,
    costs: Costs,
    *,
    seed: int = 1,
    requests: int | None = None,
    hits: float | None = None,
) -> Outcome:
    """Send `requests` Poisson arrivals at `rps` through the deployment.

    Args:
        rps: Arrivals per second, all sites together, spread evenly.
        deployment: How many servers each station has.
        costs: What a request costs there.
        seed: Of the random numbers.
        requests: How many; the first quarter is not counted. Enough of them where None.
        hits: Share of cache hits; by `hit_rate` where None.
    """
    if hits is None:
        hits = hit_rate(rps / deployment.sites, deployment.cache_entries)
    if requests is None:
        requests = max(REQUESTS, int(rps * SHORTEST_S))
    run = _Run(deployment, costs, Random(seed), hits)
    first = int(requests * WARM_UP)
    arrivals_ms = list(accumulate(run.random.expovariate(rps / 1000) for _ in range(requests)))
    for number, at_ms in enumerate(arrivals_ms):
        run.schedule(at_ms, partial(run.arrive, number))
    run.work_until_idle(arrivals_ms[first], arrivals_ms[-1])
    window_ms = arrivals_ms[-1] - arrivals_ms[first]
    counted = sorted(run.latency_ms[number] for number in range(first, requests))
    return Outcome(
        rps=rps,
        hits=hits,
        mean_ms=math.fsum(counted) / len(counted),
        p50_ms=_quantile(counted, 0.5),
        p99_ms=_quantile(counted, 0.99),
        utilization={
            name: station.busy_ms / (station.servers * window_ms)
            for name, station in run.stations.items()
        },
    )


class _Run:
    """One simulation: stations, the calendar of events, what requests met."""

    def __init__(self, deployment: Deployment, costs: Costs, random: Random, hits: float) -> None:
        self.random = random
        self.latency_ms: dict[int, float] = {}
        self.stations = {
            name: _Station(
                name, deployment.servers(name), costs.backend if name == "backend" else None
            )
            for name in ("gateway", "edge", "store", "backend")
        }
        self._costs = costs
        self._hits = hits
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._serial = 0
        self._path: dict[int, deque[tuple[str, float]]] = {}
        self._arrived_ms: dict[int, float] = {}
        self._window_ms = (0.0, math.inf)

    def schedule(self, at_ms: float, action: Callable[[float], None]) -> None:
        """Let something happen; at one moment, in the order in which it was scheduled."""
        self._serial += 1
        heapq.heappush(self._events, (at_ms, self._serial, action))

    def work_until_idle(self, start_ms: float, end_ms: float) -> None:
        """Let everything happen; work counts for a station's load only between these moments."""
        self._window_ms = (start_ms, end_ms)
        while self._events:
            at_ms, _, action = heapq.heappop(self._events)
            action(at_ms)

    def arrive(self, number: int, now: float) -> None:
        """A request comes in and learns its way."""
        self._arrived_ms[number] = now
        self._path[number] = deque(self._way(self.random.random() < self._hits))
        self._next(number, now)

    def _way(self, hit: bool) -> list[tuple[str, float]]:
        """Stations in order, each with the service time there; a backend's is its batch's."""
        costs = self._costs
        edge_ms = self._spread(costs.edge_hit_ms if hit else costs.edge_miss_ms)
        ops = costs.store_hit_ops if hit else costs.store_miss_ops
        store_ms = ops * costs.store_op_ms + costs.store_swaps * costs.store_connect_ms
        way = [("gateway", costs.gateway_ms), ("edge", edge_ms / 2), ("store", store_ms / 2)]
        if not hit:
            way.append(("backend", 0.0))
        return [*way, ("store", store_ms / 2), ("edge", edge_ms / 2)]

    def _spread(self, mean_ms: float) -> float:
        return self.random.lognormvariate(math.log(mean_ms) - SPREAD**2 / 2, SPREAD)

    def _next(self, number: int, now: float) -> None:
        path = self._path[number]
        if not path:
            del self._path[number]
            self.latency_ms[number] = now - self._arrived_ms.pop(number)
            return
        name, service_ms = path.popleft()
        station = self.stations[name]
        station.waiting.append((number, service_ms))
        self._serve(station, now)

    def _serve(self, station: _Station, now: float) -> None:
        while station.waiting and station.busy < station.servers:
            batch = [station.waiting.popleft()]
            service_ms = batch[0][1]
            if station.batching is not None:
                # Greedy: whatever waits when a replica is free goes with it.
                while station.waiting and len(batch) < station.batching.max_batch:
                    batch.append(station.waiting.popleft())
                service_ms = station.batching.fixed_ms + station.batching.item_ms * len(batch)
            station.busy += 1
            start_ms, end_ms = self._window_ms
            station.busy_ms += max(0.0, min(now + service_ms, end_ms) - max(now, start_ms))
            numbers = [number for number, _ in batch]
            self.schedule(now + service_ms, self._finish(station, numbers))

    def _finish(self, station: _Station, numbers: Sequence[int]) -> Callable[[float], None]:
        def finish(now: float) -> None:
            station.busy -= 1
            for number in numbers:
                self._next(number, now)
            self._serve(station, now)

        return finish


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Step:
    """What broke at a load, and what was done about it."""

    station: str
    remedy: str


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """The most that one site has of each; beyond that the way on is another site."""

    edge_pods: float
    backends: float
    gateway_cores: float
    stores: float


# What the manifests' autoscalers allow, with the one store of a site. A test holds these numbers to
# spinkube/components/autoscaling-keda.
AS_DEPLOYED = SiteLimits(edge_pods=50, backends=8, gateway_cores=16, stores=1)

ONE_SITE = SiteLimits(math.inf, math.inf, math.inf, math.inf)
"""Everything grows in one place, to see what would break there next."""


def climb(
    rps: float,
    deployment: Deployment,
    costs: Costs,
    *,
    limits: SiteLimits = AS_DEPLOYED,
    seed: int = 1,
) -> tuple[list[Step], Deployment, Outcome]:
    """Remedy what breaks, again and again, until the load is carried.

    Returns:
        What broke, in order; the deployment that carries the load; how it fares.
    """
    steps: list[Step] = []
    while True:
        outcome = simulate(rps, deployment, costs, seed=seed)
        station = outcome.bottleneck
        if station is None:
            return steps, deployment, outcome
        remedy, deployment = _remedy(station, rps, deployment, costs, limits)
        if Step(station, remedy) not in steps:
            steps.append(Step(station, remedy))


def _remedy(
    station: str, rps: float, deployment: Deployment, costs: Costs, limits: SiteLimits
) -> tuple[str, Deployment]:
    """The next thing an operator would do about a station that does not keep up."""
    grown = 1.25 / SATURATED
    per_site = rps / deployment.sites
    misses = 1 - hit_rate(per_site, deployment.cache_entries)
    if station == "edge" and deployment.edge_pods < limits.edge_pods:
        work_ms = misses * costs.edge_miss_ms + (1 - misses) * costs.edge_hit_ms
        wanted = math.ceil(per_site * work_ms / 1000 * grown / deployment.edge_cores_per_pod)
        pods = int(min(limits.edge_pods, max(wanted, deployment.edge_pods + 1)))
        return "KEDA or HPA: more pods", replace(deployment, edge_pods=pods)
    if station == "backend" and deployment.backends < limits.backends:
        wanted = math.ceil(per_site * misses / costs.backend.items_per_s * grown)
        count = int(min(limits.backends, max(wanted, deployment.backends + 1)))
        return "KEDA or HPA: more replicas", replace(deployment, backends=count)
    if station == "gateway" and deployment.gateway_cores < limits.gateway_cores:
        cores = int(min(limits.gateway_cores, deployment.gateway_cores * 2))
        return "more proxies of the Gateway", replace(deployment, gateway_cores=cores)
    if station == "store" and deployment.stores < limits.stores:
        return "Redis Cluster behind a proxy", replace(deployment, stores=deployment.stores * 2)
    # A site has given all it has. Sites share nothing on the request path, so they simply add up.
    sites = max(deployment.sites + 1, math.ceil(deployment.sites * 1.25))
    return "more sites, a store each", replace(deployment, sites=sites)


def report(
    base_rps: float,
    costs: Costs,
    *,
    limits: SiteLimits = AS_DEPLOYED,
    factors: Sequence[int] = FACTORS,
    seed: int = 1,
) -> str:
    """A table of docs/scale.md, as Markdown."""
    columns = ["Load", "Hits", "As deployed: p50 / p99 ms", "Breaks, in order, and the remedy"]
    columns += ["Carries it", "p50 / p99 ms"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for factor in factors:
        rps = base_rps * factor
        start = simulate(rps, Deployment(), costs, seed=seed)
        steps, carrying, outcome = climb(rps, Deployment(), costs, limits=limits, seed=seed)
        broken = "; ".join(f"{step.station}: {step.remedy}" for step in steps) or "nothing"
        lines.append(
            f"| {factor:,}× ({rps:,.0f}/s) | {outcome.hits:.0%} "
            f"| {_latency(start)} | {broken} "
            f"| {_size(carrying)} | {_latency(outcome)} |"
        )
    return "\n".join(lines)


def _latency(outcome: Outcome) -> str:
    if outcome.bottleneck is not None:
        return "grows without end"
    return f"{outcome.p50_ms:.0f} / {outcome.p99_ms:.0f}"


def _size(one: Deployment) -> str:
    sites = f"{one.sites} sites of " if one.sites > 1 else ""
    stores = f", {one.stores} store shards" if one.stores > 1 else ""
    return f"{sites}{one.edge_pods} edge pods, {one.backends} backends{stores}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base-rps", type=float, default=100.0, help="requests/s at 1×")
    parser.add_argument("--backend", choices=sorted(BACKENDS), default="cpu")
    parser.add_argument("--one-site", action="store_true", help="let one site grow without limit")
    parser.add_argument(
        "--swaps", type=float, default=Costs().store_swaps, help="compare-and-swaps per request"
    )
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args(arguments)
    if parsed.base_rps <= 0:
        parser.error("--base-rps must be positive")
    costs = Costs(backend=BACKENDS[parsed.backend], store_swaps=parsed.swaps)
    limits = ONE_SITE if parsed.one_site else AS_DEPLOYED
    print(report(parsed.base_rps, costs, limits=limits, seed=parsed.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())

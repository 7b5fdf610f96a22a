"""The scale simulation: right where theory knows the answer, repeatable, true to the manifests."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest

from k8s.rendered import REPOSITORY, load
from simulate_scale import (
    AS_DEPLOYED,
    BACKENDS,
    ONE_SITE,
    Batching,
    Costs,
    Deployment,
    climb,
    hit_rate,
    report,
    simulate,
)

FREE = Costs(gateway_ms=1e-9, edge_hit_ms=1e-6, edge_miss_ms=1e-6, store_op_ms=0, store_swaps=0)


def test_simulate_same_seed_gives_the_same_outcome() -> None:
    first, again, other = (
        simulate(150, Deployment(), Costs(), seed=seed, requests=2000) for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_simulate_deterministic_server_waits_as_pollaczek_and_khinchine_say() -> None:
    """M/D/1 at 70 %: the mean time in the system is s + s·rho / (2(1 - rho))."""
    service_ms, load = 1.0, 0.7
    costs = Costs(
        gateway_ms=service_ms, edge_hit_ms=1e-6, edge_miss_ms=1e-6, store_op_ms=0, store_swaps=0
    )
    deployment = Deployment(gateway_cores=1, edge_pods=1000)
    outcome = simulate(load / service_ms * 1000, deployment, costs, requests=60_000, hits=1.0)
    expected_mean = service_ms + service_ms * load / (2 * (1 - load))
    assert outcome.mean_ms == pytest.approx(expected_mean, rel=0.05)
    assert outcome.utilization["gateway"] == pytest.approx(load, rel=0.03)


@pytest.mark.parametrize("rps", [50, 120, 200])
def test_simulate_utilization_is_load_times_service_over_servers(rps: float) -> None:
    outcome = simulate(rps, Deployment(edge_pods=4), Costs(), requests=6000, hits=0.5)
    edge_ms = (Costs().edge_hit_ms + Costs().edge_miss_ms) / 2
    assert outcome.utilization["edge"] == pytest.approx(rps * edge_ms / 1000 / 4, rel=0.06)


def test_simulate_batches_carry_what_single_items_could_not() -> None:
    batching = Batching(fixed_ms=10, item_ms=0.1, max_batch=32)
    costs = replace(FREE, backend=batching)
    alone_per_s = 1000 / (10 + 0.1)
    outcome = simulate(10 * alone_per_s, Deployment(backends=1), costs, requests=8000, hits=0.0)
    assert outcome.p99_ms < 40
    assert batching.items_per_s > 10 * alone_per_s


def test_simulate_overload_is_a_bottleneck_with_growing_latency() -> None:
    half = simulate(1000, Deployment(), Costs(), requests=2000)
    full = simulate(1000, Deployment(), Costs(), requests=4000)
    assert half.bottleneck == full.bottleneck == "edge"
    assert full.p99_ms > 1.5 * half.p99_ms


def test_simulate_a_quiet_system_has_no_bottleneck() -> None:
    outcome = simulate(20, Deployment(), Costs(), requests=2000)
    assert outcome.bottleneck is None
    assert outcome.p50_ms < 20


@pytest.mark.parametrize("entries", [0, 1, 2048, 100_000])
def test_hit_rate_is_a_share_and_grows_with_load(entries: int) -> None:
    rates = [hit_rate(rps, entries) for rps in (0.1, 1, 10, 1000)]
    assert all(0 <= rate < 1 for rate in rates)
    assert rates == sorted(rates)


def test_hit_rate_of_one_item_is_the_ttl_law() -> None:
    rate = hit_rate(2.0, 1, items=1, ttl_s=10)
    assert math.isclose(rate, 20 / 21)


def test_climb_ends_with_a_deployment_that_keeps_up() -> None:
    steps, deployment, outcome = climb(5000, Deployment(), Costs())
    assert outcome.bottleneck is None
    assert deployment.edge_pods <= AS_DEPLOYED.edge_pods
    assert [step.station for step in steps][:1] == ["edge"]


def test_climb_one_site_needs_shards_where_many_sites_need_none() -> None:
    _, many, _ = climb(20_000, Deployment(), Costs())
    steps, one, _ = climb(20_000, Deployment(), Costs(), limits=ONE_SITE)
    assert (many.stores, one.sites) == (1, 1)
    assert many.sites > 1
    assert one.stores > 1
    assert "store" in {step.station for step in steps}


def test_limits_are_those_of_the_autoscalers() -> None:
    objects = load("production")
    most = {
        name: objects.get("ScaledObject", name)["spec"]["maxReplicaCount"]
        for name in ("edge", "gpu-backend")
    }
    assert (AS_DEPLOYED.edge_pods, AS_DEPLOYED.backends) == (most["edge"], most["gpu-backend"])
    start = load("base")
    assert Deployment().edge_pods == start.get("SpinApp", "inference-anywhere")["spec"]["replicas"]
    assert Deployment().backends == start.get("Deployment", "gpu-backend")["spec"]["replicas"]
    assert start.get("StatefulSet", "redis")["spec"]["replicas"] == AS_DEPLOYED.stores


def test_cache_is_as_large_as_the_application_says() -> None:
    variables = tomllib.loads((REPOSITORY / "spin.toml").read_text())["variables"]
    assert Deployment().cache_entries == 4 * int(variables["cache_sets"]["default"])


def tables() -> list[str]:
    text = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
    return [match[0].strip() for match in re.finditer(r"^\| Load .*?(?=\n\n)", text, re.M | re.S)]


DOCUMENTED = (
    (Costs(), AS_DEPLOYED),
    (Costs(), ONE_SITE),
    (Costs(backend=BACKENDS["gpu"]), AS_DEPLOYED),
)


def test_document_first_rows_are_what_the_simulation_prints() -> None:
    found = ["\n".join(table.splitlines()[:4]) for table in tables()]
    expected = [report(100, costs, limits=limits, factors=(1, 10)) for costs, limits in DOCUMENTED]
    assert found == expected


@pytest.mark.slow
def test_document_tables_are_what_the_simulation_prints() -> None:
    assert tables() == [report(100, costs, limits=limits) for costs, limits in DOCUMENTED]


def test_command_line_refuses_no_load() -> None:
    command = [sys.executable, "scripts/simulate_scale.py", "--base-rps", "0"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--base-rps must be positive" in done.stderr

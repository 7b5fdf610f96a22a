"""`/metrics` in Prometheus' text format, read from the counters when it is asked for.

Labels are bounded: models of the repository, outcomes of the error table, providers of the
build. A name from a URL never becomes a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from gpu_backend.batching.stats import Histogram, ModelStats
from gpu_backend.repository.repository import Repository
from gpu_backend.repository.slot import ModelSlot

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The registry of one backend."""

    def __init__(self, repository: Repository, *more: Collector) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(_ModelCollector(repository))
        for collector in more:
            self._registry.register(collector)

    def render(self) -> bytes:
        """Every metric as text."""
        return generate_latest(self._registry)


class _ModelCollector(Collector):
    """Turns the counters of every model into metric families."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: models come and go."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family with its current values."""
        slots = self._repository.slots()
        yield _requests(slots)
        yield _counter("executions", "Executions of the runtime", slots, lambda s: s.executions)
        yield _counter("rows", "Rows computed", slots, lambda s: s.rows)
        yield _counter(
            "collapsed_requests",
            "Requests answered by an identical one in flight",
            slots,
            lambda s: s.collapsed,
        )
        yield _counter(
            "dropped_items",
            "Items taken out of the queue before they ran",
            slots,
            lambda s: s.dropped,
        )
        yield _counter(
            "isolated_batches", "Batches run again item by item", slots, lambda s: s.isolated
        )
        yield _histogram(
            "request_duration_seconds", "Time in the backend", slots, lambda s: s.request_s
        )
        yield _histogram("queue_duration_seconds", "Time in the queue", slots, lambda s: s.queue_s)
        yield _histogram(
            "compute_duration_seconds", "Time per execution", slots, lambda s: s.compute_s
        )
        yield _histogram("batch_rows", "Rows per execution", slots, lambda s: s.batch_rows)
        yield from self._states(slots)

    def _states(self, slots: list[ModelSlot]) -> Iterator[Metric]:
        queued = GaugeMetricFamily("backend_queue_items", "Items that wait", labels=["model"])
        info = GaugeMetricFamily(
            "backend_model_info",
            "1 for every version that serves, with the provider it runs on",
            labels=["model", "version", "digest", "provider_requested", "provider"],
        )
        degraded = GaugeMetricFamily(
            "backend_provider_degraded",
            "1 where an accelerator was meant to be used and is not",
            labels=["model"],
        )
        nodes = GaugeMetricFamily(
            "backend_nodes",
            "Nodes of the graph by the provider that ran them at load",
            labels=["model", "provider"],
        )
        load_s = GaugeMetricFamily(
            "backend_load_duration_seconds", "Time of loading and warm-up", labels=["model"]
        )
        files = GaugeMetricFamily(
            "backend_model_bytes", "Size of the files of what is loaded", labels=["model"]
        )
        for slot in slots:
            model = slot.active
            if model is None:
                continue
            status = model.session.status
            queued.add_metric([slot.name], sum(m.batcher.queued for m in slot.serving.values()))
            degraded.add_metric([slot.name], float(status.degraded))
            load_s.add_metric([slot.name], model.load_s)
            files.add_metric([slot.name], sum(m.size_bytes for m in slot.serving.values()))
            for served in slot.serving.values():
                status = served.session.status
                info.add_metric(
                    [
                        slot.name,
                        str(served.version),
                        served.digest,
                        status.requested,
                        status.active,
                    ],
                    1.0,
                )
            for provider, count in model.placement.nodes.items():
                nodes.add_metric([slot.name, provider], count)
        yield from (queued, info, degraded, nodes, load_s, files)


def _requests(slots: list[ModelSlot]) -> Metric:
    family = CounterMetricFamily(
        "backend_requests", "Requests by outcome", labels=["model", "outcome"]
    )
    for slot in slots:
        for outcome, count in slot.stats.requests.items():
            family.add_metric([slot.name, outcome], count)
    return family


def _counter(
    noun: str, text: str, slots: list[ModelSlot], value: Callable[[ModelStats], int]
) -> Metric:
    family = CounterMetricFamily(f"backend_{noun}", text, labels=["model"])
    for slot in slots:
        family.add_metric([slot.name], value(slot.stats))
    return family


def _histogram(
    noun: str, text: str, slots: list[ModelSlot], value: Callable[[ModelStats], Histogram]
) -> Metric:
    family = HistogramMetricFamily(f"backend_{noun}", text, labels=["model"])
    for slot in slots:
        histogram = value(slot.stats)
        reached = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            reached += count
            buckets.append((str(bound), reached))
        family.add_metric([slot.name], buckets, histogram.total)
    return family

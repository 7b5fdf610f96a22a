"""Metrics of language models: requests, tokens, and how long clients wait for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gpu_backend.batching.stats import Histogram
from gpu_backend.llm.language_models import LanguageModels, Served
from gpu_backend.llm.stats import GenerationStats

__all__ = ["LanguageModelCollector"]


class LanguageModelCollector(Collector):
    """Turns the accounts of every language model into metric families.

    The label is the name of a manifest: models of another server count together, because their
    names come from outside.
    """

    def __init__(self, models: LanguageModels) -> None:
        self._models = models

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: models come and go."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family with its current values."""
        served = self._models.served()
        requests = CounterMetricFamily(
            "backend_generation_requests",
            "Generations by outcome",
            labels=["model", "outcome"],
        )
        tokens = CounterMetricFamily(
            "backend_generation_tokens",
            "Tokens of prompts and of generated texts",
            labels=["model", "kind"],
        )
        running = GaugeMetricFamily(
            "backend_generations", "Generations that run or wait", labels=["model"]
        )
        loaded = GaugeMetricFamily(
            "backend_language_model_loaded", "1 while the model is in memory", labels=["model"]
        )
        for model in served:
            for outcome, count in model.stats.requests.items():
                requests.add_metric([model.name, outcome], count)
            tokens.add_metric([model.name, "prompt"], model.stats.prompt_tokens)
            tokens.add_metric([model.name, "completion"], model.stats.completion_tokens)
            running.add_metric([model.name], model.gate.inside)
            loaded.add_metric([model.name], float(model.engine.is_loaded))
        yield from (requests, tokens, running, loaded)
        yield _histogram(
            "first_token_seconds", "Time to the first text", served, lambda s: s.first_token_s
        )
        yield _histogram("queue_seconds", "Time until a slot was free", served, lambda s: s.queue_s)
        yield _histogram(
            "duration_seconds", "Time to the end of a generation", served, lambda s: s.duration_s
        )


def _histogram(
    noun: str, text: str, served: list[Served], value: Callable[[GenerationStats], Histogram]
) -> Metric:
    family = HistogramMetricFamily(f"backend_generation_{noun}", text, labels=["model"])
    for model in served:
        histogram = value(model.stats)
        reached = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            reached += count
            buckets.append((str(bound), reached))
        family.add_metric([model.name], buckets, histogram.total)
    return family

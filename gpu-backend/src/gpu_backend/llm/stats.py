"""What a language model has done since the start; written on the event loop alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpu_backend.batching.stats import DURATION_S, Histogram
from gpu_backend.llm.engine import Usage

__all__ = ["GenerationStats"]


@dataclass(eq=False, slots=True)
class GenerationStats:
    """Of one model.

    Attributes:
        requests: That ended, by outcome: ``ok`` or the code of the error.
        prompt_tokens: That were read.
        completion_tokens: That were generated.
        first_token_s: Seconds from the request to its first text.
        queue_s: Seconds of waiting for a slot, where the engine tells.
        duration_s: Seconds from the request to its end.
    """

    requests: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: Histogram = field(default_factory=lambda: Histogram(DURATION_S))
    queue_s: Histogram = field(default_factory=lambda: Histogram(DURATION_S))
    duration_s: Histogram = field(default_factory=lambda: Histogram(DURATION_S))

    def ended(self, outcome: str, seconds: float) -> None:
        """Count one request."""
        self.requests[outcome] = self.requests.get(outcome, 0) + 1
        self.duration_s.observe(seconds)

    def used(self, usage: Usage) -> None:
        """Count the tokens of one complete text."""
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        if usage.queue_s is not None:
            self.queue_s.observe(usage.queue_s)

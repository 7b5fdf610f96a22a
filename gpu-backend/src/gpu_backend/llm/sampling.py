"""The next token from logits: greedy, or drawn from a narrowed distribution.

The order is that of GenAI and of most engines: bias and penalties, top-k, temperature, top-p and
min-p. Greedy is the plain argmax, and so equals GenAI's.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_backend.llm.engine import Sampling, TokenScore
from gpu_backend.llm.genai_folder import GenAIFolder
from gpu_backend.llm.token_bytes import TokenBytes

__all__ = ["Choice", "Logits", "Sampler", "resolve", "score"]

Logits = NDArray[np.float32]

_SEED_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Choice:
    """Sampling with every default filled in.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 is no bound.
        top_p: 1 is no bound.
        min_p: 0 is no bound.
        seed: None draws one.
        presence_penalty: 0 changes nothing; likewise `frequency_penalty`.
        repetition_penalty: 1 changes nothing.
        logit_bias: By token.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def is_greedy(self) -> bool:
        """The most probable token is always taken."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def is_adjusted(self) -> bool:
        """Logits are changed before a token is chosen."""
        return bool(
            self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1.0
            or self.logit_bias
        )


def resolve(given: Sampling, folder: GenAIFolder) -> Choice:
    """What a request says, completed by the folder's own `search` section."""
    search = folder.search

    def default(value: float | None, key: str, otherwise: float) -> float:
        return float(search.get(key, otherwise)) if value is None else value

    temperature = given.temperature
    if temperature is None:
        temperature = float(search.get("temperature", 1.0)) if folder.does_sample else 0.0
    return Choice(
        temperature=temperature,
        # -1 is no bound to many servers, and neither is more than there is; GenAI refuses both.
        top_k=min(max(0, int(default(given.top_k, "top_k", 0))), folder.vocab_size),
        top_p=default(given.top_p, "top_p", 1.0),
        min_p=given.min_p or 0.0,
        seed=given.seed,
        presence_penalty=given.presence_penalty or 0.0,
        frequency_penalty=given.frequency_penalty or 0.0,
        repetition_penalty=default(given.repetition_penalty, "repetition_penalty", 1.0),
        logit_bias=tuple(given.logit_bias.items()),
    )


class Sampler:
    """Chooses the tokens of one text.

    Args:
        choice: How.
        prompt: Its tokens, which count for the repetition penalty.
    """

    def __init__(self, choice: Choice, prompt: NDArray[np.int32]) -> None:
        self._choice = choice
        self._random = None if choice.is_greedy else _random(choice.seed)
        self._counts: Counter[int] = Counter()
        self._prompt = np.unique(prompt) if choice.repetition_penalty != 1.0 else None

    @property
    def is_plain(self) -> bool:
        """The argmax of the logits as they are: a whole batch can be chosen at once."""
        return self._choice.is_greedy and not self._choice.is_adjusted

    def choose(self, logits: Logits) -> int:
        """The next token.

        Args:
            logits: Shape (vocabulary,); left as they are.
        """
        choice = self._choice
        if choice.is_adjusted:
            logits = self._adjust(logits.copy())
        token = int(logits.argmax()) if self._random is None else self._draw(logits)
        if choice.is_adjusted:
            self._counts[token] += 1
        return token

    def _adjust(self, logits: Logits) -> Logits:
        choice = self._choice
        if self._prompt is not None:
            seen = np.union1d(self._prompt, np.fromiter(self._counts, np.int64))
            seen = seen[seen < len(logits)]
            part = logits[seen]
            penalty = choice.repetition_penalty
            logits[seen] = np.where(part > 0, part / penalty, part * penalty)
        for token, count in self._counts.items():
            logits[token] -= choice.presence_penalty + choice.frequency_penalty * count
        for token, bias in choice.logit_bias:
            if 0 <= token < len(logits):
                logits[token] += bias
        return logits

    def _draw(self, logits: Logits) -> int:
        choice = self._choice
        assert self._random is not None
        size = len(logits)
        if choice.top_k in (0, size) and choice.top_p >= 1.0 and choice.min_p == 0.0:
            # Nothing is left out: the order does not matter, and sorting is most of the work.
            weights = np.exp((logits - logits.max()).astype(np.float64) / choice.temperature)
            reached = np.cumsum(weights)
            at = int(np.searchsorted(reached, self._random.random() * reached[-1], side="right"))
            return min(at, size - 1)
        kept = min(choice.top_k or size, size)
        if kept < size:
            tokens = np.argpartition(logits, size - kept)[size - kept :]
        else:
            tokens = np.arange(size)
        order = tokens[np.argsort(-logits[tokens], kind="stable")]
        # Subtracting first keeps tiny temperatures from overflowing: the best becomes 0.
        scaled = (logits[order] - logits[order[0]]).astype(np.float64) / choice.temperature
        weights = np.exp(scaled)
        weights /= weights.sum()
        if choice.top_p < 1.0:
            # The token that crosses the bound belongs to the set, so it is never empty.
            until = int(np.searchsorted(np.cumsum(weights), choice.top_p)) + 1
            weights = weights[:until]
        if choice.min_p > 0.0:
            weights = weights[weights >= choice.min_p * weights[0]]
        reached = np.cumsum(weights)
        at = int(np.searchsorted(reached, self._random.random() * reached[-1], side="right"))
        return int(order[min(at, len(weights) - 1)])


def _random(seed: int | None) -> np.random.Generator:
    """Every whole number is a seed to clients, negative ones too."""
    return np.random.default_rng(None if seed is None else seed & _SEED_BITS)


def score(logits: Logits, token: int, count: int, tokens: TokenBytes) -> TokenScore:
    """How probable `token` was, and the `count` most probable ones beside it.

    Args:
        logits: As the model gave them, shape (vocabulary,).
        token: That was chosen.
        count: Of alternatives.
        tokens: Names them.
    """
    largest = float(logits.max())
    total = largest + math.log(float(np.exp(logits - largest, dtype=np.float64).sum()))
    best = []
    if count:
        candidates = np.argpartition(logits, -count)[-count:]
        for other in candidates[np.argsort(-logits[candidates], kind="stable")]:
            number = int(other)
            best.append((tokens.text(number), float(logits[number]) - total, tokens[number]))
    return TokenScore(tokens.text(token), float(logits[token]) - total, tokens[token], tuple(best))

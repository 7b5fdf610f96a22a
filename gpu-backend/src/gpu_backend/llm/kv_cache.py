"""The shared key/value buffer: one row per text, all rows in one block of memory per layer.

A decode step takes the first rows of the buffer as they lie, so the rows in use stay together:
when a text ends, the last one moves into its place. The attention operator reads the past and
writes the present in the same buffer (past_present_share_buffer), so nothing is copied per step.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["CachePlan", "KVCache", "plan_cache"]


@dataclass(frozen=True, slots=True)
class CachePlan:
    """How many texts of what length fit a memory budget."""

    rows: int
    context_length: int


def plan_cache(rows: int, context_length: int, token_bytes: int, budget_bytes: int) -> CachePlan:
    """The most rows up to `rows` whose whole context fits; a shorter context if not even one does.

    Args:
        rows: Wanted.
        context_length: Of the model.
        token_bytes: Keys and values of one token in all layers.
        budget_bytes: For the buffer.
    """
    tokens = max(1, budget_bytes // token_bytes)
    if tokens < context_length:
        return CachePlan(1, tokens)
    return CachePlan(min(rows, tokens // context_length), context_length)


class KVCache:
    """Buffers for every layer's keys and values.

    Memory is taken when it is first written, not here: an idle cache costs next to nothing.

    Args:
        names: Of the buffers, one per key or value input of the graph.
        plan: Rows and tokens per row.
        heads: Key/value heads per layer.
        head_size: Of each head.
        dtype: Of keys and values.
    """

    def __init__(
        self, names: Items[str], plan: CachePlan, heads: int, head_size: int, dtype: DTypeLike
    ) -> None:
        self.shape = (plan.rows, heads, plan.context_length, head_size)
        self.buffers: dict[str, NDArray[np.generic]] = {
            name: np.zeros(self.shape, dtype) for name in names
        }

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` of row `source` to row `target`."""
        for buffer in self.buffers.values():
            buffer[target, :, :tokens] = buffer[source, :, :tokens]

"""How requests of one model are put together. Pure data; each default has its reason."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BatchPolicy", "Padding"]


@dataclass(frozen=True, slots=True)
class Padding:
    """Items of unlike length may share a batch: shorter ones are filled up along one axis.

    Attributes:
        axis: Of each input, the batch axis being 0; 1 is the sequence axis of text models.
        values: Fill value by input name; inputs not named are filled with 0, which for
            attention masks and WordPiece's [PAD] is what is meant.
        outputs: Outputs whose same axis is cut back to the item's own length.
    """

    axis: int = 1
    values: tuple[tuple[str, float], ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """What one execution takes from the queue.

    Attributes:
        max_batch: Rows in one execution; a bigger request is cut into parts. 64, because past it
            CPU throughput is flat while latency keeps growing.
        max_delay_us: How long the first item waits for company. 0 is greedy: whatever waits goes
            as soon as the executor is free; a delay costs latency at low load and buys nothing
            at high load, where items gather by themselves.
        preferred_rows: Batch sizes worth stopping at, ascending; with a delay set, reaching one
            ends the wait. Empty, because most models have none.
        token_budget: Bound of rows x longest length in one execution; 0 means none. For padded
            batches, where rows alone do not say what an execution costs.
        padding: None keeps items of unlike shape apart.
        instances: Executions that may run at once. 1, because one already uses every core.
        single_flight: Compute identical requests that are in flight at the same time once. On;
            switch it off for models that answer at random.
    """

    max_batch: int = 64
    max_delay_us: int = 0
    preferred_rows: tuple[int, ...] = ()
    token_budget: int = 0
    padding: Padding | None = None
    instances: int = 1
    single_flight: bool = True

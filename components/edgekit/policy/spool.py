"""A bounded queue of records in the key-value store, safe against death at any operation.

    spool/tail     counter: sequence numbers given out
    spool/head     everything below is delivered or was never there
    spool/r/<seq>  one record
    spool/s/<seq>  mark: this number is being passed over
    spool/dropped  counter: records refused because the queue was full
    spool/id       name of this queue, made once

Rules, which together give *accepted = delivered exactly once + spooled + counted drops*:

1. A sequence number is used once. Deleting a delivered record can therefore never hit another.
2. A record is accepted when it is written and, *after that*, neither its number is marked nor the
   head is past it. Before it passes over a number without a record (its writer died, or is about
   to write), a flusher marks the number and, *after that*, looks for the record again. So at least
   one of the two sees the other: the flusher delivers the record, or the writer writes it again
   under a new number, or both; the backend keeps one record per id.
3. The head moves only by compare-and-swap from the value the flusher began with, and only over
   numbers that this flusher delivered or passed over.
4. Delivered records are deleted at the beginning of the next flush, which knows their range from
   the head. So a crash leaves at most one batch of them behind, and the next flush takes it away.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.policy.counters import read_counter
from edgekit.ports import KeyValueStore, RandomSource

__all__ = ["Appended", "Batch", "Spool", "SpoolShape"]

_HEAD, _TAIL, _DROPPED, _ID = "spool/head", "spool/tail", "spool/dropped", "spool/id"
_ATTEMPTS = 8


class Appended(enum.Enum):
    """Outcome of an append."""

    ACCEPTED = "accepted"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class SpoolShape:
    """Bounds of the queue.

    Attributes:
        capacity: Records held at most (beyond it by as many as append at one moment): 50,000
            are two hours and a quarter at 6 requests a second, in about 20 MB.
        batch: Records per delivery.
        batch_bytes: Bytes per delivery, unless its first record alone has more.
    """

    capacity: int = 50_000
    batch: int = 64
    batch_bytes: int = 524_288


@dataclass(frozen=True, slots=True)
class Batch:
    """What one delivery carries.

    Attributes:
        spool: Name of this queue, made once.
        dropped: Records this queue refused since it exists.
        records: In the order they were accepted.
    """

    spool: str
    dropped: int
    records: tuple[bytes, ...]


class Spool:
    """The queue. Every method may raise StoreUnavailableError."""

    def __init__(self, store: KeyValueStore, random: RandomSource, shape: SpoolShape) -> None:
        self._store = store
        self._random = random
        self._shape = shape

    def append(self, record: bytes) -> Appended:
        """Accept `record`, or count it as dropped when the queue is full; four operations."""
        head, tail = (read_counter(raw) for raw in self._store.get_many([_HEAD, _TAIL]))
        if tail - head < self._shape.capacity:
            for _ in range(_ATTEMPTS):
                seq = self._store.increment(_TAIL, 1) - 1
                self._store.set(_record_key(seq), record)
                # In this order: marks are deleted once the head is past them, so a mark that is
                # gone already shows in the head read after it, where a batch is no atomic read.
                mark, head_raw = self._store.get_many([_mark_key(seq), _HEAD])
                if mark is None and read_counter(head_raw) <= seq:
                    return Appended.ACCEPTED
                self._store.delete(_record_key(seq))
        self._store.increment(_DROPPED, 1)
        return Appended.DROPPED

    def depth(self) -> int:
        """Records that wait, numbers without a record included."""
        head, tail = (read_counter(raw) for raw in self._store.get_many([_HEAD, _TAIL]))
        return max(0, tail - head)

    def flush(self, deliver: Callable[[Batch], bool]) -> int:
        """Deliver the oldest batch; at most five operations, or seven past a number without record.

        Args:
            deliver: Hands a batch to the backend; True only when it is durable there.

        Returns:
            How far the head moved: 0 when nothing waited, delivery failed, or another flusher was
            quicker. Whatever was delivered in vain is delivered again, under the same ids.
        """
        names = [_HEAD, _TAIL, _DROPPED, _ID]
        head_raw, tail_raw, dropped_raw, name_raw = self._store.get_many(names)
        head, tail = read_counter(head_raw), read_counter(tail_raw)
        self._clean_up(head)
        end = min(tail, head + self._shape.batch)
        if end <= head:
            return 0
        found = self._collect(head, end)
        records = [record for record in found if record is not None]
        if records:
            batch = Batch(self._name(name_raw), read_counter(dropped_raw), tuple(records))
            if not deliver(batch):
                return 0
        moved = self._store.compare_and_swap(_HEAD, head_raw, b"%d" % (head + len(found)))
        return len(found) if moved else 0

    def _collect(self, head: int, end: int) -> list[bytes | None]:
        """Records from `head` on, as many as one delivery may carry; None where there is none."""
        keys = [_record_key(seq) for seq in range(head, end)]
        found = self._store.get_many(keys)
        holes = [index for index, record in enumerate(found) if record is None]
        if holes:
            self._store.set_many([(_mark_key(head + index), b"1") for index in holes])
            again = self._store.get_many([keys[index] for index in holes])
            for index, record in zip(holes, again, strict=True):
                found[index] = record
        sizes = itertools.accumulate(len(record or b"") for record in found)
        fitting = sum(size <= self._shape.batch_bytes for size in sizes)
        # A first record larger than the limit still has to go, alone.
        return found[: max(1, fitting)]

    def _clean_up(self, head: int) -> None:
        """Delete what lies just below the head: it is settled, see rule 4."""
        done = range(max(0, head - self._shape.batch), head)
        if done:
            self._store.delete_many(
                [key for seq in done for key in (_record_key(seq), _mark_key(seq))]
            )

    def _name(self, raw: bytes | None) -> str:
        if raw is not None:
            return raw.decode()
        name = self._random.token_bytes(8).hex()
        # Whoever loses this race names the queue in vain and leaves the name out once.
        return name if self._store.compare_and_swap(_ID, None, name.encode()) else ""


def _record_key(seq: int) -> str:
    return f"spool/r/{seq}"


def _mark_key(seq: int) -> str:
    return f"spool/s/{seq}"

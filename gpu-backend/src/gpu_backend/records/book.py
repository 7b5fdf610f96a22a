"""Inference records in SQLite: durable once accepted, and one per id however often delivered.

WAL lets readers go on while a batch is written. `synchronous=FULL` makes a commit reach the disk
before the edge is told that it may forget its copy; in WAL that is one fsync per batch. The oldest
records are deleted beyond a bound, a batch's worth at a time, so no request pays for a long purge.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COLUMNS", "RecordBook", "RecordSummary", "Stored"]

COLUMNS: Mapping[str, tuple[type, ...]] = {
    "time_ms": (int,),
    "tenant": (str,),
    "route": (str,),
    "model": (str,),
    "model_version": (str,),
    "model_digest": (str,),
    "tier": (str,),
    "reason": (str,),
    "cache": (str,),
    "status": (int,),
    "latency_ms": (int, float),
    "confidence": (int, float),
    "class_id": (int,),
    "tokens": (int,),
    "cost_micro": (int,),
    "request_id": (str,),
    "payload": (str,),
}
"""What a record may say beside its id, with the types each value may have."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS records (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    {", ".join(COLUMNS)}
);
CREATE TABLE IF NOT EXISTS spools (name TEXT PRIMARY KEY, dropped INTEGER NOT NULL);
"""

_INSERT = (
    f"INSERT OR IGNORE INTO records (id, {', '.join(COLUMNS)}) "
    f"VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"
)

_BUSY_S = 5.0


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch."""

    accepted: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """What the book holds.

    Attributes:
        records: Kept.
        dropped: Counted by edges that could not keep theirs, over all spools.
    """

    records: int
    dropped: int


class RecordBook:
    """One file of records. Methods block on the disk and may be called from any thread.

    Args:
        path: The file; its folder is made where it is missing.
        keep: Records beyond which the oldest are deleted.

    Raises:
        OSError: The folder cannot be made.
        sqlite3.Error: The file cannot be opened, or is none of SQLite's.
    """

    def __init__(self, path: Path, keep: int = 1_000_000) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)
        self._add_new_columns()

    def add(self, records: Sequence[Mapping[str, object]], spool: str, dropped: int) -> Stored:
        """Keep `records`, each of which has an id; durable on return.

        Args:
            records: Those whose id is here already are left out.
            spool: Name of the queue they come from; empty when it has none.
            dropped: Records that queue dropped since it exists.

        Raises:
            sqlite3.Error: Nothing of the batch was kept.
        """
        rows = [[record["id"], *(record.get(name) for name in COLUMNS)] for record in records]
        with self._lock, self._connection as database:
            accepted = database.executemany(_INSERT, rows).rowcount if rows else 0
            if spool:
                database.execute(
                    "INSERT INTO spools VALUES (?, ?) ON CONFLICT (name) "
                    "DO UPDATE SET dropped = max(dropped, excluded.dropped)",
                    (spool, dropped),
                )
            self._prune(database, 2 * max(accepted, 1))
        return Stored(accepted, len(rows) - accepted)

    def summary(self) -> RecordSummary:
        """Counts over everything kept."""
        with self._lock:
            row = self._connection.execute(
                "SELECT (SELECT count(*) FROM records), (SELECT total(dropped) FROM spools)"
            ).fetchone()
        return RecordSummary(int(row[0]), int(row[1]))

    def latest(self, count: int) -> list[dict[str, object]]:
        """The records that arrived last, newest first; absent values left out, payloads too."""
        names = ["id", *(name for name in COLUMNS if name != "payload")]
        with self._lock:
            rows = self._connection.execute(
                f"SELECT {', '.join(names)} FROM records ORDER BY number DESC LIMIT ?", (count,)
            ).fetchall()
        return [
            {name: value for name, value in zip(names, row, strict=True) if value is not None}
            for row in rows
        ]

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._connection.close()

    def _add_new_columns(self) -> None:
        """A file that an earlier version made lacks what has been added since."""
        rows = self._connection.execute("SELECT name FROM pragma_table_info('records')")
        present = {name for (name,) in rows}
        for name in COLUMNS:
            if name not in present:
                self._connection.execute(f"ALTER TABLE records ADD COLUMN {name}")

    def _prune(self, database: sqlite3.Connection, most: int) -> None:
        (newest,) = database.execute("SELECT coalesce(max(number), 0) FROM records").fetchone()
        # Ids of duplicates use up no number: INSERT OR IGNORE gives none out.
        database.execute(
            "DELETE FROM records WHERE number IN "
            "(SELECT number FROM records WHERE number <= ? ORDER BY number LIMIT ?)",
            (newest - self._keep, most),
        )

"""A store in a SQLite file, in the form of Spin's own: both can use one file.

Calls that overlap have a connection each, so reads never wait for each other; there are as many
connections as calls have ever overlapped, which are far fewer than guests. Writers of this process
queue at a lock instead of at SQLite's busy handler, which sleeps for milliseconds between tries;
other processes are waited for by that handler. Both waits end at `_BUSY_TIMEOUT_S`.

The journal is a write-ahead log with ``synchronous=NORMAL``: a crash of the machine may lose the
last writes, never the consistency of the file; a crash of the host loses nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from edgehost.errors import StoreError
from edgehost.keyvalue.limits import (
    AnswerSize,
    check_entry,
    check_key,
    counter_from_bytes,
    counter_to_bytes,
    sum_in_64_bits,
)

__all__ = ["SqliteDatabase", "SqliteStore"]

_BUSY_TIMEOUT_S = 5.0
_RETRY_OPEN_S = 0.005
# Memory-mapped reads save a system call per page; the file of a development machine is small.
_MMAP_BYTES = 64 << 20
_CACHE_KIB = 512  # for pages being written; those being read are mapped

_CREATE = """
CREATE TABLE IF NOT EXISTS spin_key_value (
    store TEXT NOT NULL,
    key   TEXT NOT NULL,
    value BLOB NOT NULL,

    PRIMARY KEY (store, key)
)
"""
_GET = "SELECT value FROM spin_key_value WHERE store=? AND key=?"
_EXISTS = "SELECT 1 FROM spin_key_value WHERE store=? AND key=?"
_KEYS = "SELECT key FROM spin_key_value WHERE store=?"
_SET = (
    "INSERT INTO spin_key_value (store, key, value) VALUES (?, ?, ?) "
    "ON CONFLICT(store, key) DO UPDATE SET value=excluded.value"
)
_INSERT_ABSENT = (
    "INSERT INTO spin_key_value (store, key, value) VALUES (?, ?, ?) "
    "ON CONFLICT(store, key) DO NOTHING"
)
_SWAP = "UPDATE spin_key_value SET value=? WHERE store=? AND key=? AND value=?"
_DELETE = "DELETE FROM spin_key_value WHERE store=? AND key=?"

_REMEDIES: dict[int | None, str] = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "the file may only be read: check its permissions",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: check the directory and its permissions",
    sqlite3.SQLITE_BUSY: f"another process held the file for more than {_BUSY_TIMEOUT_S:g} s",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database: move it away",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move it away",
    sqlite3.SQLITE_IOERR: "the disk failed, or a file would grow past its limit",
}


class SqliteDatabase:
    """One database file and its connections, shared by the stores kept in it.

    Nothing is opened before the first use, so that an app whose guests never touch the store needs
    no writable directory.
    """

    def __init__(self, path: Path) -> None:
        """Keep the stores in the file at `path`, which is created with its directory."""
        self.path = path
        # The newest first: its pages are warm, and the others may stay away.
        self._idle: list[sqlite3.Connection] = []
        self._open_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._closed = False

    def connection(self) -> _Lease:
        """A connection for as long as the returned context is entered.

        Raises:
            sqlite3.Error, OSError: On entering, when the file cannot be opened.
        """
        return _Lease(self)

    @contextlib.contextmanager
    def writer(self) -> Iterator[sqlite3.Connection]:
        """A connection, while no other thread of this process writes."""
        if not self._write_lock.acquire(timeout=_BUSY_TIMEOUT_S):
            raise StoreError(
                f"{self.path}: other threads wrote for more than {_BUSY_TIMEOUT_S:g} s"
            )
        try:
            with _Lease(self) as connection:
                yield connection
        finally:
            self._write_lock.release()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """As `writer`, with everything done inside kept together or not at all."""
        with self.writer() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except StoreError:  # what the guest asked for was wrong, not the connection
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def acquire(self) -> sqlite3.Connection:
        """An idle connection, or a new one; give it to `release`."""
        try:
            return self._idle.pop()
        except IndexError:
            with self._open_lock:  # the first one creates the file and sets its journal
                return self._open()

    def release(self, connection: sqlite3.Connection, *, failed: bool) -> None:
        """Keep `connection` for the next call, or close it, which undoes what it had begun."""
        if failed or self._closed or connection.in_transaction:
            connection.close()
        else:
            self._idle.append(connection)

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreError(f"{self.path}: the store is closed")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.path,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,  # autocommit: one statement is one transaction
            check_same_thread=False,  # used by one thread at a time, but not always by the same
            cached_statements=32,
        )
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close every connection, those in use as soon as they are released."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class _Lease:
    """Takes a connection on entering and gives it back on leaving."""

    __slots__ = ("_connection", "_database")

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        self._connection = self._database.acquire()
        return self._connection

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failed = exc_type is not None and not issubclass(exc_type, StoreError)
        self._database.release(self._connection, failed=failed)


def _prepare(connection: sqlite3.Connection) -> None:
    """Set up the file, which another process may be doing at this moment, too.

    SQLite does not wait where two connections want to change the journal: one of them is told at
    once that the file is busy, and has to come back.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(_CREATE)
            break
        except sqlite3.OperationalError as exc:
            if _kind(exc) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_OPEN_S)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(f"PRAGMA mmap_size={_MMAP_BYTES}")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")


def _kind(exc: sqlite3.Error) -> int | None:
    """The kind of failure: the low byte of the code; the rest says where in SQLite it was."""
    code: int | None = getattr(exc, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


class SqliteStore:
    """The entries of one label in a database; a `Store`."""

    __slots__ = ("_database", "_label")

    def __init__(self, database: SqliteDatabase, label: str) -> None:
        self._database = database
        self._label = label

    def get(self, key: str) -> bytes | None:
        """The value, or None when absent."""
        check_key(key)
        try:
            with self._database.connection() as connection:
                row = connection.execute(_GET, (self._label, key)).fetchone()
        except (sqlite3.Error, OSError) as exc:
            raise self._failed(exc) from exc
        return None if row is None else _as_bytes(row[0])

    def set(self, key: str, value: bytes) -> None:
        """Store `value`, replacing what was there."""
        check_entry(key, value)
        with self._failing_clearly(), self._database.writer() as connection:
            connection.execute(_SET, (self._label, key, value))

    def delete(self, key: str) -> None:
        """Remove `key`; absent is fine."""
        check_key(key)
        with self._failing_clearly(), self._database.writer() as connection:
            connection.execute(_DELETE, (self._label, key))

    def exists(self, key: str) -> bool:
        """True when `key` holds a value."""
        check_key(key)
        with self._failing_clearly(), self._database.connection() as connection:
            row = connection.execute(_EXISTS, (self._label, key)).fetchone()
        return row is not None

    def get_keys(self) -> list[str]:
        """Every key."""
        size = AnswerSize()
        keys = []
        with self._failing_clearly(), self._database.connection() as connection:
            for (key,) in connection.execute(_KEYS, (self._label,)):
                size.add((key,))
                keys.append(key)
        return keys

    def get_many(self, keys: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """Values in the order of `keys`, of one moment."""
        for key in keys:
            check_key(key)
        size = AnswerSize()
        found: list[tuple[str, bytes | None]] = []
        with self._failing_clearly(), self._database.connection() as connection:
            connection.execute("BEGIN")
            for key in keys:
                row = connection.execute(_GET, (self._label, key)).fetchone()
                entry = (key, None if row is None else _as_bytes(row[0]))
                size.add(entry)
                found.append(entry)
            connection.execute("COMMIT")
        return found

    def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Store all items, or none of them."""
        for key, value in items:
            check_entry(key, value)
        rows = [(self._label, key, value) for key, value in items]
        with self._failing_clearly(), self._database.transaction() as connection:
            connection.executemany(_SET, rows)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove all keys, or none of them; absent ones are fine."""
        for key in keys:
            check_key(key)
        rows = [(self._label, key) for key in keys]
        with self._failing_clearly(), self._database.transaction() as connection:
            connection.executemany(_DELETE, rows)

    def increment(self, key: str, delta: int) -> int:
        """Add `delta` to the counter at `key` (absent counts as 0) atomically; the new value."""
        check_key(key)
        with self._failing_clearly(), self._database.transaction() as connection:
            row = connection.execute(_GET, (self._label, key)).fetchone()
            number = counter_from_bytes(key, None if row is None else _as_bytes(row[0]))
            total = sum_in_64_bits(key, number, delta)
            connection.execute(_SET, (self._label, key, counter_to_bytes(total)))
            return total

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Set `key` when it still holds `expected` (None: absent); True when set."""
        check_entry(key, value)
        with self._failing_clearly(), self._database.writer() as connection:
            if expected is None:
                cursor = connection.execute(_INSERT_ABSENT, (self._label, key, value))
            else:
                cursor = connection.execute(_SWAP, (value, self._label, key, expected))
            return cursor.rowcount == 1

    @contextlib.contextmanager
    def _failing_clearly(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: sqlite3.Error | OSError) -> StoreError:
        if isinstance(exc, OSError):
            return StoreError(f"{self._database.path}: {exc.strerror or exc}")
        remedy = _REMEDIES.get(_kind(exc))
        return StoreError(f"{self._database.path}: {f'{remedy} ({exc})' if remedy else exc}")


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    raise StoreError(f"another program stored the value as {type(value).__name__}, not as bytes")

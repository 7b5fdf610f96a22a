"""`gpu_backend.records.book`: durable, once, and bounded."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_backend.records.book import RecordBook, RecordSummary, Stored


@pytest.fixture
def book(tmp_path: Path) -> Iterator[RecordBook]:
    opened = RecordBook(tmp_path / "deep" / "records.sqlite")
    yield opened
    opened.close()


def record(name: str, **more: object) -> dict[str, object]:
    return {"id": f"record-{name}", "time_ms": 1, "model": "digits", **more}


def test_book_keeps_one_record_per_id(book: RecordBook) -> None:
    assert book.add([record("a"), record("b")], "s", 0) == Stored(2, 0)
    assert book.add([record("b"), record("c"), record("c")], "s", 0) == Stored(1, 2)
    assert book.summary() == RecordSummary(3, 0)


def test_book_first_delivery_of_an_id_stands(book: RecordBook) -> None:
    book.add([record("a", model="first")], "s", 0)
    book.add([record("a", model="second")], "s", 0)
    assert book.latest(9) == [{"id": "record-a", "time_ms": 1, "model": "first"}]


def test_book_counts_drops_per_spool_and_never_backwards(book: RecordBook) -> None:
    book.add([], "one", 5)
    book.add([], "one", 3)
    book.add([], "two", 7)
    book.add([], "", 100)
    assert book.summary() == RecordSummary(0, 12)


def test_book_survives_closing(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    first = RecordBook(path)
    first.add([record("a")], "s", 1)
    first.close()
    second = RecordBook(path)
    assert second.add([record("a")], "s", 1) == Stored(0, 1)
    second.close()


def test_book_is_bounded_and_forgets_the_oldest(tmp_path: Path) -> None:
    book = RecordBook(tmp_path / "records.sqlite", keep=10)
    for start in range(0, 100, 5):
        book.add([record(str(number)) for number in range(start, start + 5)], "s", 0)
    assert book.summary().records == 10
    assert [item["id"] for item in book.latest(3)] == ["record-99", "record-98", "record-97"]
    book.close()


def test_book_duplicates_do_not_push_out_records(tmp_path: Path) -> None:
    book = RecordBook(tmp_path / "records.sqlite", keep=10)
    batch = [record(str(number)) for number in range(10)]
    for _ in range(20):
        book.add(batch, "s", 0)
    assert book.summary().records == 10
    book.close()


def test_book_batch_that_fails_leaves_nothing_behind(book: RecordBook) -> None:
    with pytest.raises(sqlite3.Error):
        book.add([record("a"), record("b", model=["not storable"])], "s", 0)
    assert book.summary() == RecordSummary(0, 0)


def test_book_latest_leaves_out_payloads_and_absent_values(book: RecordBook) -> None:
    book.add([record("a", payload="c2VjcmV0", confidence=0.5)], "s", 0)
    assert book.latest(1) == [
        {"id": "record-a", "time_ms": 1, "model": "digits", "confidence": 0.5}
    ]


def test_book_from_many_threads_loses_and_doubles_nothing(book: RecordBook) -> None:
    def deliver(number: int) -> None:
        for start in range(0, 50, 5):
            batch = [record(f"{number % 2}-{n}") for n in range(start, start + 5)]
            book.add(batch, f"s{number}", number)

    threads = [threading.Thread(target=deliver, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert book.summary() == RecordSummary(100, 6)


def test_book_commits_reach_the_disk_in_wal(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    book = RecordBook(path)
    with sqlite3.connect(path) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert book._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    book.close()


def test_book_over_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(sqlite3.Error):
        RecordBook(path)


def test_book_of_an_earlier_version_gets_the_columns_added_since(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    RecordBook(path).close()
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE records DROP COLUMN cost_micro")
    database.close()
    book = RecordBook(path)
    book.add([record("a", cost_micro=7)], "s", 0)
    assert book.latest(1)[0]["cost_micro"] == 7
    book.close()

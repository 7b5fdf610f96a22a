"""`POST /v1/records`: batches of inference records from edges; `GET` tells what is kept."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections.abc import Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpu_backend.api.http import fields_of, read_plain_body
from gpu_backend.errors import InvalidInputError, OverloadedError
from gpu_backend.records.book import COLUMNS, RecordBook

__all__ = ["Records"]

_log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 4 << 20
MAX_BATCH_RECORDS = 1000
MAX_LATEST = 1000

_ID = re.compile(r"[0-9a-zA-Z_-]{8,64}")
_SPOOL = re.compile(r"[0-9a-zA-Z_-]{0,64}")

_RETRY_S = 5.0
"""After a failed write: disks that are full or busy do not change within a second."""


class Records:
    """Endpoints over one book."""

    def __init__(self, book: RecordBook) -> None:
        self._book = book

    def routes(self) -> list[Route]:
        """Every route, for Starlette."""
        return [
            Route("/v1/records", self.add, methods=["POST"]),
            Route("/v1/records", self.show, methods=["GET"]),
        ]

    async def add(self, request: Request) -> Response:
        """Keep a batch: durable when this answers 200.

        A record that makes no sense is left out and named in the answer. It does not hold up the
        others, which an edge would otherwise deliver again for ever.
        """
        body = await read_plain_body(request.receive, fields_of(request.scope), MAX_BATCH_BYTES)
        spool, dropped, candidates = _batch(body)
        records: list[Mapping[str, object]] = []
        rejected: list[dict[str, object]] = []
        for index, candidate in enumerate(candidates):
            fault = _fault(candidate)
            if isinstance(candidate, dict) and fault is None:
                records.append(candidate)
            else:
                rejected.append({"index": index, "reason": fault})
        try:
            stored = await asyncio.to_thread(self._book.add, records, spool, dropped)
        except sqlite3.Error as exc:
            _log.exception("records were not kept")
            raise OverloadedError(
                "the records cannot be kept now; deliver them again", retry_after_s=_RETRY_S
            ) from exc
        return _json(
            {
                "accepted": stored.accepted,
                "duplicates": stored.duplicates,
                "rejected": rejected,
            }
        )

    async def show(self, request: Request) -> Response:
        """How many records there are, and the latest of them (``?latest=``, at most 1,000)."""
        text = request.query_params.get("latest", "0")
        if not (text.isascii() and text.isdecimal() and int(text[:9]) <= MAX_LATEST):
            raise InvalidInputError(f"latest takes a number up to {MAX_LATEST}, got {text[:20]!r}")
        summary = await asyncio.to_thread(self._book.summary)
        latest = await asyncio.to_thread(self._book.latest, int(text))
        return _json({"records": summary.records, "dropped": summary.dropped, "latest": latest})


def _batch(body: bytes) -> tuple[str, int, list[object]]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidInputError(f"the body is no JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise InvalidInputError("the body takes an object with the member records")
    records = document.get("records")
    if not isinstance(records, list) or len(records) > MAX_BATCH_RECORDS:
        raise InvalidInputError(
            f"records takes a list of at most {MAX_BATCH_RECORDS}", param="records"
        )
    spool, dropped = document.get("spool", ""), document.get("dropped", 0)
    if not isinstance(spool, str) or not _SPOOL.fullmatch(spool):
        raise InvalidInputError("spool takes a short name", param="spool")
    if type(dropped) is not int or not 0 <= dropped < 1 << 62:
        raise InvalidInputError("dropped takes a count", param="dropped")
    return spool, dropped, records


def _fault(record: object) -> str | None:
    """What is wrong with a record; None when it can be kept."""
    if not isinstance(record, dict):
        return "not an object"
    given_id = record.get("id")
    if not isinstance(given_id, str) or not _ID.fullmatch(given_id):
        return "id is missing or malformed"
    if type(record.get("time_ms")) is not int:
        return "time_ms is missing"
    for name, value in record.items():
        if name == "id":
            continue
        # Members unknown here come from a newer edge; they are left out, not refused.
        if name in COLUMNS and value is not None and type(value) not in COLUMNS[name]:
            return f"{name} is of the wrong type"
        if type(value) is int and abs(value) >= 1 << 63:
            return f"{name} is too large"
    return None


def _json(document: object) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")

"""`POST` and `GET /v1/records` of the backend."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from edgekit.policy.delivery import encode_batch
from edgekit.policy.records import InferenceRecord, encode_record
from edgekit.policy.spool import Batch
from gpu_backend.api.app import _answer_error
from gpu_backend.api.records import Records
from gpu_backend.errors import BackendError
from gpu_backend.records.book import RecordBook

GOOD = {"id": "0123456789abcdef", "time_ms": 1_800_000_000_000}


@pytest.fixture
def book(tmp_path: Path) -> RecordBook:
    return RecordBook(tmp_path / "records.sqlite")


@pytest.fixture
async def client(book: RecordBook) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=Records(book).routes(), exception_handlers={BackendError: _answer_error})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://backend") as opened:
        yield opened
    book.close()


async def post(client: httpx.AsyncClient, document: object) -> httpx.Response:
    return await client.post("/v1/records", content=json.dumps(document))


async def test_records_of_an_edge_are_kept_once(client: httpx.AsyncClient) -> None:
    record = InferenceRecord(
        id="ab" * 16,
        time_ms=1_800_000_000_000,
        tenant="t",
        route="classify",
        model="digits",
        model_version="1",
        model_digest="d",
        tier="cluster",
        reason="preferred",
        cache="miss",
        status=200,
        latency_ms=1.5,
        confidence=0.9,
        class_id=3,
        payload="AAAA",
    )
    body = encode_batch(Batch("spool", 4, (encode_record(record),)))
    first = await client.post("/v1/records", content=body)
    again = await client.post("/v1/records", content=body)
    assert first.json() == {"accepted": 1, "duplicates": 0, "rejected": []}
    assert again.json() == {"accepted": 0, "duplicates": 1, "rejected": []}
    shown = (await client.get("/v1/records?latest=5")).json()
    assert (shown["records"], shown["dropped"]) == (1, 4)
    assert shown["latest"][0]["confidence"] == 0.9
    assert "payload" not in shown["latest"][0]


async def test_records_without_sense_do_not_hold_up_the_others(
    client: httpx.AsyncClient,
) -> None:
    bad: list[Any] = [
        7,
        {},
        {"id": "short", "time_ms": 1},
        {"id": GOOD["id"]},
        {**GOOD, "time_ms": "now"},
        {**GOOD, "time_ms": True},
        {**GOOD, "latency_ms": "1"},
        {**GOOD, "confidence": [1]},
        {**GOOD, "class_id": 1.5},
        {**GOOD, "status": 1 << 63},
    ]
    response = await post(client, {"records": [*bad, GOOD]})
    assert response.status_code == 200
    document = response.json()
    assert document["accepted"] == 1
    assert [item["index"] for item in document["rejected"]] == list(range(len(bad)))
    assert all(item["reason"] for item in document["rejected"])


async def test_records_of_a_newer_edge_are_kept_without_what_is_unknown(
    client: httpx.AsyncClient,
) -> None:
    response = await post(client, {"records": [{**GOOD, "invented_later": {"a": 1}}]})
    assert response.json()["accepted"] == 1


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"records": {}},
        {"records": [], "spool": 7},
        {"records": [], "spool": "with space"},
        {"records": [], "dropped": -1},
        {"records": [], "dropped": True},
        {"records": [GOOD] * 1001},
    ],
)
async def test_batch_without_sense_is_refused_whole(
    client: httpx.AsyncClient, document: object
) -> None:
    response = await post(client, document)
    assert response.status_code == 400
    assert response.json()["code"] == "invalid_input"


async def test_batch_that_is_no_json_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/records", content=b"{")).status_code == 400


async def test_batch_too_large_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/records", content=bytes((4 << 20) + 1))
    assert response.status_code == 413


async def test_batch_compressed_is_taken(client: httpx.AsyncClient) -> None:
    body = gzip.compress(json.dumps({"records": [GOOD]}).encode())
    response = await client.post("/v1/records", content=body, headers={"content-encoding": "gzip"})
    assert response.json()["accepted"] == 1


async def test_batch_the_disk_cannot_take_is_to_be_delivered_again(
    client: httpx.AsyncClient, book: RecordBook
) -> None:
    book.close()
    response = await post(client, {"records": [GOOD]})
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("latest", ["-1", "x", "1001", "9" * 30])
async def test_latest_out_of_range_is_refused(client: httpx.AsyncClient, latest: str) -> None:
    assert (await client.get(f"/v1/records?latest={latest}")).status_code == 400

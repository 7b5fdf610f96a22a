"""Key-value stores, variables, and the rest of WASI, called by a real guest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgehost.errors import StoreError
from edgehost.keyvalue.memory import MemoryStore
from edgehost.ports import Store
from fakes.edgehost_http import MemorySink

pytestmark = pytest.mark.wasm


class Stores:
    def __init__(self) -> None:
        self.default = MemoryStore()

    def open(self, label: str) -> Store:
        if label == "default":
            return self.default
        raise StoreError("unknown", "no-such-store")


class BrokenStore(MemoryStore):
    def get(self, key: str) -> bytes | None:
        raise StoreError("the database is locked")


def json_of(sink: MemorySink) -> Any:
    assert sink.error is None, sink.error
    return json.loads(sink.body)


@pytest.fixture
def guest(probe: Any) -> Any:
    stores = Stores()
    with probe(
        key_value_stores=frozenset({"default", "listed"}),
        stores=stores,
        variables={"greeting": "hello", "empty": ""},
        environment={"MODE": "test"},
    ) as harness:
        harness.stores = stores
        yield harness


def test_spin_key_value_keeps_and_forgets(guest: Any) -> None:
    assert json_of(guest.run("/spin-store")) == {
        "absent": None,
        "value": "\x00value",
        "exists": [True, False],
        "keys": ["k", "l"],
        "after delete": None,
        "empty": True,
        "too long": ["Other", "the key is 256 bytes long; the limit is 255 bytes"],
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/spin-store?label=private", "AccessDenied"),
        ("/spin-store?label=listed", "NoSuchStore"),
        ("/wasi-store?label=private", "AccessDenied"),
        ("/wasi-store?label=listed", "NoSuchStore"),
    ],
)
def test_store_that_may_not_be_opened_says_why(guest: Any, path: str, expected: str) -> None:
    assert json_of(guest.run(path)) == {"open": expected}


def test_failing_store_gives_its_text_as_other(guest: Any) -> None:
    guest.stores.default = BrokenStore()

    sink = guest.run("/spin-store")

    assert sink.error is not None  # the scenario does not expect it, so the guest raised
    assert any("the database is locked" in line for _, _, line in guest.lines)


def test_wasi_key_value_batch_and_counters(guest: Any) -> None:
    assert json_of(guest.run("/wasi-store")) == {
        "many": [["c", "3"], ["x", None], ["a", "1"]],
        "keys": ["a", "b", "c"],
        "cursor": [None, ["Other", "list_keys: cursor not supported"]],
        "exists": [False, True],
        "counts": [5, -2],
    }


def test_swap_after_a_conflict_hands_back_a_usable_cas(guest: Any) -> None:
    assert json_of(guest.run("/compare-and-swap")) == ["old", "after retry"]


def test_guest_may_work_on_after_its_answer(guest: Any) -> None:
    assert guest.run("/work-after-response").body == b"answered"
    assert guest.stores.default.get("recorded") == b"yes"


def test_variables_answer_as_under_spin(guest: Any) -> None:
    answer = json_of(guest.run("/get-variables"))

    assert answer["known"] == answer["config"] == "hello"
    assert answer["undefined"] == ["Undefined", 'no variable for "probe"."unknown"']
    assert answer["invalid"][0] == "InvalidName"
    assert "Variable names may contain only lower-case letters" in answer["invalid"][1]
    assert answer["config unknown"] is None
    assert answer["config all"] == [["empty", ""], ["greeting", "hello"]]


def test_environment_is_the_components_own_and_there_are_no_files(guest: Any) -> None:
    answer = json_of(guest.run("/environment"))

    assert answer == {"variables": {"MODE": "test"}, "cwd files": "FileNotFoundError"}


def test_output_arrives_in_whole_lines_by_stream(guest: Any) -> None:
    guest.run("/output")

    assert sorted(guest.lines) == [
        ("probe", "stderr", "to stderr"),
        ("probe", "stdout", "no line end"),
        ("probe", "stdout", "one line"),
        ("probe", "stdout", "two lines"),
    ]


def test_stdin_is_empty(guest: Any) -> None:
    assert json_of(guest.run("/stdin")) == ""


def test_clocks_advance_while_the_guest_sleeps(guest: Any) -> None:
    answer = json_of(guest.run("/clocks"))

    assert answer["slept_ns"] >= 10_000_000
    assert answer["unix_s"] > 1_700_000_000


def test_random_bytes_differ_between_requests(guest: Any) -> None:
    first, second = (json_of(guest.run("/randomness")) for _ in range(2))

    assert first["urandom"] != second["urandom"]
    assert first["random"] != second["random"]


def test_sockets_are_refused(guest: Any) -> None:
    assert json_of(guest.run("/sockets")) == "PermissionError"


def test_import_the_host_does_not_serve_traps_with_its_name(guest: Any) -> None:
    sink = guest.run("/unavailable")

    assert (
        str(sink.error)
        == "fermyon:spin/redis@2.0.0#[static]connection.open is not available in this host"
    )

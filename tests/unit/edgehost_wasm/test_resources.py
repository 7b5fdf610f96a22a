"""The handle table: who may drop what, and that nothing stays behind."""

from __future__ import annotations

import pytest

from edgehost.abi.resources import MAX_RESOURCES, Resource, ResourceTable
from edgehost.errors import GuestTrapError


class Recorded(Resource):
    def __init__(self, log: list[str], name: str, parent: Resource | None = None) -> None:
        super().__init__(parent)
        self.log = log
        self.name = name

    def drop(self) -> None:
        self.log.append(self.name)


def test_handle_of_a_dropped_object_is_reused() -> None:
    table = ResourceTable()
    first = table.add(Resource())
    table.add(Resource())
    table.drop(first)

    assert table.add(Resource()) == first


@pytest.mark.parametrize("action", ["get", "take", "drop"])
def test_unknown_handle_traps(action: str) -> None:
    with pytest.raises(GuestTrapError, match="unknown resource handle 7"):
        getattr(ResourceTable(), action)(7)


def test_parent_with_children_can_be_neither_dropped_nor_moved() -> None:
    table = ResourceTable()
    parent = Resource()
    parent_rep = table.add(parent)
    child_rep = table.add(Resource(parent))

    for action in (table.drop, table.take):
        with pytest.raises(GuestTrapError, match="resource has children"):
            action(parent_rep)
    table.drop(child_rep)

    assert table.take(parent_rep) is parent
    assert len(table) == 0


def test_close_drops_children_before_parents() -> None:
    log: list[str] = []
    table = ResourceTable()
    parent = Recorded(log, "parent")
    table.add(parent)
    table.add(Recorded(log, "child", parent))

    table.close()

    assert log == ["child", "parent"]
    assert len(table) == 0


def test_object_moved_into_a_failed_call_is_dropped_at_close() -> None:
    log: list[str] = []
    table = ResourceTable()
    table.take(table.add(Recorded(log, "moved")))
    assert log == []

    table.close()

    assert log == ["moved"]


def test_table_refuses_more_handles_than_its_limit_and_drops_the_object() -> None:
    log: list[str] = []
    table = ResourceTable()
    for _ in range(MAX_RESOURCES):
        table.add(Resource())

    with pytest.raises(GuestTrapError, match="too many resources"):
        table.add(Recorded(log, "one too many"))

    assert log == ["one too many"]

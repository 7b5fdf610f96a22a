"""Handles: which host objects a guest instance holds.

Rules, as in Wasmtime's own table:

* a handle names one object of one instance; numbers are reused after the object is gone;
* an object with living children cannot be dropped or moved: that traps;
* what is still there when the instance ends is dropped then, children before parents.
"""

from __future__ import annotations

from edgehost.errors import GuestTrapError

__all__ = ["Resource", "ResourceTable"]

MAX_RESOURCES = 10_000
"""Handles one instance may hold: above what any guest needs, below what hurts the host."""


class Resource:
    """Base of every host object a guest can hold a handle to.

    Attributes:
        parent: Object that must outlive this one, counted when this one enters the table.
    """

    __slots__ = ("children", "parent")

    def __init__(self, parent: Resource | None = None) -> None:
        self.parent = parent
        self.children = 0

    def drop(self) -> None:
        """Free what the object holds. Nothing happens when it was consumed or dropped before."""


class ResourceTable:
    """The handles of one guest instance, used on its thread only."""

    __slots__ = ("_entries", "_free", "moved")

    def __init__(self) -> None:
        self._entries: dict[int, Resource] = {}
        self._free: list[int] = []
        self.moved: list[Resource] = []
        """Objects given to the host call now running; the caller clears it when the call succeeds.
        What a failed call leaves here is dropped by `close`."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, resource: Resource) -> int:
        """Return a new handle for `resource`.

        Raises:
            GuestTrapError: The instance holds too many handles.
        """
        entries = self._entries
        if len(entries) >= MAX_RESOURCES:
            resource.drop()
            raise GuestTrapError("the guest holds too many resources")
        rep = self._free.pop() if self._free else len(entries)
        entries[rep] = resource
        parent = resource.parent
        if parent is not None:
            parent.children += 1
        return rep

    def get(self, rep: int) -> Resource:
        """The object behind a borrowed handle. Raises `GuestTrapError` for an unknown one."""
        try:
            return self._entries[rep]
        except KeyError:
            raise GuestTrapError(f"unknown resource handle {rep}") from None

    def take(self, rep: int) -> Resource:
        """Remove and return the object: the guest gave its handle away. Raises as `drop` does."""
        resource = self._remove(rep)
        self.moved.append(resource)
        return resource

    def drop(self, rep: int) -> None:
        """The guest dropped its handle.

        Raises:
            GuestTrapError: Unknown handle, or the object still has children.
        """
        self._remove(rep).drop()

    def _remove(self, rep: int) -> Resource:
        resource = self.get(rep)
        if resource.children:
            raise GuestTrapError(f"resource has children: {type(resource).__name__}")
        del self._entries[rep]
        self._free.append(rep)
        parent = resource.parent
        if parent is not None:
            parent.children -= 1
        return resource

    def close(self) -> None:
        """Drop everything left, newest first, so that children go before their parents."""
        entries = self._entries
        while entries:
            entries.popitem()[1].drop()
        while self.moved:
            self.moved.pop().drop()
        self._free.clear()

"""`wasi:http/types.fields`: headers and trailers, always in lower case."""

from __future__ import annotations

from typing import Final

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.abi.resources import Resource
from edgehost.abi.values import ErrorResult
from edgehost.errors import GuestTrapError
from edgehost.ports import Headers
from edgehost.wasi.http import syntax

__all__ = ["Fields", "add_functions"]

MAX_FIELDS_BYTES: Final = 128 * 1024
_NAME_OVERHEAD_BYTES: Final = 32
_VALUE_OVERHEAD_BYTES: Final = 40
"""What Wasmtime counts besides the text, so that the limit falls where it falls under Spin."""


class Fields(Resource):
    """Names and values in order.

    Attributes:
        mutable: False for the fields of a message that was received or handed over.
    """

    __slots__ = ("_size", "entries", "mutable")

    def __init__(self, entries: Headers, *, mutable: bool) -> None:
        super().__init__()
        self.entries = entries
        self.mutable = mutable
        self._size: int | None = None

    @classmethod
    def received(cls, entries: Headers) -> Fields:
        """Immutable fields from the network, without those that belong to the transport."""
        forbidden = syntax.FORBIDDEN_FIELDS
        return cls([entry for entry in entries if entry[0] not in forbidden], mutable=False)

    def values(self, name: str) -> list[bytes]:
        """Values of `name`, in lower case, in order."""
        return [value for known, value in self.entries if known == name]

    def append(self, name: str, value: bytes) -> None:
        """Add a value. Raises as `set` does."""
        key = self._writable(name)
        checked = _checked_value(key, value)
        self.entries.append((key, checked))
        if self._size is not None:
            self._size += len(checked) + _VALUE_OVERHEAD_BYTES
        self._check_size()

    def set(self, name: str, values: list[bytes]) -> None:
        """Replace the values of `name`; no values remove it.

        Raises:
            ErrorResult: A `header-error`.
            GuestTrapError: The fields are too large.
        """
        key = self._writable(name)
        checked = [(key, _checked_value(key, value)) for value in values]
        position = next(
            (index for index, entry in enumerate(self.entries) if entry[0] == key),
            len(self.entries),
        )
        kept_before = self.entries[:position]
        kept_after = [entry for entry in self.entries[position:] if entry[0] != key]
        self.entries = kept_before + checked + kept_after
        self._size = None
        self._check_size()

    def delete(self, name: str) -> None:
        """Remove `name`. Raises `ErrorResult` as `set` does."""
        key = self._writable(name)
        self.entries = [entry for entry in self.entries if entry[0] != key]
        self._size = None

    def _writable(self, name: str) -> str:
        if not syntax.is_field_name(name):
            raise ErrorResult("invalid-syntax")
        key = name.lower()
        if key in syntax.FORBIDDEN_FIELDS:
            raise ErrorResult("forbidden")
        if not self.mutable:
            raise ErrorResult("immutable")
        return key

    def _check_size(self) -> None:
        if self._size is None:
            self._size = sum(len(value) + _VALUE_OVERHEAD_BYTES for _, value in self.entries)
        names = {name for name, _ in self.entries} if self._size > MAX_FIELDS_BYTES // 4 else ()
        total = self._size + sum(len(name) + _NAME_OVERHEAD_BYTES for name in names)
        if total > MAX_FIELDS_BYTES:
            raise GuestTrapError("total size of fields exceeds limit")


def _checked_value(key: str, value: bytes) -> bytes:
    if key == "content-length":
        try:
            return str(syntax.content_length(value)).encode()
        except ValueError:
            raise ErrorResult("invalid-syntax") from None
    if not syntax.is_field_value(value):
        raise ErrorResult("invalid-syntax")
    return value


def add_functions(types: HostInterface) -> None:
    """Add the functions of `fields` to `wasi:http/types`."""
    types.function("[constructor]fields")(_new)
    types.function("[static]fields.from-list")(_from_list)
    types.function("[method]fields.get")(_get)
    types.function("[method]fields.has")(_has)
    types.function("[method]fields.set")(_set)
    types.function("[method]fields.delete")(_delete)
    types.function("[method]fields.append")(_append)
    types.function("[method]fields.entries")(_entries)
    types.function("[method]fields.clone")(_clone)


def _new(_guest: Guest) -> Fields:
    return Fields([], mutable=True)


def _from_list(_guest: Guest, entries: Headers) -> Fields:
    fields = Fields([], mutable=True)
    for name, value in entries:
        fields.append(name, value)
    return fields


def _get(_guest: Guest, fields: Fields, name: str) -> list[bytes]:
    return fields.values(name.lower())


def _has(_guest: Guest, fields: Fields, name: str) -> bool:
    key = name.lower()
    return any(known == key for known, _ in fields.entries)


def _set(_guest: Guest, fields: Fields, name: str, values: list[bytes]) -> None:
    fields.set(name, values)


def _delete(_guest: Guest, fields: Fields, name: str) -> None:
    fields.delete(name)


def _append(_guest: Guest, fields: Fields, name: str, value: bytes) -> None:
    fields.append(name, value)


def _entries(_guest: Guest, fields: Fields) -> Headers:
    return fields.entries


def _clone(_guest: Guest, fields: Fields) -> Fields:
    return Fields(list(fields.entries), mutable=True)

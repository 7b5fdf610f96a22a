"""Header fields the transport owns, and the small rules about fields that both sides share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate

from edgehost.ports import Headers

__all__ = [
    "FORBIDDEN",
    "DateField",
    "content_length",
    "is_authority",
    "to_guest",
    "to_wire",
    "trailers_from_wire",
]

FORBIDDEN = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "host",
        "http2-settings",
    }
)
"""Fields that belong to one connection or to the host; the list is wasmtime-wasi-http's."""

# RFC 9110, section 6.5.1: fields that frame, route, or authenticate must not come as trailers.
_NOT_TRAILERS = FORBIDDEN | {
    "authorization",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "set-cookie",
    "te",
    "trailer",
}

_AUTHORITY = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%:-]*@)?"
    rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?"
)
_DIGITS = re.compile(rb"[0-9]{1,19}")


def is_authority(value: bytes) -> bool:
    """True for ``host``, ``host:port`` and ``[v6]:port``, as RFC 3986 spells them."""
    return _AUTHORITY.fullmatch(value) is not None


def to_guest(fields: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Fields off the wire as a guest may see them: names lower-case ASCII, forbidden ones gone."""
    return [
        (name, value)
        for name, value in ((raw.decode("ascii"), value) for raw, value in fields)
        if name not in FORBIDDEN
    ]


def trailers_from_wire(fields: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Trailer fields as a guest may see them."""
    return [
        (name, value)
        for name, value in ((raw.decode("ascii"), value) for raw, value in fields)
        if name not in _NOT_TRAILERS
    ]


def to_wire(headers: Headers, *, trailers: bool = False) -> list[tuple[bytes, bytes]]:
    """A guest's fields ready for the wire, without those the transport writes itself."""
    dropped = _NOT_TRAILERS if trailers else FORBIDDEN
    return [(name.encode("ascii"), value) for name, value in headers if name.lower() not in dropped]


def content_length(headers: Headers) -> int | None:
    """The declared length of a body; None when there is none.

    Raises:
        ValueError: The field is not a number, or two of them disagree.
    """
    found: int | None = None
    for name, value in headers:
        if name.lower() != "content-length":
            continue
        if not _DIGITS.fullmatch(value):
            raise ValueError(f"content-length is not a number: {value!r}")
        length = int(value)
        if found is not None and found != length:
            raise ValueError(f"content-length says both {found} and {length}")
        found = length
    return found


class DateField:
    """The `Date` field, formatted once a second."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._second = -1
        self._value = b""

    def value(self) -> bytes:
        """The current time as RFC 9110, section 5.6.7 wants it."""
        now = int(self._clock())
        if now != self._second:
            self._second = now
            self._value = formatdate(now, usegmt=True).encode("ascii")
        return self._value

"""Requests and responses of bare ASGI: bounded bodies, codings, correlation fields."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from gpu_backend.errors import (
    InvalidInputError,
    PayloadTooLargeError,
    RequestCancelledError,
    UnsupportedMediaTypeError,
)

__all__ = [
    "ON_DISCONNECT",
    "RESPOND",
    "Fields",
    "Part",
    "Respond",
    "compress",
    "correlation",
    "decompress",
    "fields_of",
    "pick_coding",
    "read_body",
    "read_plain_body",
    "respond",
]

ON_DISCONNECT = "gpu_backend.on_disconnect"
"""Key in the scope: what `BoundedProtocol` calls when the client of a request goes away. Watching
`receive` instead would cost every request a second task."""

RESPOND = "gpu_backend.respond"
"""Key in the scope: `BoundedProtocol` sends a whole response with one system call. The two
messages of ASGI cost two, which is a tenth of what a request of a small model costs."""

Part = bytes | memoryview

Respond = Callable[[int, list[tuple[bytes, bytes]], Sequence[Part]], None]
"""Status, header fields and parts of the body."""

Fields = dict[bytes, bytes]
"""Header fields by lower-case name; of a repeated field the last value."""

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

_DRAINABLE_FACTOR = 8
"""A refused body up to this many times the limit is read and dropped, so that the client gets to
read the refusal; a larger one costs the client its connection."""


def fields_of(scope: Scope) -> Fields:
    """Header fields of the request."""
    return dict(scope["headers"])


def correlation(fields: Fields) -> list[tuple[bytes, bytes]]:
    """`X-Request-Id` as the client sent it, where it is harmless."""
    given = fields.get(b"x-request-id")
    if given is None or not _REQUEST_ID.fullmatch(given):
        return []
    return [(b"x-request-id", given)]


def content_length(fields: Fields) -> int | None:
    """Declared length of the body; None for a chunked one."""
    given = fields.get(b"content-length")
    return int(given) if given is not None and given.isdigit() else None


async def read_body(receive: Receive, fields: Fields, limit: int) -> bytes:
    """The whole body, as it was sent.

    Raises:
        PayloadTooLargeError: It exceeds `limit` bytes.
        RequestCancelledError: The client left.
    """
    declared = content_length(fields)
    if declared is not None and declared > limit:
        raise PayloadTooLargeError(f"the body has {declared} bytes, the limit is {limit}")
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = [body]
        size = len(body)
        while message.get("more_body"):
            message = await receive()
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > limit:
                raise PayloadTooLargeError(f"the body exceeds the limit of {limit} bytes")
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise RequestCancelledError("the client left while it was sending its request")
    return body


async def read_plain_body(receive: Receive, fields: Fields, limit: int) -> bytes:
    """The whole body without its content coding, for bodies that are small.

    Raises:
        BackendError: As `read_body` and `decompress`.
    """
    body = await read_body(receive, fields, limit)
    coding = fields.get(b"content-encoding")
    return body if coding is None else decompress(body, coding, limit)


def decompress(body: bytes, coding: bytes, limit: int) -> bytes:
    """`body` without its content coding.

    Raises:
        UnsupportedMediaTypeError: The coding is neither gzip nor deflate.
        PayloadTooLargeError: It would exceed `limit` bytes; found out without inflating it all.
        InvalidInputError: The data is damaged or cut off.
    """
    name = coding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnsupportedMediaTypeError(
            f"content coding {coding.decode('latin-1')[:40]!r} is not understood; "
            "send gzip, deflate or none"
        )
    # RFC 9110, 8.4.1.2: "deflate" is the zlib format; some clients send it bare.
    bare = name == b"deflate" and not _has_zlib_header(body)
    wbits = (
        zlib.MAX_WBITS | 16 if name != b"deflate" else -zlib.MAX_WBITS if bare else zlib.MAX_WBITS
    )
    parts: list[bytes] = []
    room = limit
    rest = body
    try:
        while True:
            member = zlib.decompressobj(wbits)
            part = member.decompress(rest, room + 1)
            room -= len(part)
            if room < 0:
                raise PayloadTooLargeError(f"the body inflates beyond the limit of {limit} bytes")
            parts.append(part)
            if not member.eof:
                raise InvalidInputError(f"the {name.decode()} body is cut off")
            rest = member.unused_data
            if not rest:
                return b"".join(parts)
            if name == b"deflate":
                raise InvalidInputError(f"{len(rest)} bytes follow the end of the deflate body")
    except zlib.error as exc:
        raise InvalidInputError(f"the {name.decode()} body is damaged ({exc})") from exc


def _has_zlib_header(body: bytes) -> bool:
    """RFC 1950, 2.2: method 8, and the two header bytes are a multiple of 31."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def pick_coding(fields: Fields) -> str | None:
    """`gzip` or `deflate`, whichever the client prefers of what it accepts; else None."""
    accepted = fields.get(b"accept-encoding")
    if accepted is None:
        return None
    best, best_weight = None, 0.0
    for part in accepted.decode("latin-1").lower().split(","):
        name, _, parameters = part.partition(";")
        weight = _weight(parameters)
        if name.strip() in ("gzip", "deflate") and weight > best_weight:
            best, best_weight = name.strip(), weight
    return best


def _weight(parameters: str) -> float:
    key, _, value = parameters.strip().partition("=")
    if key.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def compress(parts: Iterable[Part], coding: str) -> bytes:
    """`parts` in the content coding `gzip` or `deflate`.

    Level 1: the links between edge and backend are fast, the cores are not.
    """
    wbits = zlib.MAX_WBITS | 16 if coding == "gzip" else zlib.MAX_WBITS
    stream = zlib.compressobj(1, zlib.DEFLATED, wbits)
    return b"".join([*(stream.compress(part) for part in parts), stream.flush()])


async def respond(
    scope: Scope, send: Send, status: int, headers: list[tuple[bytes, bytes]], *parts: Part
) -> None:
    """Send one whole response with `parts` as its body; `Content-Length` is added."""
    headers.append((b"content-length", b"%d" % sum(map(len, parts))))
    at_once: Respond | None = scope.get(RESPOND)
    if at_once is not None:
        at_once(status, headers, parts)
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"".join(parts)})


def must_close(fields: Fields, limit: int) -> bool:
    """True when the rest of a refused body is not worth reading."""
    declared = content_length(fields)
    return declared is None or declared > limit * _DRAINABLE_FACTOR


def json_object(document: Any, what: str) -> dict[str, Any]:
    """`document` when it is a JSON object.

    Raises:
        InvalidInputError: It is something else.
    """
    if type(document) is not dict:
        raise InvalidInputError(f"{what} is a JSON object, got {type(document).__name__}")
    return document

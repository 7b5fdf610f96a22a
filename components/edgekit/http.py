"""Requests and responses as values: what every handler takes and gives, natively and in Wasm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from edgekit.errors import PayloadTooLargeError

__all__ = ["Body", "Headers", "Request", "Response"]

Body = bytes | Iterator[bytes]
"""A whole body, or chunks in the order they are to be sent (each non-empty, sent as it comes)."""


class Headers:
    """Field lines in order; names compare without case (RFC 9110, section 5.1)."""

    __slots__ = ("_lines",)

    def __init__(self, lines: Iterable[tuple[str, str]] = ()) -> None:
        self._lines = [(name.lower(), value) for name, value in lines]

    def get(self, name: str) -> str | None:
        """All values of `name` joined by ", " (RFC 9110, section 5.2); None when absent."""
        name = name.lower()
        values = [value for key, value in self._lines if key == name]
        return ", ".join(values) if values else None

    def last(self, name: str) -> str | None:
        """The last value of `name`: the one the trigger itself appended."""
        name = name.lower()
        return next((value for key, value in reversed(self._lines) if key == name), None)

    def set(self, name: str, value: str) -> None:
        """Replace every line of `name` by one."""
        self.remove(name)
        self._lines.append((name.lower(), value))

    def add(self, name: str, value: str) -> None:
        """Append one more line of `name`."""
        self._lines.append((name.lower(), value))

    def remove(self, name: str) -> None:
        """Drop every line of `name`."""
        name = name.lower()
        self._lines = [line for line in self._lines if line[0] != name]

    def __contains__(self, name: str) -> bool:
        name = name.lower()
        return any(key == name for key, _ in self._lines)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._lines == other._lines

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({self._lines!r})"


@dataclass(slots=True)
class Request:
    """One request.

    Attributes:
        method: Upper case.
        path: Path without query, percent-encoding kept.
        query: Raw query without the question mark.
        headers: Request fields.
        body: Whole, or chunks still arriving; `read` is how handlers get it.
    """

    method: str
    path: str
    query: str = ""
    headers: Headers = field(default_factory=Headers)
    body: Body = b""

    def stream(self, limit_bytes: int) -> Body:
        """The body to relay: as it arrives where its length is declared, else read to the end.

        Raises:
            PayloadTooLargeError: It exceeds `limit_bytes`, or says so in Content-Length.
            InvalidInputError: The client broke off.
        """
        declared = self._declared_length()
        if declared is None:
            return self.read(limit_bytes)
        if declared > limit_bytes:
            raise _too_large(limit_bytes)
        # RFC 9112, section 6.2: what is declared is what arrives, or the transfer fails.
        return self.body

    def read(self, limit_bytes: int) -> bytes:
        """The whole body; what is refused before this call is never transferred.

        Raises:
            PayloadTooLargeError: It exceeds `limit_bytes`, or says so in Content-Length.
            InvalidInputError: The client broke off.
        """
        if (self._declared_length() or 0) > limit_bytes:
            raise _too_large(limit_bytes)
        if not isinstance(self.body, bytes):
            self.body = _join(self.body, limit_bytes)
        if len(self.body) > limit_bytes:
            raise _too_large(limit_bytes)
        return self.body

    def _declared_length(self) -> int | None:
        text = self.headers.last("content-length") or ""
        # No limit has more than 18 digits, and int() of thousands of them would cost.
        return int(text[:18]) if text.isdecimal() else None

    def params(self) -> dict[str, str]:
        """Query parameters, decoded; of a repeated name the last value counts."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    def segments(self) -> list[str]:
        """Path segments, each decoded, without empty ones at either end."""
        return [unquote(part) for part in self.path.strip("/").split("/")]

    def content_type(self) -> str:
        """Media type in lower case, without parameters; empty when absent."""
        return (self.headers.get("content-type") or "").partition(";")[0].strip().lower()


def _join(chunks: Iterator[bytes], limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        parts.append(chunk)
    return b"".join(parts)


def _too_large(limit_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"the request body exceeds {limit_bytes} bytes, the limit of this edge: send less"
    )


@dataclass(slots=True)
class Response:
    """One response.

    Attributes:
        status: HTTP status code.
        headers: Response fields.
        body: Whole or streamed.
        after: Work done once the last byte is sent or the client has left (cache writes,
            records); errors there are logged and never reach the client.
    """

    status: int
    headers: Headers = field(default_factory=Headers)
    body: Body = b""
    after: list[Callable[[], None]] = field(default_factory=list)

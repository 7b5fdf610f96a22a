"""How large a header section may be, checked before anything looks into it."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.errors import InvalidInputError
from edgekit.http import Headers

__all__ = ["RequestLimits", "check_header_size"]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Largest sizes; the body has its limit where it is read (`Request.read`).

    Attributes:
        max_header_bytes: 32 KiB for all fields together: what common proxies let through.
        max_header_count: 100, as Apache and most servers have it.
    """

    max_header_bytes: int = 32 * 1024
    max_header_count: int = 100


def check_header_size(headers: Headers, limits: RequestLimits) -> None:
    """Return when the header section is within limits.

    Raises:
        InvalidInputError: It is not.
    """
    count = size = 0
    for name, value in headers:
        count += 1
        size += len(name) + len(value) + 4
    if count > limits.max_header_count:
        raise InvalidInputError(
            f"{count} header fields; at most {limits.max_header_count} are taken"
        )
    if size > limits.max_header_bytes:
        raise InvalidInputError(
            f"header fields of {size} bytes; at most {limits.max_header_bytes} are taken"
        )

"""What may stand in an HTTP message, as the `http` crate under Spin judges it."""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "FORBIDDEN_FIELDS",
    "content_length",
    "is_authority",
    "is_field_name",
    "is_field_value",
    "is_method",
    "is_path_with_query",
    "is_scheme",
]

FORBIDDEN_FIELDS: Final = frozenset(
    {
        "connection",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that belong to the transport; a guest neither sees nor sets them."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_FIELD_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, section 5.5
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{0,63}")  # RFC 3986, section 3.1
_PATH_WITH_QUERY: Final = re.compile(
    r"[!\"$-;=@-Z\[\\\]^_`a-z{|}~\x7f-\U0010ffff]*"
    r"(?:\?[!\"$-;=?-~\x7f-\U0010ffff]*)?"
    r"(?:#.*)?"
)
_AUTHORITY: Final = re.compile(
    r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:%]*@)?"
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_DIGITS: Final = re.compile(rb"[0-9]+")
_MAX_NAME_BYTES: Final = 65535
_MAX_PORT: Final = 65535
_MAX_U64: Final = (1 << 64) - 1


def is_field_name(name: str) -> bool:
    """True for a field name in any case."""
    return len(name) <= _MAX_NAME_BYTES and _TOKEN.fullmatch(name) is not None


def is_field_value(value: bytes) -> bool:
    """True when no byte could end the field or hide in it."""
    return _FIELD_VALUE.fullmatch(value) is not None


def is_method(method: str) -> bool:
    """True for a method token."""
    return _TOKEN.fullmatch(method) is not None


def is_scheme(scheme: str) -> bool:
    """True for the part of a URI before its colon."""
    return _SCHEME.fullmatch(scheme) is not None


def is_path_with_query(path: str) -> bool:
    """True for what may follow the authority of a URI."""
    return _PATH_WITH_QUERY.fullmatch(path) is not None


def is_authority(authority: str) -> bool:
    """True for `host[:port]`; a colon without a valid port is refused.

    The host may be missing: SDKs write ``:443`` for a request to the app itself.
    """
    match = _AUTHORITY.fullmatch(authority)
    return bool(authority) and match is not None and int(match["port"] or 0) <= _MAX_PORT


def content_length(value: bytes) -> int:
    """The number a content-length field gives.

    Raises:
        ValueError: Not a plain decimal number of 64 bits.
    """
    if not _DIGITS.fullmatch(value) or len(value) > 20 or int(value) > _MAX_U64:
        raise ValueError(f"invalid content-length: {value!r}")
    return int(value)

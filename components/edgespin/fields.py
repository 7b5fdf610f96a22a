"""HTTP fields between `wasi:http` resources and `edgekit.http.Headers`."""

from __future__ import annotations

from spin_sdk.wit.imports.types import Fields
from spin_sdk.wit.types import Err

from edgekit.http import Headers

__all__ = ["FORBIDDEN", "decode_fields", "encode_fields"]

FORBIDDEN = frozenset(
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
"""Fields a guest may not set: hosts refuse the whole list when one of them is in it."""


def decode_fields(fields: Fields) -> Headers:
    """Every field line. Values are opaque octets; Latin-1 carries them through unchanged."""
    return Headers((name, value.decode("latin-1")) for name, value in fields.entries())


def encode_fields(headers: Headers) -> Fields:
    """The same lines as a resource, without those that are forbidden or not well-formed."""
    lines = [
        (name, value.encode("latin-1", "replace"))
        for name, value in headers
        if name not in FORBIDDEN
    ]
    try:
        return Fields.from_list(lines)
    except Err:
        return _well_formed(lines)


def _well_formed(lines: list[tuple[str, bytes]]) -> Fields:
    """One bad line (a relayed name the host refuses) must not cost the others."""
    fields = Fields()
    for name, value in lines:
        try:
            fields.append(name, value)
        except Err:
            continue
    return fields

"""Entity tags and `If-None-Match` (RFC 9110, sections 8.8.3 and 13.1.2)."""

from __future__ import annotations

import hashlib
import re

__all__ = ["entity_tag", "none_match"]

_TAG = re.compile(r'\s*(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|\Z)')


def entity_tag(body: bytes, variant: str = "") -> str:
    """A strong tag of `body`; `variant` tells representations apart that share their bytes."""
    digest = hashlib.sha256(variant.encode() + b"\0" + body).hexdigest()
    return f'"{digest[:32]}"'


def none_match(field: str | None, tag: str) -> bool:
    """True when the request goes ahead; False when the client already has what `tag` names.

    RFC 9110 answers 304 to GET and HEAD only and 412 otherwise. Inference requests carry a body
    and so are POST, yet are as safe as GET, which is what that rule protects: they get 304 too.
    """
    if field is None:
        return True
    # Section 13.1.2: "If the field value is '*', the condition is false if the origin server has
    # a current representation": here it has.
    if field.strip() == "*":
        return False
    # "A recipient MUST use the weak comparison function": W/ makes no difference.
    return tag not in _tags(field)


def _tags(field: str) -> set[str]:
    tags: set[str] = set()
    position = 0
    while match := _TAG.match(field, position):
        tags.add(match[1])
        position = match.end()
    return tags

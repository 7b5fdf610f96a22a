"""What makes two requests the same: canonical forms, and the keys derived from them.

A key has two parts, so that the stored answer and the facts about the model arrive in one read:

* the *address* says where an answer lies: tenant, route kind and canonical request;
* the *identity* adds the digest of the active model version. An entry under the right address
  with another identity is the answer of another model version, and so a miss.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.errors import InvalidInputError

__all__ = ["CacheKey", "canonical_json", "canonical_tensor", "derive_key"]

_EXACT_INTEGER = 2**53
"""Integers beyond are not told apart by every JSON reader (RFC 8259, section 6)."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Where an answer lies and what it must be; both SHA-256 in hex."""

    address: str
    identity: str

    def of_model(self, digest: str) -> CacheKey:
        """The key of the same request to another version of the model."""
        return CacheKey(self.address, _digest([self.address.encode(), digest.encode()]))


def derive_key(*, tenant: str, route: str, request: Iterable[bytes], model_digest: str) -> CacheKey:
    """Key of one request.

    Args:
        tenant: Name of the tenant: two tenants never share an entry.
        route: Kind of route, such as ``classify``: its answers have one shape.
        request: Canonical parts of the request, in a fixed order.
        model_digest: Digest of the model version that would answer now.
    """
    address = _digest([tenant.encode(), route.encode(), *request])
    return CacheKey(address, "").of_model(model_digest)


def canonical_json(value: object) -> bytes:
    """One spelling for equal JSON values: sorted names, no spaces, whole floats as integers.

    Raises:
        InvalidInputError: The value holds NaN or infinity, which JSON has not.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8", "surrogatepass")


def canonical_tensor(name: str, datatype: str, shape: Iterable[int], raw: bytes) -> bytes:
    """One spelling for a tensor, however it was sent.

    Args:
        name: Name of the input.
        datatype: Open Inference Protocol type, such as ``FP32``.
        shape: Sizes of the dimensions.
        raw: Elements in row-major order, little-endian.
    """
    head = json.dumps([name, datatype, list(shape)], separators=(",", ":")).encode()
    return len(head).to_bytes(4, "little") + head + raw


def _digest(parts: Iterable[bytes]) -> str:
    """SHA-256 over length-prefixed parts: ("ab", "c") and ("a", "bc") must differ."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(f"{value} is not a JSON number; send a finite one")
        if value.is_integer() and abs(value) < _EXACT_INTEGER:
            return int(value)
    return value

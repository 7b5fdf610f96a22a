"""wasi:random — all three kinds come from the system's secure source.

A Python guest seeds itself with 2.5 KB in ten calls. Each system call gives up the GIL, so an
instance draws its bytes in blocks.
"""

from __future__ import annotations

import os
from typing import Final

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.errors import GuestTrapError

__all__ = ["INTERFACES"]

MAX_RANDOM_BYTES: Final = 1 << 20
"""Per call. WASI sets no bound, but the bytes pass through the host's memory."""

BLOCK_BYTES: Final = 4096

secure = HostInterface("wasi:random/random@0.2")
insecure = HostInterface("wasi:random/insecure@0.2")
insecure_seed = HostInterface("wasi:random/insecure-seed@0.2")


@secure.function("get-random-bytes")
@insecure.function("get-insecure-random-bytes")
def random_bytes(guest: Guest, length: int) -> bytes:
    """`length` unpredictable bytes."""
    if length > MAX_RANDOM_BYTES:
        raise GuestTrapError(f"at most {MAX_RANDOM_BYTES} random bytes per call, not {length}")
    return _draw(guest, length)


@secure.function("get-random-u64")
@insecure.function("get-insecure-random-u64")
def random_u64(guest: Guest) -> int:
    """An unpredictable integer."""
    return int.from_bytes(_draw(guest, 8), "little")


@insecure_seed.function("insecure-seed")
def seed(guest: Guest) -> tuple[int, int]:
    """A seed for hash maps."""
    data = _draw(guest, 16)
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")


def _draw(guest: Guest, length: int) -> bytes:
    """Bytes that were never given to anyone before."""
    block = guest.entropy
    if length > len(block):
        if length >= BLOCK_BYTES:
            return os.urandom(length)
        block = guest.entropy = bytearray(os.urandom(BLOCK_BYTES))
    data = bytes(block[:length])
    del block[:length]
    return data


INTERFACES = (secure, insecure, insecure_seed)

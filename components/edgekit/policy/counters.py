"""Counters as the stores write them, and creation that happens once.

Two facts about the stores behind `increment` and `compare_and_swap` (read in Spin 3.6–4.0):

* the value of a counter reads back as 8 little-endian bytes from SQLite and as decimal digits from
  Redis; `increment` on a key that holds anything else can bring the host down;
* the swap on an *absent* key overwrites whatever arrived meanwhile and reports success, so an
  atomic creation needs a counter beside the value.
"""

from __future__ import annotations

from edgekit.ports import KeyValueStore

__all__ = ["create_once", "read_counter"]

_BINARY_BYTES = 8


def read_counter(raw: bytes | None) -> int:
    """Value of a counter read by `get`; absent or unreadable counts as 0.

    Eight digits and eight bytes are told apart by content: as a binary number, eight ASCII digits
    would exceed 3.4e18, which no counter here reaches.
    """
    if not raw:
        return 0
    digits = raw[1:] if raw.startswith(b"-") else raw
    if digits.isdigit():
        return int(raw)
    return int.from_bytes(raw, "little", signed=True) if len(raw) == _BINARY_BYTES else 0


def create_once(store: KeyValueStore, key: str, value: bytes) -> bool:
    """Set an absent `key`; True for exactly one of all callers that ever try.

    Whoever gets False reads the key again; should it stay absent, its creator died in between.

    Raises:
        StoreUnavailableError: The store does not serve.
    """
    if store.increment(f"{key}!", 1) != 1:
        return False
    store.set(key, value)
    return True

"""Admitting requests under a tenant's limits, correctly while many instances do so at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.errors import OverloadedError, RateLimitedError
from edgekit.policy.counters import create_once
from edgekit.policy.ledger import (
    Ledger,
    QuotaUse,
    Refusal,
    admit,
    decode_ledger,
    encode_ledger,
    settle,
)
from edgekit.policy.snapshot import Snapshot
from edgekit.policy.tenants import Tenant
from edgekit.ports import Clock, KeyValueStore, RandomSource, StoreUnavailableError

__all__ = ["Admission", "AdmissionDesk", "LimitExceededError"]

_ATTEMPTS = 16
"""A swap fails only when another instance's succeeded; 16 in a row mean more rivals than cores."""

_BACKOFF_S = 0.002


class LimitExceededError(RateLimitedError):
    """A limit of the tenant refuses the request.

    Attributes:
        uses: Where the tenant stands with each limit.
    """

    def __init__(self, tenant: Tenant, refusal: Refusal, uses: Sequence[QuotaUse]) -> None:
        super().__init__(
            f"tenant {tenant.name!r} has used up its limit {refusal.limit!r}; "
            f"try again in {math.ceil(refusal.retry_after_s)} s",
            retry_after_s=refusal.retry_after_s,
        )
        self.uses = tuple(uses)


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to go on.

    Attributes:
        uses: Where the tenant stands with each limit.
        slot: Name of the slot held at the upstream; empty when none is held.
        written: The ledger as this admission left it: the first guess when settling.
        metered: False when the store did not serve and the request was let through uncounted.
    """

    uses: tuple[QuotaUse, ...] = ()
    slot: str = ""
    written: bytes = b""
    metered: bool = True


class AdmissionDesk:
    """Charges ledgers. Costs one operation on an admission and one on a settlement, when alone.

    Args:
        fail_open: Let requests through when the store does not serve. The default keeps answers
            coming in an outage; where a limit protects money, say no instead.
    """

    def __init__(
        self, store: KeyValueStore, clock: Clock, random: RandomSource, *, fail_open: bool = True
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._fail_open = fail_open

    @staticmethod
    def keys(tenant: Tenant) -> list[str]:
        """What `admit` needs in its snapshot; nothing for a tenant without limits."""
        return [_key(tenant)] if tenant.limits.any else []

    def admit(self, snapshot: Snapshot, tenant: Tenant, *, hold_s: float | None) -> Admission:
        """Charge one request.

        Args:
            snapshot: Read with `keys`.
            tenant: Who is calling.
            hold_s: Seconds after which a slot at the upstream lapses (the request's deadline);
                None for a request that goes to no upstream.

        Raises:
            RateLimitedError: A limit refuses it; `retry_after_s` says when it may succeed.
            OverloadedError: Too many rivals for the same ledger, or the store does not serve and
                this desk does not fail open.
        """
        if not tenant.limits.any:
            return Admission()
        if not snapshot.available:
            return self._without_store()
        try:
            return self._charge(snapshot.get(_key(tenant)), tenant, hold_s)
        except StoreUnavailableError:
            return self._without_store()

    def settle(
        self, tenant: Tenant, admission: Admission, *, tokens: int = 0, cost_micro: int = 0
    ) -> None:
        """Give back the slot and charge tokens and cost; one operation when nobody interferes.

        When the store does not serve, the slot lapses by itself and the charge is lost.
        """
        if not admission.written or not (admission.slot or tokens or cost_micro):
            return
        raw: bytes | None = admission.written
        try:
            for attempt in range(_ATTEMPTS):
                ledger = settle(
                    decode_ledger(raw),
                    self._clock.now_s(),
                    slot=admission.slot,
                    tokens=tokens,
                    cost_micro=cost_micro,
                )
                if self._swap(_key(tenant), raw, self._encode(ledger), attempt):
                    return
                raw = self._read_again(tenant, attempt)
        except StoreUnavailableError:
            return

    def _charge(self, raw: bytes | None, tenant: Tenant, hold_s: float | None) -> Admission:
        slot = self._random.token_bytes(6).hex() if hold_s is not None else ""
        for attempt in range(_ATTEMPTS):
            now_s = self._clock.now_s()
            wanted = (slot, math.ceil((now_s + hold_s) * 1000)) if hold_s is not None else None
            ledger, refusal, uses = admit(decode_ledger(raw), tenant.limits, now_s, wanted)
            if refusal is not None:
                raise LimitExceededError(tenant, refusal, uses)
            written = self._encode(ledger)
            if self._swap(_key(tenant), raw, written, attempt):
                held = slot if slot in ledger.slots else ""
                return Admission(tuple(uses), held, written)
            raw = self._read_again(tenant, attempt)
        raise OverloadedError(
            f"too many requests of tenant {tenant.name!r} arrive at the same moment; try again",
            retry_after_s=1.0,
        )

    def _swap(self, key: str, expected: bytes | None, value: bytes, attempt: int) -> bool:
        # The creator of an absent ledger may have died half-way: later attempts do not wait for it.
        if expected is None and attempt < _ATTEMPTS // 2:
            return create_once(self._store, key, value)
        return self._store.compare_and_swap(key, expected, value)

    def _encode(self, ledger: Ledger) -> bytes:
        return encode_ledger(ledger, self._random.token_bytes(6).hex())

    def _read_again(self, tenant: Tenant, attempt: int) -> bytes | None:
        self._clock.sleep(self._random.random() * _BACKOFF_S * min(attempt + 1, 8))
        return self._store.get(_key(tenant))

    def _without_store(self) -> Admission:
        if self._fail_open:
            return Admission(metered=False)
        raise OverloadedError(
            "limits cannot be checked now, and this service does not serve unchecked",
            retry_after_s=1.0,
        )


def _key(tenant: Tenant) -> str:
    return f"ledger/{tenant.name}"

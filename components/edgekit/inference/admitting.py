"""Charging the tenant for a request, and settling when the client has its answer."""

from __future__ import annotations

from dataclasses import replace

from edgekit.exchange import Exchange
from edgekit.policy.admission import AdmissionDesk, LimitExceededError
from edgekit.policy.snapshot import Snapshot

__all__ = ["admission_keys", "admit", "admit_call", "charge"]


def admission_keys(exchange: Exchange) -> list[str]:
    """What `admit` needs in its snapshot."""
    return AdmissionDesk.keys(exchange.tenant)


def admit(exchange: Exchange, snapshot: Snapshot, *, hold: bool) -> None:
    """Charge the request to its tenant; settled after the response.

    Args:
        exchange: The request.
        snapshot: Read with `admission_keys`.
        hold: It goes to an upstream and takes one of the tenant's slots there.

    Raises:
        LimitExceededError: A limit refuses it.
        OverloadedError: It cannot be charged.
    """
    ports, tenant = exchange.ports, exchange.tenant
    desk = AdmissionDesk(
        ports.store,
        ports.clock,
        ports.random,
        fail_open=exchange.settings.policy.limits_fail_open,
    )
    hold_s = exchange.deadline.remaining_s() if hold else None
    try:
        admission = desk.admit(snapshot, tenant, hold_s=hold_s)
    except LimitExceededError as error:
        exchange.uses = error.uses
        raise
    exchange.uses = admission.uses

    def settle() -> None:
        facts = exchange.facts
        desk.settle(tenant, admission, tokens=facts.tokens, cost_micro=facts.cost_micro)

    exchange.after.append(settle)


def charge(exchange: Exchange, model: str, *, tokens: int = 0, output_tokens: int = 0) -> None:
    """Note what an upstream's answer cost; charged to the tenant when the request is settled.

    Args:
        exchange: The request.
        model: Which one answered.
        tokens: Read and generated.
        output_tokens: Those of them that were generated.
    """
    price = exchange.settings.policy.prices.of(model)
    cost_micro = price.cost_micro(input_tokens=tokens - output_tokens, output_tokens=output_tokens)
    exchange.facts = replace(exchange.facts, tokens=tokens, cost_micro=cost_micro)


def admit_call(exchange: Exchange) -> None:
    """Charge a call that is passed through. Raises as `admit`."""
    keys = admission_keys(exchange)
    if keys:
        admit(exchange, Snapshot.read(exchange.ports.store, keys), hold=True)

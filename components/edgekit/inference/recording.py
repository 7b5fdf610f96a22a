"""Writing down what happened, once the client has its answer."""

from __future__ import annotations

from edgekit.exchange import Exchange
from edgekit.http import Response
from edgekit.policy.delivery import DeliveryRule, Recorder
from edgekit.policy.records import (
    InferenceRecord,
    encode_record,
    record_id,
    sampled_payload,
    tenant_digest,
)
from edgekit.policy.spool import Spool

__all__ = ["record_inference"]

RECORDS_PATH = "/v1/records"


def record_inference(
    exchange: Exchange, kind: str, model: str, response: Response, *, late: bool = False
) -> None:
    """Record one inference after the response, and pass on what waits when it is time.

    Args:
        exchange: The request.
        kind: Of its route.
        model: Which one it asked.
        response: What it got.
        late: The response is a stream, so that only its end tells what there is to record.
    """
    settings = exchange.settings.policy.records
    # What the client did wrong is no inference.
    if not settings.enabled or 400 <= response.status < 500:
        return
    # Made now where it can be, so that time and latency are those of the answer.
    record = None if late else _record(exchange, kind, model, response)
    ports = exchange.ports
    recorder = Recorder(
        Spool(ports.store, ports.random, settings.shape),
        ports.store,
        ports.http,
        ports.clock,
        DeliveryRule(exchange.settings.backend_url + RECORDS_PATH),
    )

    def write() -> None:
        made = record or _record(exchange, kind, model, response)
        if recorder.record(encode_record(made)) is None:
            exchange.log("a record was lost: neither the store nor the backend takes it")
        recorder.flush_if_due()

    response.after.append(write)


def _record(exchange: Exchange, kind: str, model: str, response: Response) -> InferenceRecord:
    sample_rate = exchange.settings.policy.records.sample_rate
    facts, placement = exchange.facts, exchange.placement
    body = exchange.request.body
    payload = None
    if sample_rate and isinstance(body, bytes):
        payload = sampled_payload(body, sample_rate, exchange.ports.random)
    return InferenceRecord(
        id=record_id(exchange.ports.random),
        time_ms=int(exchange.ports.clock.now_s() * 1000),
        tenant=tenant_digest(exchange.tenant.name),
        route=kind,
        model=model,
        model_version=facts.model_version,
        model_digest=facts.model_digest,
        tier=placement.tier if placement else "",
        reason=placement.reason if placement else "",
        cache=facts.cache,
        status=facts.status or response.status,
        latency_ms=exchange.elapsed_ms(),
        confidence=facts.confidence,
        class_id=facts.class_id,
        tokens=facts.tokens or None,
        cost_micro=facts.cost_micro or None,
        request_id=exchange.trace.request_id,
        payload=payload,
    )

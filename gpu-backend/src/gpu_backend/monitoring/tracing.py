"""Spans that continue the client's `traceparent`, sent by OTLP where OpenTelemetry is installed.

Off by default: without `BACKEND_TRACING` nothing is imported and a span costs one call. Where to
send is for OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and the like).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gpu_backend.errors import ConfigError

__all__ = ["Tracer", "make_tracer"]

_OFF: AbstractContextManager[None] = nullcontext()


class Tracer:
    """Opens no spans; what is used when tracing is off."""

    def span(
        self,
        operation: bytes,  # noqa: ARG002
        model: str,  # noqa: ARG002
        fields: Mapping[bytes, bytes],  # noqa: ARG002
    ) -> AbstractContextManager[Any]:
        """A context in which the work of one request is done."""
        return _OFF

    def close(self) -> None:
        """Send what is still held back."""


class OtlpTracer(Tracer):
    """Opens a server span per request."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override the name given here.
        resource = Resource.create({"service.name": "gpu-backend"})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("gpu_backend")

    def span(
        self, operation: bytes, model: str, fields: Mapping[bytes, bytes]
    ) -> AbstractContextManager[Any]:
        """A server span under the client's span."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {
            key.decode(): fields[key].decode("latin-1")
            for key in (b"traceparent", b"tracestate")
            if key in fields
        }
        return self._tracer.start_as_current_span(
            operation.decode(),  # bounded; the model's name comes from a URL
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"inference.model": model},
        )

    def close(self) -> None:
        """Send what is still held back."""
        self._provider.shutdown()


def make_tracer(is_on: bool) -> Tracer:
    """The tracer that the settings ask for.

    Raises:
        ConfigError: Tracing is on and OpenTelemetry is not installed.
    """
    if not is_on:
        return Tracer()
    try:
        return OtlpTracer()
    except ImportError as exc:
        raise ConfigError(
            [f"BACKEND_TRACING: OpenTelemetry is missing ({exc}); install the `tracing` extra"]
        ) from exc

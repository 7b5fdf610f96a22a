"""Correlation of one request across programs: W3C Trace Context and `X-Request-Id`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekit.http import Headers
from edgekit.ports import RandomSource

__all__ = ["Trace", "open_trace"]

TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8
REQUEST_ID_BYTES = 12

# Trace Context, section 3.2: a later version may append fields, version 00 may not.
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}"
    r"-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?"
)
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Trace:
    """Identifiers of one request.

    Attributes:
        request_id: Given by the client where it was usable, else made here.
        traceparent: For the next hop: same trace, this hop as parent.
        tracestate: Vendors' data, relayed with a trace that came in; None otherwise.
    """

    request_id: str
    traceparent: str
    tracestate: str | None

    def write(self, headers: Headers) -> None:
        """Set the fields the next hop reads."""
        headers.set("x-request-id", self.request_id)
        headers.set("traceparent", self.traceparent)
        headers.remove("tracestate")
        if self.tracestate is not None:
            headers.set("tracestate", self.tracestate)


def open_trace(headers: Headers, random: RandomSource) -> Trace:
    """Continue the client's trace, or begin one that is marked as not recorded."""
    fresh = random.token_bytes(REQUEST_ID_BYTES + TRACE_ID_BYTES + SPAN_ID_BYTES).hex()
    request_id = fresh[: 2 * REQUEST_ID_BYTES]
    trace_id = fresh[2 * REQUEST_ID_BYTES : 2 * (REQUEST_ID_BYTES + TRACE_ID_BYTES)]
    span_id = fresh[2 * (REQUEST_ID_BYTES + TRACE_ID_BYTES) :]
    given_id = headers.last("x-request-id")
    if given_id is not None and _REQUEST_ID.fullmatch(given_id):
        request_id = given_id
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent") or "")
    if parent is None or (parent["version"] == "00" and parent["rest"]):
        return Trace(request_id, f"00-{trace_id}-{span_id}-00", None)
    # Flags other than "sampled" are not known to this version (section 3.2.2.5).
    sampled = int(parent["flags"], 16) & 1
    traceparent = f"00-{parent['trace']}-{span_id}-{sampled:02x}"
    return Trace(request_id, traceparent, headers.get("tracestate"))

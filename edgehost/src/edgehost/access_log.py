"""One line per request, on stderr."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from edgehost.http.exchange import Exchange

__all__ = ["log_access"]


def log_access(exchange: Exchange) -> None:
    """Print client, request, status, body bytes and duration of an exchange that has ended.

    An exchange whose client left shows status 499 when no head was sent (nginx's convention), and
    a ``+`` after the byte count when the response was cut.
    """
    request, stats = exchange.request, exchange.stats
    elapsed_ms = (time.monotonic() - stats.started_s) * 1000
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    cut = "" if stats.complete else "+"
    print(
        f"{now} {request.client[0]}:{request.client[1]} {request.method} "
        f"{_printable(request.path_with_query)} {stats.status or 499} {stats.sent_bytes}{cut} "
        f"{elapsed_ms:.1f}ms",
        file=sys.stderr,
        flush=True,
    )


def _printable(target: str) -> str:
    """The target without control characters, which could forge lines."""
    return "".join(c if c.isprintable() else f"%{ord(c):02X}" for c in target)

"""`POST /v1/cache/purge`: make stored answers disappear, by model, tenant, key, or all of them.

{"model": "digits"}   {"tenant": "acme"}   {"key": "<address from Cache-Status>"}   {"all": true}
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from edgekit.errors import InvalidInputError, OverloadedError
from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.policy.cache import ResponseCache
from edgekit.ports import StoreUnavailableError
from edgekit.protocols.json_text import parse_json
from edgekit.routing import Route

__all__ = ["ROUTE"]

MAX_BODY_BYTES = 4096

_ADDRESS = re.compile(r"[0-9a-f]{64}")


def _parse(exchange: Exchange, _held: Sequence[str]) -> Response:
    name, value = _target(exchange.request.read(MAX_BODY_BYTES))
    cache = ResponseCache(exchange.settings.policy.cache)
    try:
        found = _purge(cache, exchange, name, value)
    except StoreUnavailableError as error:
        raise OverloadedError(
            "the key-value store does not answer; nothing was purged", retry_after_s=1.0
        ) from error
    body = json.dumps({"purged": {name: value}, "found": found}).encode()
    return Response(200, Headers([("content-type", "application/json")]), body)


def _target(body: bytes) -> tuple[str, Any]:
    try:
        document = parse_json(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(f"the body is no JSON: {exc}") from exc
    if not isinstance(document, dict) or len(document) != 1:
        raise InvalidInputError("the body takes exactly one of model, tenant, key, all")
    [(name, value)] = document.items()
    usable = {
        "model": isinstance(value, str) and 0 < len(value) <= 128,
        "tenant": isinstance(value, str) and 0 < len(value) <= 63,
        "key": isinstance(value, str) and _ADDRESS.fullmatch(value) is not None,
        "all": value is True,
    }
    if not usable.get(name, False):
        raise InvalidInputError(
            f"{str(name)[:40]!r} cannot be purged with that value; the body takes exactly one of "
            "model, tenant, key (64 hex digits from Cache-Status), all (true)",
            param=str(name)[:40],
        )
    return name, value


def _purge(cache: ResponseCache, exchange: Exchange, name: str, value: Any) -> bool | None:
    """Whether something lay there, where that is known."""
    store = exchange.ports.store
    if name == "key":
        return cache.purge_key(store, value)
    if name == "model":
        cache.purge_model(store, value)
    elif name == "tenant":
        cache.purge_tenant(store, value)
    else:
        cache.purge_all(store)
    return None


ROUTE = Route("/v1/cache/purge", ("POST",), _parse, scope="admin")

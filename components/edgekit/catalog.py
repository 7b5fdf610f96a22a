"""Model metadata, kept in the key-value store so that a request needs one call to the backend.

An entry is trusted until it expires, or until an answer's `Inference-Model` names another digest
than the entry does (`edgekit.routes.classify`). One entry per model and version that exists, so
clients cannot fill the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from edgekit.backend import model_path
from edgekit.errors import EdgeError, UpstreamUnavailableError
from edgekit.exchange import Exchange
from edgekit.ports import StoreUnavailableError
from edgekit.protocols.json_text import parse_json
from edgekit.protocols.model_metadata import ClassifierMetadata, parse_classifier_metadata

__all__ = ["fetch_facts", "fetch_metadata", "find_facts", "find_metadata", "metadata_key"]

Facts = TypeVar("Facts")
Parse = Callable[[object], Facts]
"""What a route needs of a metadata document; raises `EdgeError` where the model is not for it."""

PREFIX = "meta/"
SCHEMA = 1
"""Of a stored entry; one of another schema is as good as none."""


def find_metadata(exchange: Exchange, name: str, version: str | None) -> ClassifierMetadata | None:
    """The stored metadata of a classifier, see `find_facts`."""
    return find_facts(exchange, name, version, parse_classifier_metadata)


def find_facts(
    exchange: Exchange, name: str, version: str | None, parse: Parse[Facts]
) -> Facts | None:
    """The stored metadata; None when there is none, or none that may be trusted."""
    try:
        entry = exchange.read(metadata_key(name, version))
    except StoreUnavailableError as error:
        exchange.log(f"metadata of {name!r} was not read: {error}")
        return None
    if entry is None:
        return None
    try:
        stored = parse_json(entry)
        remaining_s = stored["expires_s"] - exchange.ports.clock.now_s()
        # A wall clock that was set back must not prolong an entry's life.
        if stored["schema"] != SCHEMA or not 0 < remaining_s <= exchange.settings.metadata_ttl_s:
            return None
        return parse(stored["document"])
    except (ValueError, KeyError, TypeError, EdgeError) as error:
        exchange.log(f"metadata of {name!r} in the store is damaged: {error}")
        return None


def fetch_metadata(
    exchange: Exchange, name: str, version: str | None, *, of_version: str | None = None
) -> ClassifierMetadata:
    """The metadata of a classifier as the backend gives it now, see `fetch_facts`."""
    return fetch_facts(exchange, name, version, parse_classifier_metadata, of_version=of_version)


def fetch_facts(
    exchange: Exchange,
    name: str,
    version: str | None,
    parse: Parse[Facts],
    *,
    of_version: str | None = None,
) -> Facts:
    """The metadata as the backend gives it now; it is stored once the client has its answer.

    Args:
        exchange: The request it is for.
        name: Model name.
        version: Version the client asked for, None for the active one; the entry's key.
        parse: Reads the document.
        of_version: Version to ask about where it is known better than by `version`.

    Raises:
        EdgeError: The backend cannot be reached, refuses, or gives a document without sense.
    """
    _, content = exchange.backend().call("GET", model_path(name, of_version or version))
    try:
        document = parse_json(content)
    except ValueError as exc:
        raise UpstreamUnavailableError("the model's metadata is no JSON.") from exc
    metadata = parse(document)
    expires_s = exchange.ports.clock.now_s() + exchange.settings.metadata_ttl_s
    entry = {"schema": SCHEMA, "expires_s": expires_s, "document": document}
    value = json.dumps(entry, separators=(",", ":")).encode()

    exchange.keep.append((metadata_key(name, version), value))
    return metadata


def metadata_key(name: str, version: str | None) -> str:
    """Where the metadata lies."""
    return f"{PREFIX}{name}/{version or ''}"

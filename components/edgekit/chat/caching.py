"""Answers of language models kept and given again, as whole answers or as the streams they were.

Only what is deterministic is looked up: temperature 0, a seed, or embeddings; others when the
client asks for a stored answer. A stream is kept once its terminal event has passed, in the chunks
it was sent in, usage included. An engine that does not say which version of a model answered
(`Inference-Model`) is not cached: nobody could tell when its model is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import NotCachedError
from edgekit.exchange import Exchange
from edgekit.http import Body, Headers
from edgekit.inference.contract import Answer, restore_answer
from edgekit.inference.shelf import Shelf
from edgekit.policy.cache_control import (
    parse_request_directives,
    parse_response_directives,
)
from edgekit.policy.cache_entry import StoredAnswer
from edgekit.policy.cache_key import canonical_json
from edgekit.policy.cache_status import CacheStatus
from edgekit.policy.freshness import Verdict
from edgekit.protocols.inference_headers import parse_model_identity

__all__ = ["Capture", "ChatCache", "is_deterministic", "open_cache", "replay"]

INDIFFERENT = ("user", "metadata", "keep_alive", "store", "safety_identifier", "prompt_cache_key")
"""Members of a request that do not decide on its answer."""

EMBEDDINGS = ("/v1/embeddings", "/api/embed", "/api/embeddings")


def is_deterministic(path: str, document: Mapping[str, Any]) -> bool:
    """True when the same request to the same model has the same answer."""
    if path in EMBEDDINGS:
        return True
    sampling = (document.get("options") or {}) if path.startswith("/api/") else document
    return sampling.get("temperature") == 0 or sampling.get("seed") is not None


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """One call of a language model, as the cache sees it. Implements `contract.Question`."""

    path: str
    document: Mapping[str, Any]
    dialect: str
    kind: str = "chat"
    version: str | None = None

    @property
    def model(self) -> str:
        """Model name."""
        return str(self.document["model"])

    @property
    def deterministic(self) -> bool:
        """See `is_deterministic`."""
        return is_deterministic(self.path, self.document)

    def stored_keys(self) -> Sequence[str]:
        """Nothing besides the answer."""
        return ()

    def canonical(self, _exchange: Exchange) -> Sequence[bytes]:
        """Route, engine's protocol and request: a stream and a whole answer are two entries."""
        decisive = {name: value for name, value in self.document.items() if name not in INDIFFERENT}
        return (self.path.encode(), self.dialect.encode(), canonical_json(decisive))


class ChatCache:
    """The cache as one chat request meets it.

    Args:
        shelf: Read for this request.
        exchange: The request.
    """

    def __init__(self, shelf: Shelf, exchange: Exchange) -> None:
        self._shelf = shelf
        self._exchange = exchange
        self._verdict, self._fwd = shelf.judge()

    @property
    def keeps(self) -> bool:
        """Whether an answer could be stored, so that capturing it makes sense."""
        return self._shelf.cacheable

    def find(self) -> StoredAnswer | None:
        """A stored answer that will do. Raises `NotCachedError` where only that was wanted."""
        if self._verdict is Verdict.UNSATISFIABLE:
            self._note(CacheStatus(detail="only-if-cached"))
            raise NotCachedError("nothing stored meets the request, and it wants nothing else")
        if self._verdict in (Verdict.FRESH, Verdict.STALE) and self._shelf.stored is not None:
            self._shelf.touch()
            return self._hit(CacheStatus(hit=True, key=self._shelf.address))
        # A stale stream is not refreshed behind the client's back: that would be a generation.
        fwd = "stale" if self._verdict is Verdict.STALE_THEN_REFRESH else self._fwd
        self._note(CacheStatus(fwd=fwd))
        return None

    def find_for_error(self) -> StoredAnswer | None:
        """A stored answer that may stand in for an engine that failed."""
        if self._shelf.stored is None or not self._shelf.covers_errors():
            return None
        self._shelf.touch()
        status = CacheStatus(fwd="stale", key=self._shelf.address, detail="stale-if-error")
        return self._hit(status)

    def keep(self, fields: Headers, media_type: str, capture: Capture) -> None:
        """Store what was captured after the response, where it may be."""
        identity = parse_model_identity(fields.last("inference-model"))
        if identity is None or not (identity.digest or identity.version):
            return
        answer = Answer(
            headers=Headers([("content-type", media_type)]),
            body=capture.body,
            identity=identity,
            directives=parse_response_directives(fields),
        )
        self._shelf.learn(answer)
        if capture.usable:
            self._shelf.put(answer, complete=True, frames=capture.frames)

    def _hit(self, status: CacheStatus) -> StoredAnswer | None:
        self._note(status)
        return self._shelf.stored

    def _note(self, status: CacheStatus) -> None:
        self._exchange.cache_status = status.serialize()


class Capture:
    """A copy of what a client gets, up to a size; beyond it there is none.

    Args:
        limit_bytes: Most that is held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._chunks: list[bytes] = []
        self._size = 0
        self.usable = True

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self._chunks)

    @property
    def frames(self) -> tuple[int, ...]:
        """Sizes of the chunks."""
        return tuple(map(len, self._chunks))

    def add(self, chunk: bytes) -> None:
        """Note one chunk."""
        self._size += len(chunk)
        if self._size > self._limit_bytes:
            self.usable = False
            self._chunks.clear()
        if self.usable:
            self._chunks.append(chunk)

    def through(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks as they come, each noted before it is given."""
        for chunk in chunks:
            self.add(chunk)
            yield chunk


def open_cache(
    exchange: Exchange, path: str, document: Mapping[str, Any], dialect: str
) -> ChatCache | None:
    """The cache for one request; None where its answer is neither stored nor to be looked up."""
    rule = exchange.settings.policy.routes["chat"].cache
    asked = parse_request_directives(exchange.request.headers)
    question = ChatQuestion(path, document, dialect)
    wanted = question.deterministic or asked.wants_stored
    if not asked.only_if_cached and (rule.ttl_s == 0 or not wanted):
        return None
    shelf = Shelf(exchange, question, asked, rule)
    shelf.read(())
    return ChatCache(shelf, exchange)


def replay(stored: StoredAnswer, exchange: Exchange) -> tuple[Headers, Body]:
    """Fields and body of a stored answer: a stream in the chunks it was sent in."""
    headers = Headers(restore_answer(stored).headers)
    age_s = stored.freshness(exchange.ports.clock.now_s()).age_s
    headers.set("age", str(age_s))
    headers.set("inference-model", restore_answer(stored).identity.serialize())
    return headers, stored.chunks() if stored.frames else stored.body

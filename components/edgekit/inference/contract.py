"""What a route has to offer so that policy can be applied to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.models.document import EdgeModel
from edgekit.policy.cache_control import ResponseDirectives
from edgekit.policy.cache_entry import StoredAnswer
from edgekit.protocols.inference_headers import ModelIdentity

__all__ = ["Answer", "Inference", "Question", "restore_answer"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer in the form in which it is stored.

    Attributes:
        headers: Fields to send with it, those of the policy aside.
        body: In the route's own form; `Inference.respond` makes the client's of it.
        identity: The model that answered.
        confidence: Of the top class, where there is one.
        class_id: The top class, where there is one.
        tokens: Model tokens, where they are counted.
        directives: What the upstream says about storing it.
    """

    headers: Headers
    body: bytes
    identity: ModelIdentity
    confidence: float | None = None
    class_id: int | None = None
    tokens: int = 0
    directives: ResponseDirectives = field(default_factory=ResponseDirectives)

    def facts(self) -> dict[str, object]:
        """What is stored beside fields and body; `restore_answer` reads it."""
        identity = self.identity
        return {
            "model": [identity.name, identity.version, identity.digest, identity.provider],
            "confidence": self.confidence,
            "class_id": self.class_id,
        }


def restore_answer(stored: StoredAnswer) -> Answer:
    """The answer as it was before it was stored; it costs no tokens a second time."""
    facts = stored.facts
    return Answer(
        headers=Headers(stored.headers),
        body=stored.body,
        identity=ModelIdentity(*facts["model"]),
        confidence=facts["confidence"],
        class_id=facts["class_id"],
    )


class Question(Protocol):
    """What the cache has to know of a request. Methods are called in the order they stand here."""

    @property
    def kind(self) -> str:
        """Kind of route, as settings and records name it."""
        ...

    @property
    def model(self) -> str:
        """Model name."""
        ...

    @property
    def version(self) -> str | None:
        """Version the client asks for; None for the active one."""
        ...

    def stored_keys(self) -> Sequence[str]:
        """What else is to be read from the store with the request's snapshot."""
        ...

    def canonical(self, exchange: Exchange, /) -> Sequence[bytes]:
        """Receive the body; all that decides on the answer, in its canonical form."""
        ...

    @property
    def deterministic(self) -> bool:
        """True when the same request to the same model has the same answer."""
        ...


@runtime_checkable
class Inference(Question, Protocol):
    """One request for one answer of one model. Methods are called in the order they stand here."""

    @property
    def has_upstream(self) -> bool:
        """True when cluster and cloud may have the model."""
        ...

    @property
    def edge_model(self) -> EdgeModel | None:
        """The model inside this component that can answer as well."""
        ...

    def understand(self, exchange: Exchange, /) -> None:
        """Decode the input, once nothing stored will do. Raises `InvalidInputError`."""
        ...

    def ask(self, exchange: Exchange, /) -> Answer:
        """The answer of the upstream that `exchange.backend()` is."""
        ...

    def answer_at_edge(self, exchange: Exchange, /) -> Answer:
        """The answer of `edge_model`."""
        ...

    def respond(self, exchange: Exchange, answer: Answer, /) -> Response:
        """The client's form of an answer, new or stored."""
        ...

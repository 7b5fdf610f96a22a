"""What a route has to offer so that policy can be applied to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from edgekit.backend import Upstream
from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.inference.upstreams import backend_upstreams
from edgekit.models.document import EdgeModel
from edgekit.policy.cache_control import ResponseDirectives
from edgekit.policy.cache_entry import StoredAnswer
from edgekit.policy.placement import Tier
from edgekit.protocols.inference_headers import ModelIdentity

__all__ = ["Answer", "Arriving", "Ended", "Inference", "restore_answer"]


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a streamed answer.

    Attributes:
        tokens: Model tokens it took, as far as it came.
        output_tokens: Those of them that were generated.
        status: Recorded instead of the head's, where that turned out to be untrue.
        answer: All of it; None where it is incomplete, or too large to keep.
    """

    tokens: int
    output_tokens: int
    status: int | None
    answer: Answer | None


class Arriving(Protocol):
    """The body of an answer that is still on its way from the upstream."""

    def chunks(self) -> Iterator[bytes]:
        """The client's body, as it comes; taken once."""
        ...

    def ended(self) -> Ended:
        """What became of it, once `chunks` has ended or was closed."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in the form in which it is stored.

    Attributes:
        headers: Fields to send with it, those of the policy aside.
        body: In the route's own form; `Inference.respond` makes the client's of it.
        identity: The model that answered.
        confidence: Of the top class, where there is one.
        class_id: The top class, where there is one.
        tokens: Model tokens, where they are counted.
        output_tokens: Those of them that were generated.
        directives: What the upstream says about storing it.
        frames: Sizes of the chunks of a streamed answer, in order; empty for any other.
        arriving: The body of a streamed answer that has just begun; `body` is empty then.
    """

    headers: Headers
    body: bytes
    identity: ModelIdentity
    confidence: float | None = None
    class_id: int | None = None
    tokens: int = 0
    output_tokens: int = 0
    directives: ResponseDirectives = field(default_factory=ResponseDirectives)
    frames: tuple[int, ...] = ()
    arriving: Arriving | None = None

    def facts(self) -> dict[str, object]:
        """What is stored beside fields and body; `restore_answer` reads it."""
        return {
            "model": self.identity.parts(),
            "confidence": self.confidence,
            "class_id": self.class_id,
        }

    def chunks(self) -> Iterator[bytes]:
        """The body of a streamed answer in its chunks."""
        position = 0
        for size in self.frames:
            yield self.body[position : position + size]
            position += size


def restore_answer(stored: StoredAnswer) -> Answer:
    """The answer as it was before it was stored; it costs no tokens a second time."""
    facts = stored.facts
    return Answer(
        headers=Headers(stored.headers),
        body=stored.body,
        identity=ModelIdentity(*facts["model"]),
        confidence=facts["confidence"],
        class_id=facts["class_id"],
        frames=stored.frames,
    )


@runtime_checkable
class Inference(Protocol):
    """One request for one answer of one model. Methods are called in the order they stand here.

    Routes inherit from it, and with it what is true of most: the answer comes whole, from the
    backend, and nothing but it is stored. By the class Python knows them, too, without a look at
    every member.
    """

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

    @property
    def streamed(self) -> bool:
        """True when the client wants the answer as it grows.

        Such a request does not wait for another's answer, whose last byte comes long after the
        first one of its own would; and its time is that to the first byte.
        """
        return False

    @property
    def edge_model(self) -> EdgeModel | None:
        """The model inside this component that can answer as well."""
        ...

    def upstreams(self, exchange: Exchange, /) -> Mapping[Tier, Upstream]:
        """Who may have the model; empty for one that exists in the component alone."""
        return backend_upstreams(exchange.settings)

    def stored_keys(self) -> Sequence[str]:
        """What else is to be read from the store with the request's snapshot."""
        return ()

    def canonical(self, exchange: Exchange, /) -> Sequence[bytes]:
        """Receive the body; all that decides on the answer, in its canonical form."""
        ...

    @property
    def deterministic(self) -> bool:
        """True when the same request to the same model has the same answer."""
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

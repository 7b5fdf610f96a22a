"""What a language model's answer consists of, whatever protocol carries it.

A streamed answer is a sequence of deltas, one finish and one usage; a whole answer is the same with
a single delta. Readers make events from an upstream's bytes, writers make the client's bytes
from events, so each protocol is read once and written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Delta", "Event", "Finish", "ToolCallDelta", "Usage"]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """Part of one call of a tool.

    Attributes:
        index: Which call of the answer it belongs to.
        id: Identifier of the call; empty in all but the first part, or where the protocol has none.
        name: Of the function; empty in all but the first part.
        arguments: Fragment of the arguments' JSON text.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """What was generated since the delta before.

    Attributes:
        text: The answer itself.
        reasoning: What a reasoning model thinks before it answers.
        tool_calls: Calls it wants made.
        logprobs: One entry per token: token, logprob, bytes, top_logprobs.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()
    logprobs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """Why generation ended: stop, length, tool_calls or content_filter."""

    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Model tokens of one request.

    Attributes:
        prompt_tokens: Read.
        completion_tokens: Generated.
        cached_tokens: Those of the prompt that the engine did not have to read again.
        reasoning_tokens: Those generated before the answer.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """All of them."""
        return self.prompt_tokens + self.completion_tokens


Event = Delta | Finish | Usage

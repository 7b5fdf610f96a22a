"""What the operator decides about chat; `docs/chat.md` explains the variables."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edgekit.backend import Upstream
from edgekit.chat.prompts import PromptRules, read_prompt_rules
from edgekit.ports import Timeouts, Variables
from edgekit.variables import VariableReader

__all__ = ["ChatSettings", "Dialect", "read_chat_settings"]


class Dialect(Enum):
    """A protocol that language models are asked in."""

    OPENAI = "openai"
    OLLAMA = "ollama"


UPSTREAMS = ("backend", "openai", "ollama")


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """All of it.

    Attributes:
        dialect: What the upstream speaks; None for both, as the backend does.
        engine: The upstream. Its name is not the backend's even where it is the backend: a model
            that writes and fails must not shut out those that classify.
        max_body_bytes: Largest request body.
        prompts: What is done to prompts before they leave.
    """

    dialect: Dialect | None
    engine: Upstream
    max_body_bytes: int
    prompts: PromptRules

    def dialect_for(self, client: Dialect) -> Dialect:
        """What to ask in, on behalf of a client that speaks `client`."""
        return self.dialect or client


def read_chat_settings(variables: Variables) -> ChatSettings:
    """The settings in force. Raises `InternalError`, its text lists every fault."""
    reader = VariableReader(variables)
    upstream = reader.text("chat_upstream") or "backend"
    if upstream not in UPSTREAMS:
        reader.fault(f"variable chat_upstream is {upstream!r}, it takes {', '.join(UPSTREAMS)}")
        upstream = "backend"
    own = upstream == "backend"
    settings = ChatSettings(
        dialect=None if own else Dialect(upstream),
        engine=Upstream(
            name="chat",
            url=reader.origin("backend_url" if own else "chat_upstream_url"),
            timeouts=_timeouts(reader),
            key="" if own else reader.text("chat_upstream_key"),
        ),
        max_body_bytes=reader.number("max_body_bytes", 1, 1 << 30),
        prompts=read_prompt_rules(reader),
    )
    reader.raise_any()
    return settings


def _timeouts(reader: VariableReader) -> Timeouts:
    return Timeouts(
        connect_s=reader.number("backend_connect_timeout_ms", 1, 600_000) / 1000,
        # The answer of a call that is not streamed begins when it is complete.
        first_byte_s=reader.number("chat_first_byte_timeout_ms", 1, 600_000, 120_000) / 1000,
        between_bytes_s=reader.number("chat_between_bytes_timeout_ms", 1, 600_000, 30_000) / 1000,
    )

"""What every language-model engine does: one request in, a stream of chunks out.

Engines are chosen per model in its manifest: ONNX Runtime in this process (`embedded`), an Ollama
server (`ollama`), or any server that speaks OpenAI's protocol (`openai_compatible`). The rules of
a stream, held by one contract suite for all of them:

* A chunk with `finish` is the last one, and every complete stream has it. A stream that fails
  raises; it never just stops.
* Text is whole: no chunk ends inside a character, a stop sequence is never part of it.
* Closing the iterator (`aclose`) cancels the generation and frees what it held, at any time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

__all__ = [
    "Capabilities",
    "Chunk",
    "Chunks",
    "Embeddings",
    "Engine",
    "Finish",
    "FinishReason",
    "Format",
    "GenerateRequest",
    "Message",
    "ModelCard",
    "Prompt",
    "Sampling",
    "TokenScore",
    "ToolCall",
    "Usage",
]


class FinishReason(StrEnum):
    """Why a generation ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; `arguments` is JSON text, perhaps only a part of it."""

    index: int
    id: str | None
    name: str | None
    arguments: str

    def joined(self, part: ToolCall) -> ToolCall:
        """This call with the next part of it."""
        return replace(
            self,
            id=self.id or part.id,
            name=self.name or part.name,
            arguments=self.arguments + part.arguments,
        )


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: Its text.
        images: Base64 of each picture.
        tool_calls: That the assistant asked for in this turn.
        tool_call_id: Of the call that a ``tool`` message answers.
        name: Of the speaker or the tool.
    """

    role: str
    content: str
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text to be continued as it is, without a chat template.

    Attributes:
        text: What the model continues.
        system: For servers that build a prompt of their own from the two.
        images: Base64 of each picture.
        raw: False lets a server apply its own template to `text`, as Ollama does.
    """

    text: str
    system: str | None = None
    images: tuple[str, ...] = ()
    raw: bool = True


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; None leaves it to the model's own defaults.

    Attributes:
        temperature: 0 always takes the most probable token.
        top_p: Smallest set of tokens with this much probability.
        top_k: Of the most probable tokens; 0 takes them all.
        min_p: Tokens below this part of the most probable one are left out.
        seed: Equal seeds give equal texts from the same engine.
        presence_penalty: Taken from the logit of every token that was generated.
        frequency_penalty: The same, for each time it was.
        repetition_penalty: Divides the logits of tokens of prompt and text; 1 changes nothing.
        logit_bias: Added to the logit of a token.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Format:
    """A form that the text must have.

    Attributes:
        kind: ``json_object``, ``json_schema``, ``regex`` or ``grammar`` (Lark).
        data: The schema as JSON text, the expression, or the grammar; empty for `json_object`.
        name: Of the schema, as the client called it.
    """

    kind: str
    data: str = ""
    name: str = "response"


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One text to be generated.

    Attributes:
        input: A conversation, or text to continue.
        sampling: How tokens are chosen.
        max_tokens: Of the generated text; None takes what the model allows.
        stop: The text ends before the first of them.
        top_logprobs: Alternatives per token; 0 gives the chosen token's alone, None gives none.
        format: The form that the text must have.
        tools: Functions the model may ask for, as OpenAI and Ollama both write them.
        tool_choice: As OpenAI writes it.
        extra: What only some servers understand, by the name of the engine it is for.
    """

    input: tuple[Message, ...] | Prompt
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    format: Format | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One generated token and how probable it was.

    Attributes:
        token: Its text; a part of a character appears as U+FFFD.
        logprob: Natural logarithm of its probability before sampling was narrowed.
        raw: The bytes it stands for.
        top: The most probable tokens at its place, as (token, logprob, bytes).
    """

    token: str
    logprob: float
    raw: bytes
    top: tuple[tuple[str, float, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of prompt and text; the token that ends a text is not counted.

    Attributes:
        prompt_tokens: Of the whole prompt, template included.
        completion_tokens: That were generated.
        prompt_s: Seconds until the prompt was read; None where the engine does not say.
        completion_s: Seconds of generation.
        load_s: Seconds of loading the model for this request.
        queue_s: Seconds of waiting for a slot.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_s: float | None = None
    completion_s: float | None = None
    load_s: float | None = None
    queue_s: float | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a stream."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class Chunk:
    """What came since the last chunk.

    Attributes:
        text: Whole characters.
        thinking: Text that a reasoning model does not count as its answer.
        scores: Of the tokens of `text`, when they were asked for.
        tool_calls: Or parts of them.
        finish: Set in the last chunk alone.
    """

    text: str = ""
    thinking: str = ""
    scores: tuple[TokenScore, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Finish | None = None


Chunks = AsyncGenerator[Chunk, None]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per text, and the tokens that were read."""

    vectors: Sequence[Sequence[float]]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do beyond text; a request for what it cannot is refused.

    Attributes:
        chat: It has a chat template.
        logprobs: It tells the probabilities of tokens.
        formats: Kinds of `Format` it can hold a text to.
        tools: It understands `tools` and tells calls apart from text.
        images: It looks at pictures.
        embeddings: `embed` works.
    """

    chat: bool = True
    logprobs: bool = False
    formats: frozenset[str] = frozenset()
    tools: bool = False
    images: bool = False
    embeddings: bool = False


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known about one model without loading it.

    Attributes:
        name: As clients call it.
        engine: ``onnxruntime-genai``, ``ollama`` or ``openai``.
        version: Of its folder; empty for models of other servers.
        digest: ``sha256:<hex>`` of its files; empty where unknown.
        size_bytes: Of its files.
        modified_s: Unix time of its last change.
        context_length: Tokens of prompt and text together; 0 where unknown.
        family: As ``llama``.
        parameter_size: As ``2.0M``; empty where unknown.
        quantization: As ``INT4``; empty where unknown.
        template: Chat template, as Jinja; empty where unknown.
        capabilities: What it can do.
        details: What another server says about it, in that server's words.
    """

    name: str
    engine: str
    version: str = ""
    digest: str = ""
    size_bytes: int = 0
    modified_s: float = 0.0
    context_length: int = 0
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    template: str = ""
    capabilities: Capabilities = field(default_factory=Capabilities)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """A structured-field item (RFC 9651) that says who answered."""
        digest = f";digest={self.digest}" if self.digest else ""
        version = f";version={self.version}" if self.version else ""
        return f"{self.name}{version}{digest};engine={self.engine}"


class Engine(Protocol):
    """Generates text with one model, or with the models of one server."""

    @property
    def is_loaded(self) -> bool:
        """The model is in memory."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What its models can do, as far as is known without asking anybody."""
        ...

    def generate(self, model: str, request: GenerateRequest) -> Chunks:
        """The text, chunk by chunk. Nothing happens before the first chunk is asked for.

        Args:
            model: Name of the model, as in its card.
            request: What is wanted.

        Raises:
            InvalidInputError: The request cannot be served as asked.
            OverloadedError: No slot will be free soon.
            ModelNotReadyError: The model cannot be loaded.
            UpstreamUnavailableError: The server cannot be reached, or broke off.
            ExecutionFailedError: The runtime failed.
        """
        ...

    async def embed(self, model: str, texts: Sequence[str], dimensions: int | None) -> Embeddings:
        """A vector per text.

        Raises:
            InvalidInputError: The engine makes no embeddings.
        """
        ...

    async def cards(self) -> Sequence[ModelCard]:
        """Every model the engine serves.

        Raises:
            UpstreamUnavailableError: The server cannot be asked.
        """
        ...

    async def load(self) -> None:
        """Bring the model into memory; the first request would do it as well.

        Raises:
            ModelNotReadyError: It cannot be loaded.
        """
        ...

    async def unload(self) -> None:
        """Free the model's memory; the next request loads it again."""
        ...

    async def close(self) -> None:
        """End everything; streams that run end with an error."""
        ...

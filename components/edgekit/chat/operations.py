"""The calls clients make, and how each reaches an engine that speaks one protocol or the other.

client                  OpenAI engine                   Ollama engine
/v1/chat/completions    as it is                        /api/chat
/v1/completions         as it is                        /api/generate, raw
/v1/responses           /v1/chat/completions            /api/chat
/v1/embeddings          as it is                        /api/embed
/api/chat               /v1/chat/completions            as it is
/api/generate           /v1/chat/completions,           as it is
                        or /v1/completions with raw
/api/embed              /v1/embeddings                  as it is
/api/embeddings         /v1/embeddings                  as it is
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgekit.chat import embeddings
from edgekit.chat.events import Usage
from edgekit.chat.from_responses import response_to_chat
from edgekit.chat.ollama_reader import OllamaReader
from edgekit.chat.ollama_writer import OllamaWriter
from edgekit.chat.openai_reader import OpenAIReader
from edgekit.chat.openai_writer import ChatWriter, CompletionWriter
from edgekit.chat.passing import OllamaRelay, OpenAIRelay
from edgekit.chat.response_writer import ResponseWriter
from edgekit.chat.settings import Dialect
from edgekit.chat.streaming import StreamCodec
from edgekit.chat.to_ollama import chat_to_ollama, completion_to_generate, embeddings_to_embed
from edgekit.chat.to_openai import (
    chat_to_openai,
    embed_to_openai,
    generate_to_chat,
    generate_to_completion,
    is_load_call,
    is_raw,
)
from edgekit.chat.usage import find_openai_usage, ollama_usage
from edgekit.chat.writing import AnswerFrame, Reader, Transcript, Translator, Writer
from edgekit.ports import UpstreamError
from edgekit.protocols import ollama, openai
from edgekit.protocols.json_text import parse_json

__all__ = ["OPERATIONS", "Operation", "Way"]

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """How one call reaches an engine, and its answer the client.

    Attributes:
        target: Path at the engine.
        request: Makes the engine's request of the client's; None leaves it as it is.
        stream: Makes the codec of a streamed answer; None where there are no streams.
        whole: Makes the client's body, and finds the usage, of an answer in one piece. May raise
            `UpstreamError`.
    """

    target: str
    request: Callable[[Document], dict[str, Any]] | None
    stream: Callable[[AnswerFrame, Document], StreamCodec] | None
    whole: Callable[[bytes, Document, AnswerFrame], tuple[bytes, Usage | None]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one protocol.

    Attributes:
        path: Where clients make it.
        dialect: Protocol it belongs to.
        check: Raises `InvalidInputError` for a request that makes no sense.
        streams: Whether a request wants its answer streamed.
        way: To an engine that speaks a protocol.
        is_local: Whether a request can be answered without an engine that speaks a protocol.
    """

    path: str
    dialect: Dialect
    check: Callable[[Document], None]
    streams: Callable[[Document], bool]
    way: Callable[[Dialect, Document], Way]
    is_local: Callable[[Dialect, Document], bool] = lambda _dialect, _document: False


# --- parts of ways ----------------------------------------------------------------------------


def _pass_openai(target: str) -> Way:
    return Way(
        target,
        None,
        lambda _frame, document: OpenAIRelay(hide_usage=not _wants_usage(document)),
        _openai_as_it_is,
    )


def _pass_ollama(target: str) -> Way:
    return Way(target, None, lambda _frame, _document: OllamaRelay(), _ollama_as_it_is)


def _translate(
    target: str,
    request: Callable[[Document], dict[str, Any]],
    reader: Callable[[], Reader],
    writer: Callable[[AnswerFrame, Document], Writer],
) -> Way:
    def whole(body: bytes, document: Document, frame: AnswerFrame) -> tuple[bytes, Usage | None]:
        transcript = Transcript(reader().whole(body))
        return writer(frame, document).whole(transcript), transcript.usage

    return Way(
        target,
        request,
        lambda frame, document: Translator(reader(), writer(frame, document)),
        whole,
    )


def _openai_as_it_is(
    body: bytes, _document: Document, _frame: AnswerFrame
) -> tuple[bytes, Usage | None]:
    _require_object(body)
    return body, find_openai_usage(body)


def _ollama_as_it_is(
    body: bytes, _document: Document, _frame: AnswerFrame
) -> tuple[bytes, Usage | None]:
    try:
        answer = parse_json(body)
        return body, ollama_usage(answer)
    except (ValueError, AttributeError) as exc:
        raise UpstreamError("the engine's answer is no JSON object") from exc


def _require_object(body: bytes) -> None:
    """Cheap on purpose: embeddings have megabytes, and their client reads them anyway."""
    text = body.strip()
    if not (text.startswith(b"{") and text.endswith(b"}")):
        raise UpstreamError("the engine's answer is no JSON object")


def _embed(
    target: str,
    request: Callable[[Document], dict[str, Any]],
    answer: Callable[[bytes, Document, AnswerFrame], bytes],
    usage: Callable[[bytes], Usage | None],
) -> Way:
    return Way(target, request, None, lambda *arguments: (answer(*arguments), usage(arguments[0])))


def _embed_usage(body: bytes) -> Usage | None:
    tokens = embeddings.embedding_tokens(body)
    return Usage(tokens) if tokens else None


def _embed_as_it_is(
    body: bytes, _document: Document, _frame: AnswerFrame
) -> tuple[bytes, Usage | None]:
    _require_object(body)
    return body, _embed_usage(body)


def _wants_usage(document: Document) -> bool:
    return bool((document.get("stream_options") or {}).get("include_usage"))


def _chat_writer(frame: AnswerFrame, document: Document) -> Writer:
    return ChatWriter(frame, include_usage=_wants_usage(document))


def _completion_writer(frame: AnswerFrame, document: Document) -> Writer:
    return CompletionWriter(frame, include_usage=_wants_usage(document))


def _ollama_writer(frame: AnswerFrame, _document: Document, *, chat: bool) -> Writer:
    return OllamaWriter(frame, chat=chat)


def _response_to_ollama(document: Document) -> dict[str, Any]:
    return chat_to_ollama(response_to_chat(document))


# --- the table --------------------------------------------------------------------------------

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

_FROM_OPENAI: Mapping[str, Mapping[Dialect, Way]] = {
    CHAT: {
        Dialect.OPENAI: _pass_openai(CHAT),
        Dialect.OLLAMA: _translate("/api/chat", chat_to_ollama, OllamaReader, _chat_writer),
    },
    COMPLETIONS: {
        Dialect.OPENAI: _pass_openai(COMPLETIONS),
        Dialect.OLLAMA: _translate(
            "/api/generate", completion_to_generate, OllamaReader, _completion_writer
        ),
    },
    "/v1/responses": {
        Dialect.OPENAI: _translate(CHAT, response_to_chat, OpenAIReader, ResponseWriter),
        Dialect.OLLAMA: _translate("/api/chat", _response_to_ollama, OllamaReader, ResponseWriter),
    },
    EMBEDDINGS: {
        Dialect.OPENAI: Way(EMBEDDINGS, None, None, _openai_as_it_is),
        Dialect.OLLAMA: _embed(
            "/api/embed", embeddings_to_embed, embeddings.ollama_to_openai, _embed_usage
        ),
    },
}

_GENERATE_AS_CHAT = _translate(
    CHAT, generate_to_chat, OpenAIReader, partial(_ollama_writer, chat=False)
)
_GENERATE_AS_COMPLETION = _translate(
    COMPLETIONS, generate_to_completion, OpenAIReader, partial(_ollama_writer, chat=False)
)

_FROM_OLLAMA: Mapping[str, Mapping[Dialect, Way]] = {
    "/api/chat": {
        Dialect.OPENAI: _translate(
            CHAT, chat_to_openai, OpenAIReader, partial(_ollama_writer, chat=True)
        ),
        Dialect.OLLAMA: _pass_ollama("/api/chat"),
    },
    "/api/embed": {
        Dialect.OPENAI: _embed(
            EMBEDDINGS, embed_to_openai, embeddings.openai_to_embed, find_openai_usage
        ),
        Dialect.OLLAMA: Way("/api/embed", None, None, _embed_as_it_is),
    },
    "/api/embeddings": {
        Dialect.OPENAI: _embed(
            EMBEDDINGS, embed_to_openai, embeddings.openai_to_embeddings, find_openai_usage
        ),
        Dialect.OLLAMA: Way("/api/embeddings", None, None, _embed_as_it_is),
    },
}


def _generate_way(dialect: Dialect, document: Document) -> Way:
    if dialect is Dialect.OLLAMA:
        return _pass_ollama("/api/generate")
    return _GENERATE_AS_COMPLETION if is_raw(document) else _GENERATE_AS_CHAT


def _from_openai(path: str, check: Callable[[Document], None]) -> Operation:
    return Operation(
        path,
        Dialect.OPENAI,
        check,
        lambda document: path != EMBEDDINGS and bool(document.get("stream")),
        lambda dialect, _document: _FROM_OPENAI[path][dialect],
    )


def _from_ollama(
    path: str, check: Callable[[Document], None], way: Callable[[Dialect, Document], Way]
) -> Operation:
    return Operation(
        path,
        Dialect.OLLAMA,
        check,
        ollama.wants_stream,
        way,
        # Engines that speak OpenAI's protocol load their models by themselves.
        lambda dialect, document: dialect is Dialect.OPENAI and is_load_call(document),
    )


def _embedding_call(path: str, check: Callable[[Document], None]) -> Operation:
    return Operation(
        path,
        Dialect.OLLAMA,
        check,
        lambda _document: False,
        lambda dialect, _document: _FROM_OLLAMA[path][dialect],
    )


OPERATIONS = (
    _from_openai(CHAT, openai.check_chat),
    _from_openai(COMPLETIONS, openai.check_completion),
    _from_openai("/v1/responses", openai.check_response),
    _from_openai(EMBEDDINGS, openai.check_embeddings),
    _from_ollama(
        "/api/chat",
        ollama.check_chat,
        lambda dialect, _document: _FROM_OLLAMA["/api/chat"][dialect],
    ),
    _from_ollama("/api/generate", ollama.check_generate, _generate_way),
    _embedding_call("/api/embed", ollama.check_embed),
    _embedding_call("/api/embeddings", ollama.check_embeddings),
)

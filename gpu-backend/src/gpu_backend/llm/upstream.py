"""HTTP to another server: connections, time limits, and its failures as errors of the backend."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from gpu_backend.errors import (
    BackendError,
    DeadlineExceededError,
    InvalidInputError,
    ModelNotFoundError,
    OverloadedError,
    UpstreamUnavailableError,
)
from gpu_backend.llm.manifest import Upstream

__all__ = ["Document", "UpstreamClient"]

Document = dict[str, Any]

_MAX_BODY_BYTES = 64 << 20
"""Of an answer that is not streamed: embeddings of a large batch."""

_MAX_ERROR_BYTES = 64 << 10

_MAX_CONNECTIONS = 1024

_WRITE_TIMEOUT_S = 30.0

_DEFAULT_RETRY_S = 2.0
"""Where a full server does not say when to come back, as Ollama does not."""


_MAX_RETRY_S = 3600.0

_NONSENSE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What reading a document of the wrong form raises."""


class UpstreamClient:
    """Requests to one server.

    Args:
        upstream: Where it is.
        base_url: Requests are relative to it.
        transport: In place of the network; for tests.
    """

    def __init__(
        self,
        upstream: Upstream,
        base_url: str,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._upstream = upstream
        self._host = urlsplit(base_url).netloc
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(
                connect=upstream.connect_timeout_s,
                read=upstream.read_timeout_s,
                write=_WRITE_TIMEOUT_S,
                pool=upstream.connect_timeout_s,
            ),
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=64),
            transport=transport,
            trust_env=False,  # a proxy for the internet is none for the cluster
        )

    async def get(self, path: str) -> Document:
        """The JSON object at `path`.

        Raises:
            BackendError: As `stream` does.
        """
        return await self._whole("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Document:
        """The JSON object that answers `body`.

        Raises:
            BackendError: As `stream` does.
        """
        return await self._whole("POST", path, body)

    @asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Pieces of the answer to `body`, as they come. Leaving the context ends the request.

        Raises:
            InvalidInputError: The server refuses the request.
            ModelNotFoundError: It has no such model.
            OverloadedError: Its queue is full.
            UpstreamUnavailableError: It cannot be reached, failed, or broke off.
        """
        with self._translated():
            request = self._request("POST", path, body)
            response = await self._client.send(request, stream=True)
            try:
                await self._check(response)
                yield self._pieces(response)
            finally:
                await response.aclose()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    def refused(self, status: int, message: str, retry_after: str | None = None) -> BackendError:
        """What a status of the server means here."""
        said = f"{self._host} answered {status}: {message}" if message else f"{status}"
        if status == 404:
            return ModelNotFoundError(said)
        if status in (429, 503):
            return OverloadedError(said, retry_after_s=_seconds(retry_after))
        if status in (408, 504):
            return DeadlineExceededError(said)
        if status in (401, 403):
            return UpstreamUnavailableError(f"{said}; check api_key_file of the model's manifest")
        if 400 <= status < 500:
            return InvalidInputError(message or said)
        return UpstreamUnavailableError(said)

    def broken(self, reason: str) -> UpstreamUnavailableError:
        """The server ended an answer before its end."""
        return UpstreamUnavailableError(f"{self._host} broke off: {reason}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A document of the server is being read: one of the wrong form is the server's fault.

        Raises:
            UpstreamUnavailableError: It was.
        """
        try:
            yield
        except _NONSENSE as exc:
            raise self.broken(f"the answer has the wrong form ({exc!r})") from exc

    # -- requests --------------------------------------------------------------------------------

    async def _whole(self, method: str, path: str, body: Mapping[str, Any] | None) -> Document:
        with self._translated():
            response = await self._client.send(self._request(method, path, body), stream=True)
            try:
                await self._check(response)
                content = await _read(response, _MAX_BODY_BYTES)
            finally:
                await response.aclose()
        try:
            document = json.loads(content)
        except ValueError as exc:
            raise self.broken("the answer is not JSON") from exc
        if not isinstance(document, dict):
            raise self.broken("the answer is no JSON object")
        return document

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Request:
        headers = {"accept-encoding": "identity"}  # tokens must not wait for a compressor
        file = self._upstream.api_key_file
        if file is not None:
            try:
                headers["authorization"] = f"Bearer {file.read_text(encoding='utf-8').strip()}"
            except OSError as exc:
                raise UpstreamUnavailableError(f"cannot read the key of {self._host}") from exc
        return self._client.build_request(method, path, json=body, headers=headers)

    async def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        content = await _read(response, _MAX_ERROR_BYTES)
        raise self.refused(
            response.status_code, _message(content), response.headers.get("retry-after")
        )

    async def _pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        with self._translated():
            async for piece in response.aiter_bytes():
                yield piece

    def _translated(self) -> _Translated:
        return _Translated(self._host)


class _Translated:
    """Errors of httpx become errors of the backend; a plain class, because it spans yields."""

    def __init__(self, host: str) -> None:
        self._host = host

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout):
            raise UpstreamUnavailableError(f"cannot connect to {self._host}: {exc}") from exc
        if isinstance(exc, httpx.PoolTimeout):
            raise OverloadedError(
                f"every connection to {self._host} is in use", retry_after_s=_DEFAULT_RETRY_S
            ) from exc
        if isinstance(exc, httpx.TimeoutException):
            raise UpstreamUnavailableError(f"{self._host} was silent for too long") from exc
        if isinstance(exc, httpx.HTTPError):
            raise UpstreamUnavailableError(f"{self._host} broke off: {exc!r}") from exc


async def _read(response: httpx.Response, limit: int) -> bytes:
    content = b""
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > limit:
            break
    return content[:limit]


def _message(content: bytes) -> str:
    """What the server says: Ollama writes a string, OpenAI an object, proxies a page."""
    try:
        document = json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace").strip()[:200]
    said: Any = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(said, dict):
        said = said.get("message") or said.get("detail") or said
    return str(said)[:500]


def _seconds(retry_after: str | None) -> float:
    try:
        seconds = float(retry_after or _DEFAULT_RETRY_S)
    except ValueError:  # a date
        return _DEFAULT_RETRY_S
    return seconds if 0.0 <= seconds <= _MAX_RETRY_S else _DEFAULT_RETRY_S

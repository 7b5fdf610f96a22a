"""`wasi:http` and `wasi:io` resources in memory, strict where a real host would trap.

A parent that is released while a child lives, a resource used or released twice, a write beyond
what was permitted: each raises `TrapError`, as a host would end the guest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import pytest
from spin_sdk.wit.imports import outgoing_handler, types
from spin_sdk.wit.imports.streams import StreamError_Closed
from spin_sdk.wit.types import Err, Ok

from edgespin import fields as edgespin_fields

__all__ = [
    "FakeError",
    "FakeFields",
    "FakeIncomingBody",
    "FakeIncomingRequest",
    "FakeIncomingResponse",
    "FakeOutgoingBody",
    "FakeOutgoingResponse",
    "FakeOutputStream",
    "Network",
    "Outparam",
    "TrapError",
    "install",
]

FORBIDDEN = {"connection", "host", "transfer-encoding", "keep-alive", "upgrade"}


class TrapError(BaseException):
    """The host would have ended the guest."""


class Resource:
    """A handle: released once, after its children."""

    def __init__(self, parent: Resource | None = None) -> None:
        self.released = False
        self.parent = parent
        self.children = 0
        if parent is not None:
            parent.children += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.released:
            raise TrapError(f"{type(self).__name__} released twice")
        if self.children:
            raise TrapError(f"{type(self).__name__} released before its children")
        self.released = True
        if self.parent is not None:
            self.parent.children -= 1

    def used(self) -> None:
        if self.released:
            raise TrapError(f"{type(self).__name__} used after its release")


class FakePollable(Resource):
    def __init__(self, parent: Resource, on_block: Callable[[], None]) -> None:
        super().__init__(parent)
        self._on_block = on_block

    def block(self) -> None:
        self.used()
        self._on_block()


class FakeFields(Resource):
    """Fields that refuse what hosts refuse: the whole list for one bad line."""

    def __init__(
        self, entries: Iterable[tuple[str, bytes]] = (), parent: Resource | None = None
    ) -> None:
        super().__init__(parent)
        self._entries = list(entries)

    @classmethod
    def from_list(cls, entries: list[tuple[str, bytes]]) -> Self:
        fields = cls()
        for name, value in entries:
            fields.append(name, value)
        return fields

    def append(self, name: str, value: bytes) -> None:
        if name in FORBIDDEN:
            raise Err(types.HeaderError_Forbidden())
        if not name or not name.isascii() or " " in name or b"\n" in value or b"\0" in value:
            raise Err(types.HeaderError_InvalidSyntax())
        self._entries.append((name, value))

    def entries(self) -> list[tuple[str, bytes]]:
        self.used()
        return list(self._entries)


class FakeInputStream(Resource):
    """Chunks in order; an exception among them is raised in its place."""

    def __init__(self, chunks: Iterable[bytes | BaseException], parent: Resource) -> None:
        super().__init__(parent)
        self._chunks = iter(chunks)

    def blocking_read(self, size: int) -> bytes:
        self.used()
        chunk = next(self._chunks, None)
        if chunk is None:
            raise Err(StreamError_Closed())
        if isinstance(chunk, BaseException):
            raise chunk
        assert len(chunk) <= size
        return chunk


class FakeOutputStream(Resource):
    """Keeps what is written; `rooms` are the answers to `check_write`, 4,096 afterwards."""

    def __init__(self, parent: FakeOutgoingBody) -> None:
        super().__init__(parent)
        self._body = parent
        self._permit = 0
        self.blocked = 0
        self.flushes = 0
        self.spliced = 0

    def check_write(self) -> int:
        self.used()
        self._fail()
        self._permit = self._body.rooms.pop(0) if self._body.rooms else 4096
        return self._permit

    def write(self, contents: bytes) -> None:
        if len(contents) > self._permit:
            raise TrapError("wrote more than check-write permitted")
        self._permit = 0
        self._take(contents)

    def blocking_write_and_flush(self, contents: bytes) -> None:
        if len(contents) > 4096:
            raise TrapError("blocking-write-and-flush takes at most 4096 bytes")
        self._take(contents)

    def blocking_splice(self, source: FakeInputStream, size: int) -> int:
        self._fail()
        data = source.blocking_read(size)
        self._take(data)
        self.spliced += len(data)
        return len(data)

    def blocking_flush(self) -> None:
        self._fail()
        self.flushes += 1

    def subscribe(self) -> FakePollable:
        return FakePollable(self, self._block)

    def _block(self) -> None:
        self.blocked += 1

    def _take(self, contents: bytes) -> None:
        self.used()
        self._fail()
        self._body.chunks.append(bytes(contents))

    def _fail(self) -> None:
        if self._body.gone:
            raise Err(StreamError_Closed())


class FakeOutgoingBody(Resource):
    """A body being sent; `gone` is set when the receiver has left."""

    def __init__(self, parent: Resource | None = None) -> None:
        super().__init__(parent)
        self.chunks: list[bytes] = []
        self.rooms: list[int] = []
        self.gone = False
        self.finished = False
        self.stream: FakeOutputStream | None = None

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    def write(self) -> FakeOutputStream:
        self.used()
        self.stream = FakeOutputStream(self)
        return self.stream

    @classmethod
    def finish(cls, this: FakeOutgoingBody, trailers: object) -> None:
        this.__exit__(None, None, None)
        if this.gone:
            raise Err(types.ErrorCode_ConnectionTerminated())
        this.finished = True


class FakeIncomingBody(Resource):
    def __init__(self, chunks: Iterable[bytes | BaseException], parent: Resource) -> None:
        super().__init__(parent)
        self.stream_taken = FakeInputStream([], self)
        self.stream_taken.__exit__(None, None, None)
        self._chunks = chunks

    def stream(self) -> FakeInputStream:
        self.used()
        self.stream_taken = FakeInputStream(self._chunks, self)
        return self.stream_taken


class FakeIncomingRequest(Resource):
    """What the trigger passes in."""

    def __init__(
        self,
        method: types.Method | None = None,
        target: str | None = "/",
        headers: Iterable[tuple[str, bytes]] = (),
        chunks: Iterable[bytes | BaseException] = (),
    ) -> None:
        super().__init__()
        self._method = types.Method_Get() if method is None else method
        self._target = target
        self._headers = list(headers)
        self._chunks = chunks
        self.consumed: FakeIncomingBody | None = None

    def method(self) -> types.Method:
        return self._method

    def path_with_query(self) -> str | None:
        return self._target

    def headers(self) -> FakeFields:
        return FakeFields(self._headers, self)

    def consume(self) -> FakeIncomingBody:
        if self.consumed is not None:
            raise Err(None)
        self.consumed = FakeIncomingBody(self._chunks, self)
        return self.consumed


class FakeOutgoingResponse(Resource):
    def __init__(self, headers: FakeFields) -> None:
        super().__init__()
        self.fields = headers
        self.status: int | None = None
        self.sent_body: FakeOutgoingBody | None = None

    def set_status_code(self, status_code: int) -> None:
        self.status = status_code

    def body(self) -> FakeOutgoingBody:
        self.sent_body = FakeOutgoingBody()
        return self.sent_body


class Outparam:
    """Where the response goes; `body_setup` prepares the body before the guest writes."""

    def __init__(self, body_setup: Callable[[FakeOutgoingBody], None] | None = None) -> None:
        self.response: FakeOutgoingResponse | None = None
        self._body_setup = body_setup

    @staticmethod
    def set(param: Outparam, response: Any) -> None:
        if param.response is not None:
            raise TrapError("the response was set twice")
        param.response = response.value
        if param._body_setup is not None and param.body is not None:
            param._body_setup(param.body)

    @property
    def body(self) -> FakeOutgoingBody:
        assert self.response is not None, "no response was set"
        assert self.response.sent_body is not None
        return self.response.sent_body

    def headers(self) -> dict[str, str]:
        assert self.response is not None
        return {name: value.decode("latin-1") for name, value in self.response.fields.entries()}


class FakeRequestOptions:
    def __init__(self) -> None:
        self.timeouts: dict[str, int] = {}

    def set_connect_timeout(self, duration: int) -> None:
        self.timeouts["connect"] = duration

    def set_first_byte_timeout(self, duration: int) -> None:
        self.timeouts["first_byte"] = duration

    def set_between_bytes_timeout(self, duration: int) -> None:
        self.timeouts["between_bytes"] = duration


class FakeOutgoingRequest(Resource):
    """A request being made; refuses an authority that holds a space."""

    def __init__(self, headers: FakeFields) -> None:
        super().__init__()
        self.fields = headers
        self.parts: dict[str, object] = {}
        self.sent_body: FakeOutgoingBody | None = None

    def set_method(self, method: types.Method) -> None:
        self.parts["method"] = method

    def set_scheme(self, scheme: types.Scheme) -> None:
        self.parts["scheme"] = scheme

    def set_authority(self, authority: str) -> None:
        if " " in authority:
            raise Err(None)
        self.parts["authority"] = authority

    def set_path_with_query(self, target: str) -> None:
        self.parts["target"] = target

    def body(self) -> FakeOutgoingBody:
        self.sent_body = FakeOutgoingBody()
        self.sent_body.gone = Network.current.body_refused
        return self.sent_body


class FakeIncomingResponse(Resource):
    def __init__(
        self,
        status: int = 200,
        headers: Iterable[tuple[str, bytes]] = (),
        chunks: Iterable[bytes | BaseException] = (),
    ) -> None:
        super().__init__()
        self._status = status
        self._headers = list(headers)
        self._chunks = chunks
        self.consumed: FakeIncomingBody | None = None

    def status(self) -> int:
        self.used()
        return self._status

    def headers(self) -> FakeFields:
        return FakeFields(self._headers, self)

    def consume(self) -> FakeIncomingBody:
        self.consumed = FakeIncomingBody(self._chunks, self)
        return self.consumed


class FakeFuture(Resource):
    def __init__(self, result: object) -> None:
        super().__init__()
        self._result = result
        self._ready = False

    def subscribe(self) -> FakePollable:
        return FakePollable(self, self._arrive)

    def _arrive(self) -> None:
        self._ready = True

    def get(self) -> object:
        return self._result if self._ready else None


class FakeError(Resource):
    """A `wasi:io/error`; `code` is what `http-error-code` makes of it."""

    def __init__(self, code: object = None) -> None:
        super().__init__()
        self.code = code


class Network:
    """What outbound calls meet.

    Attributes:
        result: What the future holds once it is ready.
        refused: Raised by `handle` itself.
        body_refused: The upstream takes no body.
        sent: Every request, with its options.
    """

    current: Network

    def __init__(self) -> None:
        Network.current = self
        self.result: object = Ok(Ok(FakeIncomingResponse()))
        self.refused: Err[Any] | None = None
        self.body_refused = False
        self.sent: list[tuple[FakeOutgoingRequest, FakeRequestOptions]] = []

    def answer(self, response: FakeIncomingResponse) -> None:
        self.result = Ok(Ok(response))

    def fail(self, code: object) -> None:
        self.result = Ok(Err(code))

    def handle(self, request: FakeOutgoingRequest, options: FakeRequestOptions) -> FakeFuture:
        self.sent.append((request, options))
        if self.refused is not None:
            raise self.refused
        return FakeFuture(self.result)


def install(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Put the fakes in place of the SDK's bindings."""
    network = Network()
    monkeypatch.setattr(edgespin_fields, "Fields", FakeFields)
    monkeypatch.setattr(types, "OutgoingResponse", FakeOutgoingResponse)
    monkeypatch.setattr(types, "OutgoingBody", FakeOutgoingBody)
    monkeypatch.setattr(types, "ResponseOutparam", Outparam)
    monkeypatch.setattr(types, "OutgoingRequest", FakeOutgoingRequest)
    monkeypatch.setattr(types, "RequestOptions", FakeRequestOptions)
    monkeypatch.setattr(types, "http_error_code", lambda error: error.code)
    monkeypatch.setattr(outgoing_handler, "handle", network.handle)
    return network

"""A guest that does, path by path, what the tests of the embedded host ask of it.

Each scenario is a function named after its path. It gets the request and the response-outparam and
answers as it likes; most answer with JSON.
"""

# A scenario that meets a case it does not expect shall fail, so cases are not told apart by type.
# mypy: disable-error-code="union-attr,arg-type"

import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from spin_sdk.wit import exports
from spin_sdk.wit.imports import (
    atomics,
    batch,
    key_value,
    monotonic_clock,
    outgoing_handler,
    poll,
    redis,
    variables,
    wasi_config_store,
    wasi_keyvalue_store,
)
from spin_sdk.wit.imports.streams import StreamError_Closed, StreamError_LastOperationFailed
from spin_sdk.wit.imports.types import (
    ErrorCode_InternalError,
    Fields,
    IncomingBody,
    IncomingRequest,
    Method_Other,
    Method_Post,
    OutgoingBody,
    OutgoingRequest,
    OutgoingResponse,
    RequestOptions,
    ResponseOutparam,
    Scheme_Http,
    Scheme_Other,
    http_error_code,
)
from spin_sdk.wit.types import Err, Ok

Scenario = Callable[[IncomingRequest, ResponseOutparam], None]


def query(request: IncomingRequest) -> dict[str, str]:
    parsed = parse_qs(urlsplit(request.path_with_query() or "/").query)
    return {name: values[0] for name, values in parsed.items()}


def decoded(fields: Fields) -> list[list[str]]:
    return [[name, value.decode("latin-1")] for name, value in fields.entries()]


def write_all(body: OutgoingBody, data: bytes) -> None:
    with body.write() as stream:
        for start in range(0, len(data), 4096):
            stream.blocking_write_and_flush(data[start : start + 4096])


def respond(
    out: ResponseOutparam,
    data: bytes = b"",
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> None:
    pairs = [(name, value.encode()) for name, value in (headers or {}).items()]
    response = OutgoingResponse(Fields.from_list(pairs))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    write_all(body, data)
    OutgoingBody.finish(body, None)


def respond_json(out: ResponseOutparam, value: object) -> None:
    respond(out, json.dumps(value).encode(), headers={"content-type": "application/json"})


def read_all(body: IncomingBody) -> bytes:
    data = bytearray()
    with body.stream() as stream:
        while True:
            try:
                data += stream.blocking_read(64 * 1024)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return bytes(data)
                raise


def case(action: Callable[[], object]) -> object:
    """What `action` gives: its value, or the WIT error it raises by name."""
    try:
        return action()
    except Err as error:
        return describe(error.value)


def describe(value: object) -> object:
    if value is None:
        return "err"
    name = type(value).__name__.partition("_")[2] or type(value).__name__
    payload = getattr(value, "value", None)
    if payload is None:
        return name
    if isinstance(payload, str | int):
        return [name, payload]
    if hasattr(payload, "__dict__") and payload.__dict__:
        return [name, *payload.__dict__.values()]
    return [name, type(payload).__name__]


# --- the response --------------------------------------------------------------------------------


def hello(_request: IncomingRequest, out: ResponseOutparam) -> None:
    respond(out, b"hello", headers={"content-length": "5"})


def echo(request: IncomingRequest, out: ResponseOutparam) -> None:
    respond(out, read_all(request.consume()))


def echo_streaming(request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    with request.consume() as incoming, incoming.stream() as source, body.write() as sink:
        while True:
            try:
                sink.blocking_splice(source, 4096)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    break
                raise
    OutgoingBody.finish(body, None)


def describe_request(request: IncomingRequest, out: ResponseOutparam) -> None:
    method = request.method()
    respond_json(
        out,
        {
            "method": describe(method),
            "scheme": describe(request.scheme()),
            "authority": request.authority(),
            "path": request.path_with_query(),
            "headers": [
                [name, value.decode("latin-1")] for name, value in request.headers().entries()
            ],
        },
    )


def status(request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    outcome = case(lambda: response.set_status_code(int(query(request)["code"])))
    if outcome is not None:
        response.set_status_code(400)
    ResponseOutparam.set(out, Ok(response))


def trailers_out(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    write_all(body, b"data")
    OutgoingBody.finish(body, Fields.from_list([("x-checksum", b"42")]))


def trailers_in(request: IncomingRequest, out: ResponseOutparam) -> None:
    body = request.consume()
    read_all(body)
    future = IncomingBody.finish(body)
    with future.subscribe() as ready:
        ready.block()
    first = future.get()
    second = future.get()
    fields = first.value.value
    respond_json(
        out,
        {
            "trailers": None if fields is None else decoded(fields),
            "second": describe(second.value) if isinstance(second, Err) else type(second).__name__,
        },
    )


def write_before_set(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    write_all(body, b"early")
    OutgoingBody.finish(body, None)
    ResponseOutparam.set(out, Ok(response))


def error_code(_request: IncomingRequest, out: ResponseOutparam) -> None:
    ResponseOutparam.set(out, Err(ErrorCode_InternalError("told so")))


def no_response(_request: IncomingRequest, _out: ResponseOutparam) -> None:
    return


def body_unfinished(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    write_all(body, b"half")
    body.__exit__(None, None, None)


def body_too_short(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields.from_list([("content-length", b"10")]))
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    write_all(body, b"short")
    print(json.dumps(case(lambda: OutgoingBody.finish(body, None))))


def body_too_long(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields.from_list([("content-length", b"3")]))
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    stream = body.write()
    try:
        stream.blocking_write_and_flush(b"too long")
    except Err as error:
        failed = error.value
        assert isinstance(failed, StreamError_LastOperationFailed)
        print(json.dumps(describe(http_error_code(failed.value))))
        failed.value.__exit__(None, None, None)
    stream.__exit__(None, None, None)
    print(json.dumps(case(lambda: OutgoingBody.finish(body, None))))


def write_after_finish(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    stream = body.write()
    stream.blocking_write_and_flush(b"data")
    OutgoingBody.finish(body, None)  # the stream is still alive: this traps


def set_twice(_request: IncomingRequest, out: ResponseOutparam) -> None:
    ResponseOutparam.set(out, Ok(OutgoingResponse(Fields())))
    ResponseOutparam.set(out, Ok(OutgoingResponse(Fields())))


def body_twice(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    again = case(response.body)
    stream = body.write()
    stream_again = case(body.write)
    ResponseOutparam.set(out, Ok(response))
    stream.blocking_write_and_flush(json.dumps([again, stream_again]).encode())
    stream.__exit__(None, None, None)
    OutgoingBody.finish(body, None)


def work_after_response(_request: IncomingRequest, out: ResponseOutparam) -> None:
    respond(out, b"answered")
    with key_value.Store.open("default") as store:
        store.set("recorded", b"yes")


def large_write(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    with body.write() as stream:
        stream.blocking_write_and_flush(bytes(4097))


def write_over_budget(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    with body.write() as stream:
        stream.write(bytes(stream.check_write() + 1))


def zeroes(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    with body.write() as stream:
        stream.write_zeroes(10)
        stream.blocking_write_zeroes_and_flush(6)
        stream.flush()
        stream.blocking_flush()
    OutgoingBody.finish(body, None)


def stream_out(request: IncomingRequest, out: ResponseOutparam) -> None:
    """Write `size` bytes in chunks, waiting for the client as needed."""
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    write_all(body, bytes(int(query(request)["size"])))
    OutgoingBody.finish(body, None)


def consume_twice(request: IncomingRequest, out: ResponseOutparam) -> None:
    body = request.consume()
    again = case(request.consume)
    stream = body.stream()
    stream_again = case(body.stream)
    stream.__exit__(None, None, None)
    respond_json(out, [again, stream_again])


def read_failure(request: IncomingRequest, out: ResponseOutparam) -> None:
    body = request.consume()
    with body.stream() as stream:
        try:
            while True:
                stream.blocking_read(1024)
        except Err as error:
            failed = error.value
            assert isinstance(failed, StreamError_LastOperationFailed)
            result = [failed.value.to_debug_string(), describe(http_error_code(failed.value))]
            failed.value.__exit__(None, None, None)
    respond_json(out, result)


def skip(request: IncomingRequest, out: ResponseOutparam) -> None:
    body = request.consume()
    with body.stream() as stream:
        first = stream.skip(2)
        second = stream.blocking_skip(1)
        rest = stream.blocking_read(100)
    respond_json(out, [first, second, rest.decode()])


# --- fields ---------------------------------------------------------------------------------------


def fields(request: IncomingRequest, out: ResponseOutparam) -> None:
    mutable = Fields()
    mutable.append("X-One", b"1")
    mutable.append("x-one", b"2")
    mutable.set("x-two", [b"a", b"b"])
    mutable.append("x-three", b"3")
    mutable.delete("X-THREE")
    received = request.headers()
    clone = received.clone()
    clone.append("x-added", b"yes")
    respond_json(
        out,
        {
            "entries": decoded(mutable),
            "get": [value.decode() for value in mutable.get("X-ONE")],
            "has": [mutable.has("x-one"), mutable.has("x-none"), mutable.has("not a name")],
            "bad name": case(lambda: mutable.append("not a name", b"")),
            "bad value": case(lambda: mutable.append("x", b"line\nbreak")),
            "bad length": case(lambda: mutable.append("content-length", b"+5")),
            "forbidden": case(lambda: mutable.set("Transfer-Encoding", [b"chunked"])),
            "forbidden list": case(lambda: Fields.from_list([("host", b"x")])),
            "immutable": case(lambda: received.append("x", b"y")),
            "immutable delete": case(lambda: received.delete("x")),
            "clone": clone.has("x-added") and not received.has("x-added"),
        },
    )


def fields_too_large(_request: IncomingRequest, out: ResponseOutparam) -> None:
    large = Fields()
    for number in range(3):
        large.append(f"x-{number}", b"v" * 60_000)
    respond(out, b"accepted")


# --- outbound HTTP --------------------------------------------------------------------------------


def outgoing(request: IncomingRequest, body: bytes | None = None) -> OutgoingRequest:
    wanted = query(request)
    headers = [("x-probe", b"yes")]
    if body is not None:
        headers.append(("content-length", str(len(body)).encode()))
    message = OutgoingRequest(Fields.from_list(headers))
    message.set_scheme(Scheme_Http())
    message.set_authority(wanted.get("authority", "upstream.test:8080"))
    message.set_path_with_query(wanted.get("path", "/answer?x=1"))
    return message


def fetch(request: IncomingRequest, out: ResponseOutparam) -> None:
    """GET through the outbound client and relay status, a header and the body."""
    future = outgoing_handler.handle(outgoing(request), None)
    with future.subscribe() as ready:
        ready.block()
    answer = future.get().value
    if isinstance(answer, Err):
        respond_json(out, {"error": describe(answer.value)})
        return
    again = future.get()
    response = answer.value
    body = response.consume()
    text = read_all(body).decode()
    respond_json(
        out,
        {
            "status": response.status(),
            "headers": decoded(response.headers()),
            "body": text,
            "again": "err" if isinstance(again, Err) else str(again),
        },
    )


def fetch_post(request: IncomingRequest, out: ResponseOutparam) -> None:
    payload = read_all(request.consume())
    message = outgoing(request, payload)
    message.set_method(Method_Post())
    options = RequestOptions()
    options.set_connect_timeout(1_500_000_000)
    options.set_first_byte_timeout(2_000_000_000)
    options.set_between_bytes_timeout(None)
    body = message.body()
    future = outgoing_handler.handle(message, options)
    write_all(body, payload)
    OutgoingBody.finish(body, None)
    with future.subscribe() as ready:
        ready.block()
    respond_json(out, future.get().value.value.status())


def fetch_written_first(request: IncomingRequest, out: ResponseOutparam) -> None:
    message = outgoing(request)
    message.set_method(Method_Other("PURGE"))
    body = message.body()
    write_all(body, b"written before handle")
    OutgoingBody.finish(body, Fields.from_list([("x-end", b"1")]))
    future = outgoing_handler.handle(message, None)
    with future.subscribe() as ready:
        ready.block()
    respond_json(out, future.get().value.value.status())


def fetch_and_forget(request: IncomingRequest, out: ResponseOutparam) -> None:
    with outgoing_handler.handle(outgoing(request), None):
        pass
    respond(out, b"forgotten")


def fetch_with_timeout(request: IncomingRequest, out: ResponseOutparam) -> None:
    """Wait for a call that never answers and for a timer; say which came."""
    future = outgoing_handler.handle(outgoing(request), None)
    with future.subscribe() as answered, monotonic_clock.subscribe_duration(20_000_000) as timer:
        ready = poll.poll([answered, timer])
        state = [answered.ready(), timer.ready()]
    pending = future.get() is None
    respond_json(out, {"ready": ready, "state": state, "pending": pending})


def request_syntax(_request: IncomingRequest, out: ResponseOutparam) -> None:
    message = OutgoingRequest(Fields())
    respond_json(
        out,
        {
            "method": case(lambda: message.set_method(Method_Other("NOT A METHOD"))),
            "scheme": case(lambda: message.set_scheme(Scheme_Other("1http"))),
            "authority": case(lambda: message.set_authority("host:port")),
            "no authority": case(lambda: message.set_authority("")),
            "path": case(lambda: message.set_path_with_query("/a b")),
            "defaults": [
                describe(message.method()),
                message.path_with_query(),
                message.authority(),
            ],
            "immutable": case(lambda: message.headers().append("x", b"y")),
        },
    )


def unsupported_scheme(request: IncomingRequest, out: ResponseOutparam) -> None:
    message = outgoing(request)
    message.set_scheme(Scheme_Other("ftp"))
    respond_json(out, case(lambda: outgoing_handler.handle(message, None)))


# --- key-value, variables -------------------------------------------------------------------------


def spin_store(request: IncomingRequest, out: ResponseOutparam) -> None:
    label = query(request).get("label", "default")
    opened = case(lambda: key_value.Store.open(label))
    if not isinstance(opened, key_value.Store):
        respond_json(out, {"open": opened})
        return
    with opened as store:
        absent = store.get("k")
        store.set("k", b"\x00value")
        value = store.get("k")
        exists = [store.exists("k"), store.exists("none")]
        store.set("l", b"")
        keys = sorted(store.get_keys())
        store.delete("k")
        too_long = case(lambda: store.set("x" * 256, b""))
        respond_json(
            out,
            {
                "absent": absent,
                "value": value.decode(),
                "exists": exists,
                "keys": keys,
                "after delete": store.get("k"),
                "empty": store.get("l") == b"",
                "too long": too_long,
            },
        )


def wasi_store(request: IncomingRequest, out: ResponseOutparam) -> None:
    label = query(request).get("label", "default")
    opened = case(lambda: wasi_keyvalue_store.open(label))
    if not isinstance(opened, wasi_keyvalue_store.Bucket):
        respond_json(out, {"open": opened})
        return
    with opened as bucket:
        bucket.set("a", b"1")
        batch.set_many(bucket, [("b", b"2"), ("c", b"3")])
        many = [
            [key, value and value.decode()]
            for key, value in batch.get_many(bucket, ["c", "x", "a"])
        ]
        listed = bucket.list_keys(None)
        cursor = case(lambda: bucket.list_keys("more"))
        batch.delete_many(bucket, ["a", "b"])
        counts = [atomics.increment(bucket, "n", 5), atomics.increment(bucket, "n", -7)]
        respond_json(
            out,
            {
                "many": many,
                "keys": sorted(listed.keys),
                "cursor": [listed.cursor, cursor],
                "exists": [bucket.exists("a"), bucket.exists("c")],
                "counts": counts,
            },
        )


def compare_and_swap(_request: IncomingRequest, out: ResponseOutparam) -> None:
    with wasi_keyvalue_store.open("default") as bucket:
        bucket.set("k", b"old")
        cas = atomics.Cas.new(bucket, "k")
        seen = cas.current()
        bucket.set("k", b"changed meanwhile")
        conflict = conflict_of(cas, b"new")
        atomics.swap(conflict, b"after retry")
        respond_json(out, [seen.decode(), bucket.get("k").decode()])


def conflict_of(cas: atomics.Cas, value: bytes) -> atomics.Cas:
    """The new cas that a failing swap hands back."""
    try:
        atomics.swap(cas, value)
    except Err as error:
        if isinstance(error.value, atomics.CasError_CasFailed):
            return error.value.value
        raise
    raise AssertionError("the swap should have failed")


def get_variables(_request: IncomingRequest, out: ResponseOutparam) -> None:
    respond_json(
        out,
        {
            "known": variables.get("greeting"),
            "undefined": case(lambda: variables.get("unknown")),
            "invalid": case(lambda: variables.get("Not-Valid")),
            "config": wasi_config_store.get("greeting"),
            "config unknown": wasi_config_store.get("unknown"),
            "config all": sorted(wasi_config_store.get_all()),
        },
    )


# --- the rest of WASI -----------------------------------------------------------------------------


def environment(_request: IncomingRequest, out: ResponseOutparam) -> None:
    respond_json(out, {"variables": dict(os.environ), "cwd files": case_of_oserror(os.listdir)})


def case_of_oserror(action: Callable[[], object]) -> object:
    try:
        return action()
    except OSError as error:
        return type(error).__name__


def output(_request: IncomingRequest, out: ResponseOutparam) -> None:
    print("one line\ntwo", end="")
    print(" lines")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("no line end")
    sys.stdout.flush()
    respond(out)


def stdin(_request: IncomingRequest, out: ResponseOutparam) -> None:
    respond_json(out, sys.stdin.read())


def clocks(_request: IncomingRequest, out: ResponseOutparam) -> None:
    before = time.monotonic_ns()
    time.sleep(0.01)
    respond_json(out, {"slept_ns": time.monotonic_ns() - before, "unix_s": time.time()})


def randomness(_request: IncomingRequest, out: ResponseOutparam) -> None:
    respond_json(out, {"urandom": os.urandom(16).hex(), "random": random.SystemRandom().random()})


def empty_poll(_request: IncomingRequest, out: ResponseOutparam) -> None:
    poll.poll([])
    respond(out)


def sockets(_request: IncomingRequest, out: ResponseOutparam) -> None:
    respond_json(out, case_of_oserror(socket.socket))


def unavailable(_request: IncomingRequest, out: ResponseOutparam) -> None:
    redis.Connection.open("redis://localhost")
    respond(out)


# --- faults ---------------------------------------------------------------------------------------


def raises(_request: IncomingRequest, _out: ResponseOutparam) -> None:
    raise RuntimeError("uncaught in the guest")


def exits(_request: IncomingRequest, _out: ResponseOutparam) -> None:
    os._exit(3)


def loops(_request: IncomingRequest, _out: ResponseOutparam) -> None:
    while True:
        pass


def loops_after_head(_request: IncomingRequest, out: ResponseOutparam) -> None:
    response = OutgoingResponse(Fields())
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    with body.write() as stream:
        stream.blocking_write_and_flush(b"begun")
        while True:
            pass


def sleeps(request: IncomingRequest, out: ResponseOutparam) -> None:
    time.sleep(float(query(request).get("seconds", "3600")))
    respond(out, b"awake")


def spins_on_ready(_request: IncomingRequest, _out: ResponseOutparam) -> None:
    with monotonic_clock.subscribe_duration(3600 * 10**9) as timer:
        while not timer.ready():
            pass


def hogs(_request: IncomingRequest, out: ResponseOutparam) -> None:
    try:
        data = [bytearray(8 << 20) for _ in range(512)]
    except MemoryError:
        respond(out, b"MemoryError")
    else:
        respond(out, f"got {len(data)}".encode())


def recurses(_request: IncomingRequest, out: ResponseOutparam) -> None:
    def deeper(n: int) -> int:
        return deeper(n + 1) + 1

    try:
        deeper(0)
    except RecursionError:
        respond(out, b"RecursionError")


def leaks(_request: IncomingRequest, out: ResponseOutparam) -> None:
    """Hold on to everything until the instance ends."""
    keep: list[object] = globals().setdefault("_kept", [])
    keep.append([Fields() for _ in range(10)])
    keep.append(monotonic_clock.subscribe_duration(1))
    keep.append(key_value.Store.open("default"))
    respond(out, str(len(keep)).encode())


def too_many_handles(_request: IncomingRequest, out: ResponseOutparam) -> None:
    keep = [Fields() for _ in range(20_000)]
    respond(out, str(len(keep)).encode())


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        name = urlsplit(request.path_with_query() or "/").path.strip("/").replace("-", "_")
        scenario: Scenario = globals()[name or "hello"]
        scenario(request, response_out)

"""A guest that moves bytes: what the tests and the benchmark of the embedded host ask of one.

The last segment of the path names the scenario, the query its parameters.
"""

import time
from urllib.parse import parse_qs, urlsplit

from spin_sdk.wit import exports
from spin_sdk.wit.imports import outgoing_handler
from spin_sdk.wit.imports.streams import InputStream, OutputStream, StreamError_Closed
from spin_sdk.wit.imports.types import (
    Fields,
    IncomingBody,
    IncomingRequest,
    OutgoingBody,
    OutgoingRequest,
    OutgoingResponse,
    RequestOptions,
    ResponseOutparam,
    Scheme_Http,
)
from spin_sdk.wit.types import Err, Ok

READ_BYTES = 64 * 1024
WRITE_BYTES = 4096  # the most that `blocking_write_and_flush` takes


def query(request: IncomingRequest) -> dict[str, str]:
    parsed = parse_qs(urlsplit(request.path_with_query() or "/").query)
    return {name: values[0] for name, values in parsed.items()}


def read(stream: InputStream) -> bytes | None:
    """The next bytes; None at the end."""
    try:
        return stream.blocking_read(READ_BYTES)
    except Err as error:
        if isinstance(error.value, StreamError_Closed):
            return None
        raise


def read_all(request: IncomingRequest) -> bytes:
    data = bytearray()
    body = request.consume()
    with body.stream() as stream:
        while (chunk := read(stream)) is not None:
            data += chunk
    IncomingBody.finish(body).__exit__(None, None, None)
    return bytes(data)


def write(stream: OutputStream, data: bytes) -> None:
    for start in range(0, len(data), WRITE_BYTES):
        stream.blocking_write_and_flush(data[start : start + WRITE_BYTES])


def begin(out: ResponseOutparam, status: int = 200, length: int | None = None) -> OutgoingBody:
    pairs = [] if length is None else [("content-length", str(length).encode())]
    response = OutgoingResponse(Fields.from_list(pairs))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    return body


def respond(out: ResponseOutparam, data: bytes, status: int = 200) -> None:
    body = begin(out, status, len(data))
    with body.write() as stream:
        write(stream, data)
    OutgoingBody.finish(body, None)


def hello(_request: IncomingRequest, out: ResponseOutparam) -> None:
    respond(out, b"hello")


def echo(request: IncomingRequest, out: ResponseOutparam) -> None:
    respond(out, read_all(request))


def count(request: IncomingRequest, out: ResponseOutparam) -> None:
    respond(out, str(len(read_all(request))).encode())


def fields(request: IncomingRequest, out: ResponseOutparam) -> None:
    """The request's fields, one per line."""
    lines = [name.encode() + b": " + value for name, value in request.headers().entries()]
    respond(out, b"\n".join(lines))


def early(_request: IncomingRequest, out: ResponseOutparam) -> None:
    """Answer without a look at the request body."""
    respond(out, b"too large", 413)


def drip(request: IncomingRequest, out: ResponseOutparam) -> None:
    """Write `count` lines with pauses of `ms` between them; print how it ended."""
    wanted = query(request)
    body = begin(out)
    with body.write() as stream:
        for number in range(int(wanted["count"])):
            if number:
                time.sleep(int(wanted["ms"]) / 1000)
            write(stream, b"line %d\n" % number)
    OutgoingBody.finish(body, None)


def flood(_request: IncomingRequest, out: ResponseOutparam) -> None:
    """Write without end."""
    body = begin(out)
    with body.write() as stream:
        while True:
            write(stream, bytes(WRITE_BYTES))


def linger(request: IncomingRequest, out: ResponseOutparam) -> None:
    """Answer, go on for `ms`, then print."""
    respond(out, b"answered")
    time.sleep(int(query(request)["ms"]) / 1000)
    print("lingered")


def relay(request: IncomingRequest, out: ResponseOutparam) -> None:
    """Pass on what the upstream at `authority` answers, as it arrives.

    Nanosecond timeouts `first` and `between` are optional. A failed call is answered with 502 and
    the name of its error code, a broken body breaks the answer.
    """
    wanted = query(request)
    message = OutgoingRequest(Fields())
    message.set_scheme(Scheme_Http())
    message.set_authority(wanted["authority"])
    message.set_path_with_query(wanted.get("path", "/"))
    options = RequestOptions()
    if "first" in wanted:
        options.set_first_byte_timeout(int(wanted["first"]))
    if "between" in wanted:
        options.set_between_bytes_timeout(int(wanted["between"]))
    future = outgoing_handler.handle(message, options)
    with future.subscribe() as ready:
        ready.block()
    outcome = future.get()
    assert isinstance(outcome, Ok)
    answer = outcome.value
    if isinstance(answer, Err):
        respond(out, type(answer.value).__name__.encode(), 502)
        return
    assert isinstance(answer, Ok)
    upstream = answer.value
    body = begin(out, upstream.status())
    with upstream.consume() as incoming, incoming.stream() as source, body.write() as sink:
        while (chunk := read(source)) is not None:
            write(sink, chunk)
    OutgoingBody.finish(body, None)


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (hello, echo, count, fields, early, drip, flood, linger, relay)
}


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = urlsplit(request.path_with_query() or "/").path
        SCENARIOS[path.rpartition("/")[2] or "hello"](request, response_out)

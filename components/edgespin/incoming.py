"""The HTTP trigger: one `wasi:http` request in, one handler call, one response out.

Rules of this module:

* An exception that reaches the host is a trap, and a trap is an empty 500. So everything is
  caught: before the head is sent the client gets a problem document, after it a body that ends
  as incomplete, which every HTTP client reports.
* The head goes out before the first byte of the body is asked for, so a streamed answer starts
  when the upstream starts.
* A child resource (stream) is released before its parent (body); the reverse traps.
"""

from __future__ import annotations

import sys
import traceback
from abc import abstractmethod
from collections.abc import Callable, Generator

from spin_sdk.wit.exports import IncomingHandler
from spin_sdk.wit.imports import types
from spin_sdk.wit.imports.streams import OutputStream
from spin_sdk.wit.types import Err, Ok

from edgekit.errors import InternalError, InvalidInputError
from edgekit.http import Body, Request, Response
from edgekit.ports import UpstreamError
from edgekit.protocols.problems import problem_response
from edgespin.bodies import HostBody, write_body
from edgespin.fields import decode_fields, encode_fields
from edgespin.host import log_to_stderr

__all__ = ["HttpHandler"]

BODILESS_STATUSES = (204, 304)


class HttpHandler(IncomingHandler):
    """Base of a component's `IncomingHandler`: implement `answer`."""

    @abstractmethod
    def answer(self, request: Request) -> Response:
        """The response to `request`; what it raises becomes a 500 problem document."""

    def handle(self, request: types.IncomingRequest, response_out: types.ResponseOutparam) -> None:
        """Answer one request; never raises."""
        try:
            method, response = self._answer(request)
            _send(response_out, response, with_body=_has_body(method, response.status))
            for step in response.after:
                _run_after(step)
        except BaseException:  # whatever it is, letting it out would trap
            traceback.print_exc(file=sys.stderr)

    def _answer(self, incoming: types.IncomingRequest) -> tuple[str, Response]:
        method = "GET"
        try:
            request = _parse(incoming)
            method = request.method
            return method, self.answer(request)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            return method, problem_response(
                InternalError("the component failed; its log has the details")
            )


def _parse(incoming: types.IncomingRequest) -> Request:
    method = _method(incoming.method())
    path, _, query = (incoming.path_with_query() or "/").partition("?")
    with incoming.headers() as fields:
        headers = decode_fields(fields)
    return Request(method, path or "/", query, headers, HostBody(incoming, _broken_off))


def _method(method: types.Method) -> str:
    if isinstance(method, types.Method_Other):
        return method.value
    return type(method).__name__.removeprefix("Method_").upper()


def _broken_off(_error: object) -> Exception:
    return InvalidInputError("the request body broke off")


def _has_body(method: str, status: int) -> bool:
    """RFC 9110, sections 9.3.2, 15.3.5 and 15.4.5."""
    return method != "HEAD" and status not in BODILESS_STATUSES


def _send(response_out: types.ResponseOutparam, response: Response, *, with_body: bool) -> None:
    headers = response.headers
    if not with_body:
        # A length that no bytes follow would be an unfinished message to the host.
        headers.remove("content-length")
    elif isinstance(response.body, bytes):
        headers.set("content-length", str(len(response.body)))
    outgoing = types.OutgoingResponse(encode_fields(headers))
    outgoing.set_status_code(response.status)
    body = outgoing.body()
    types.ResponseOutparam.set(response_out, Ok(outgoing))
    complete = _write(body.write(), response.body if with_body else b"")
    if isinstance(response.body, HostBody | Generator):
        response.body.close()  # frees the upstream connection of an unfinished relay
    if complete:
        types.OutgoingBody.finish(body, None)
    else:
        body.__exit__(None, None, None)


def _write(stream: OutputStream, body: Body) -> bool:
    """True when all of it was sent; False when either side broke off."""
    with stream:
        try:
            write_body(stream, body)
        except Err:
            return False  # the client has gone
        except UpstreamError as error:
            log_to_stderr(f"the relayed body broke off: {error}")
            return False
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return False
    return True


def _run_after(step: Callable[[], None]) -> None:
    try:
        step()
    except Exception:
        traceback.print_exc(file=sys.stderr)

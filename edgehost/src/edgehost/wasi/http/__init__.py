"""wasi:http — incoming requests, outgoing responses, outbound calls."""

from edgehost.wasi.http.messages import IncomingRequestResource, ResponseOutparam
from edgehost.wasi.http.outgoing import outgoing_handler
from edgehost.wasi.http.types import types

__all__ = ["INTERFACES", "IncomingRequestResource", "ResponseOutparam"]

INTERFACES = (types, outgoing_handler)

"""The guest of the benchmarks: `hello` for a request without a body, else the body itself."""

from spin_sdk import http
from spin_sdk.http import Request, Response


class IncomingHandler(http.IncomingHandler):
    def handle_request(self, request: Request) -> Response:
        return Response(200, {"content-type": "text/plain"}, request.body or b"hello")

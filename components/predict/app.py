"""Entry of the component: wires the host's ports to the pipeline."""

from __future__ import annotations

import json

from edgekit.http import Headers, Request, Response
from edgespin.incoming import HttpHandler


class IncomingHandler(HttpHandler):
    """What the host calls for each request."""

    def answer(self, request: Request) -> Response:
        """Answer by the pipeline."""
        body = json.dumps({"path": request.path}).encode()
        return Response(200, Headers([("content-type", "application/json")]), body)

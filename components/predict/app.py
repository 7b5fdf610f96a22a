"""Entry of the component: wires the host's ports to the pipeline."""

from __future__ import annotations

from edgekit.exchange import Ports
from edgekit.http import Request, Response
from edgekit.pipeline import Pipeline
from edgekit.routes import classify, embeddings, index, infer, openinference, purge, vibration
from edgespin.host import AppVariables, HostClock, HostRandom, log_to_stderr
from edgespin.incoming import HttpHandler
from edgespin.keyvalue import DefaultStore
from edgespin.outgoing import OutboundClient

__all__ = ["PIPELINE", "IncomingHandler"]

PIPELINE = Pipeline(
    [
        index.ROUTE,
        classify.ROUTE,
        embeddings.ROUTE,
        vibration.ROUTE,
        purge.ROUTE,
        *infer.ROUTES,
        openinference.HEALTH_ROUTE,
        openinference.ROUTE,
    ]
)


class IncomingHandler(HttpHandler):
    """What the host calls for each request."""

    def answer(self, request: Request) -> Response:
        """Answer by the pipeline."""
        ports = Ports(
            http=OutboundClient(),
            store=DefaultStore(),
            variables=AppVariables(),
            clock=HostClock(),
            random=HostRandom(),
            log=log_to_stderr,
        )
        return PIPELINE(request, ports)

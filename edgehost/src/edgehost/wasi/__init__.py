"""Host side of the interfaces a component imports: one module per package of interfaces."""

from edgehost.wasi import cli, clocks, filesystem, http, io, random, sockets
from edgehost.wasm.interfaces import InterfaceRegistry

__all__ = ["REGISTRY"]

REGISTRY = InterfaceRegistry(
    (
        *cli.INTERFACES,
        *clocks.INTERFACES,
        *filesystem.INTERFACES,
        *http.INTERFACES,
        *io.INTERFACES,
        *random.INTERFACES,
        *sockets.INTERFACES,
    )
)

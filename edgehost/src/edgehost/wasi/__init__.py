"""Host side of the interfaces a component imports: one module per package of interfaces."""

from edgehost.abi.interfaces import InterfaceRegistry
from edgehost.wasi import cli, clocks, filesystem, http, io, keyvalue, random, sockets, variables

__all__ = ["REGISTRY"]

REGISTRY = InterfaceRegistry(
    (
        *cli.INTERFACES,
        *clocks.INTERFACES,
        *filesystem.INTERFACES,
        *http.INTERFACES,
        *io.INTERFACES,
        *keyvalue.INTERFACES,
        *random.INTERFACES,
        *sockets.INTERFACES,
        *variables.INTERFACES,
    )
)

"""wasi:sockets — every way to a socket or an address answers `access-denied`.

HTTP is the only way out of a component here. What needs a socket first (`tcp-socket.*`, …) cannot
be called, and traps by name if it is.
"""

from __future__ import annotations

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.abi.resources import Resource
from edgehost.abi.values import ErrorResult

__all__ = ["INTERFACES"]

instance_network = HostInterface("wasi:sockets/instance-network@0.2")
ip_name_lookup = HostInterface("wasi:sockets/ip-name-lookup@0.2")
tcp_create_socket = HostInterface("wasi:sockets/tcp-create-socket@0.2")
udp_create_socket = HostInterface("wasi:sockets/udp-create-socket@0.2")


class Network(Resource):
    """The network a component may ask for and can do nothing with."""

    __slots__ = ()


@instance_network.function("instance-network")
def get_instance_network(_guest: Guest) -> Network:
    """The default network."""
    return Network()


@ip_name_lookup.function("resolve-addresses")
def resolve_addresses(_guest: Guest, _network: Network, _name: str) -> None:
    """Refused."""
    raise ErrorResult("access-denied")


@tcp_create_socket.function("create-tcp-socket")
@udp_create_socket.function("create-udp-socket")
def create_socket(_guest: Guest, _address_family: str) -> None:
    """Refused."""
    raise ErrorResult("access-denied")


INTERFACES = (instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket)

"""wasi:filesystem — no directory is opened for a component, so no file can be reached."""

from __future__ import annotations

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.abi.resources import Resource
from edgehost.wasi.io import IoError

__all__ = ["INTERFACES"]

preopens = HostInterface("wasi:filesystem/preopens@0.2")
types = HostInterface("wasi:filesystem/types@0.2")


@preopens.function("get-directories")
def get_directories(_guest: Guest) -> list[tuple[Resource, str]]:
    """No directories."""
    return []


@types.function("filesystem-error-code")
def filesystem_error_code(_guest: Guest, _error: IoError) -> str | None:
    """No error of this host comes from a file system."""
    return None


INTERFACES = (preopens, types)

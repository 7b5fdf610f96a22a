"""Which functions the host offers, by interface and name.

One module of `edgehost.wasi` implements one or a few interfaces and lists them in a
`HostInterface`. Compatible releases of WASI 0.2 (`@0.2.0` … `@0.2.6`, …) share one interface, as
semantic versioning promises and as Wasmtime links them; everything else matches exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

__all__ = ["HostFunction", "HostInterface", "InterfaceRegistry", "compatible_name"]

HostFunction = Callable[..., Any]
"""Called with the `Guest` and the arguments; see `values` for what it takes and returns."""

_Function = TypeVar("_Function", bound=HostFunction)
_WASI_0_2: Final = re.compile(r"(wasi:[a-z0-9-]+/[a-z0-9-]+@0\.2)\.\d+")


def compatible_name(name: str) -> str:
    """Return the name under which compatible versions of an interface are known."""
    match = _WASI_0_2.fullmatch(name)
    return match.group(1) if match else name


class HostInterface:
    """The functions of one interface.

    Args:
        name: As in WIT, e.g. ``wasi:io/poll@0.2`` or ``fermyon:spin/variables@2.0.0``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.functions: dict[str, HostFunction] = {}

    def function(self, name: str) -> Callable[[_Function], _Function]:
        """Register the decorated function as `name`, e.g. ``[method]pollable.ready``."""

        def register(function: _Function) -> _Function:
            if name in self.functions:
                raise ValueError(f"{self.name}#{name} is defined twice")
            self.functions[name] = function
            return function

        return register


class InterfaceRegistry:
    """All interfaces the host offers."""

    def __init__(self, interfaces: Iterable[HostInterface]) -> None:
        self._interfaces = {interface.name: interface for interface in interfaces}

    def find(self, interface: str, function: str) -> HostFunction | None:
        """The implementation of a function a component imports, or None."""
        found = self._interfaces.get(compatible_name(interface))
        return found.functions.get(function) if found is not None else None

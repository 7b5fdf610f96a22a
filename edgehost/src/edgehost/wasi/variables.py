"""fermyon:spin/variables and wasi:config — variables, resolved when the app was loaded."""

from __future__ import annotations

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.abi.values import ErrorResult
from edgehost.variables import name_fault

__all__ = ["INTERFACES"]

spin_variables = HostInterface("fermyon:spin/variables@2.0.0")
wasi_config = HostInterface("wasi:config/store@0.2.0-draft-2024-09-27")


@spin_variables.function("get")
def get_variable(guest: Guest, name: str) -> str:
    """The value of a variable the manifest gives this component."""
    fault = name_fault(name)
    if fault is not None:
        raise ErrorResult(("invalid-name", fault))
    value = guest.spec.variables.get(name)
    if value is None:
        raise ErrorResult(("undefined", f'no variable for "{guest.spec.id}"."{name}"'))
    return value


@wasi_config.function("get")
def get_config(guest: Guest, key: str) -> str | None:
    """The value, or None for a name that is unknown or could not be one."""
    return guest.spec.variables.get(key)


@wasi_config.function("get-all")
def get_all_config(guest: Guest) -> list[tuple[str, str]]:
    """Every variable of this component."""
    return list(guest.spec.variables.items())


INTERFACES = (spin_variables, wasi_config)

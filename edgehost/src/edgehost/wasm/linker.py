"""Links one component's imports to host functions, and everything else to traps.

A linker is built once per component and serves all its instances. Each imported function becomes
one C callback that finds the calling instance by its store's context, lifts the arguments, calls
the host function and lowers what it returned. Converters are built on a function's first call:
a component imports some 230 functions and a request uses 40 of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wasmtime import Engine
from wasmtime.component import (
    Component,
    ComponentInstanceType,
    FuncType,
    Linker,
    LinkerInstance,
    ResourceType,
    ResultType,
)

from edgehost.abi import native
from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostFunction, InterfaceRegistry
from edgehost.abi.lifting import Lift, lifter
from edgehost.abi.lowering import Lower, Lowering
from edgehost.abi.native import VAL_SIZE
from edgehost.abi.values import ErrorResult
from edgehost.errors import ConfigError, GuestTrapError

__all__ = ["ComponentLinker"]

Callback = Callable[[int, int, int, int, int, int, int], int]
Call = Callable[[Guest, int, int], None]
"""Lift from the first address, call, lower to the second."""


class ComponentLinker:
    """The imports of one component, linked.

    Attributes:
        guests: The living instances by the address of their store's context. Whoever makes an
            instance enters it before instantiating and removes it after closing the store.

    Raises:
        ConfigError: The component imports something that is not an interface of functions and
            resources.
    """

    def __init__(self, engine: Engine, component: Component, registry: InterfaceRegistry) -> None:
        self.guests: dict[int, Guest] = {}
        self._registry = registry
        self._linker = Linker(engine)
        self._keep_alive: list[object] = []
        self._destructor = native.DESTRUCTOR(self._drop_resource)
        self._resources: list[tuple[ResourceType, int]] = []
        self._lowering = Lowering(self._resources)
        with component.type as component_type:
            items = {name: item.ty for name, item in component_type.imports(engine).items()}
        with self._linker.root() as root:
            for name, item in items.items():
                match item:
                    case ComponentInstanceType():
                        self._link_interface(engine, root, name, item)
                    case FuncType():
                        self._link_function(root, "", name, item)
                    case _:
                        raise ConfigError(
                            [f"import {name!r}: only interfaces and functions can be provided"]
                        )
        self.address = native.address_of(self._linker.ptr())

    def parameter_lowerers(self, function: FuncType) -> list[Lower]:
        """Return the functions that write the arguments of a function the component exports."""
        return [self._lowering.lowerer(ty) for _, ty in function.params]

    def close(self) -> None:
        """Free the linker; no instance may be alive."""
        self._linker.close()
        self._keep_alive.clear()

    def _link_interface(
        self, engine: Engine, root: LinkerInstance, name: str, interface: ComponentInstanceType
    ) -> None:
        with root.add_instance(name) as instance:
            for item_name, extern in interface.exports(engine).items():
                match extern.ty:
                    case ResourceType() as resource:
                        self._link_resource(instance, item_name, resource)
                    case FuncType() as function:
                        self._link_function(instance, name, item_name, function)
                    case _:
                        pass  # plain types need no definition

    def _link_resource(self, instance: LinkerInstance, name: str, resource: ResourceType) -> None:
        type_id = next((known for ty, known in self._resources if ty == resource), None)
        if type_id is None:
            type_id = len(self._resources) + 1
            self._resources.append((resource, type_id))
        with ResourceType.host(type_id) as host_type:
            encoded = name.encode()
            error = native.linker_add_resource(
                native.address_of(instance.ptr()),
                encoded,
                len(encoded),
                native.address_of(host_type.ptr()),
                self._destructor,
                0,
                0,
            )
        if error:
            raise native.call_error(error)

    def _link_function(
        self, instance: LinkerInstance, interface: str, name: str, ty: FuncType
    ) -> None:
        implementation = self._registry.find(interface, name)
        if implementation is None:
            label = f"{interface}#{name}" if interface else name
            callback = _trapping(self.guests, label)
        else:
            callback = self._calling(implementation, ty)
        raw = native.FUNC_CALLBACK(callback)
        self._keep_alive.append(raw)
        encoded = name.encode()
        error = native.linker_add_func(
            native.address_of(instance.ptr()), encoded, len(encoded), raw, 0, 0
        )
        if error:
            raise native.call_error(error)

    def _calling(self, implementation: HostFunction, ty: FuncType) -> Callback:
        guests = self.guests
        call: Call | None = None

        def callback(
            _data: int, context: int, _ty: int, arguments: int, _n: int, results: int, _m: int
        ) -> int:
            nonlocal call
            guest = guests[context]
            try:
                if call is None:
                    call = _compile(implementation, ty, self._lowering)
                call(guest, arguments, results)
            except BaseException as error:  # nothing may pass through C frames
                return guest.stop(error)
            if guest.table.moved:
                guest.table.moved.clear()
            return 0

        return callback

    def _drop_resource(self, _data: int, context: int, rep: int) -> int:
        guest = self.guests[context]
        try:
            guest.table.drop(rep)
        except BaseException as error:  # nothing may pass through C frames
            return guest.stop(error)
        return 0


def _trapping(guests: dict[int, Guest], label: str) -> Callback:
    def callback(
        _data: int, context: int, _ty: int, _arguments: int, _n: int, _results: int, _m: int
    ) -> int:
        return guests[context].stop(GuestTrapError(f"{label} is not available in this host"))

    return callback


def _compile(function: HostFunction, ty: FuncType, lowering: Lowering) -> Call:
    lifts = [lifter(param) for _, param in ty.params]
    invoke = _invoker(function, lifts)
    result = ty.result
    if result is None:

        def call_without_result(guest: Guest, arguments: int, _results: int) -> None:
            invoke(guest, arguments)

        return call_without_result
    if isinstance(result, ResultType):
        lower_ok, lower_err = lowering.result_cases(result)
        return _returning_result(invoke, lower_ok, lower_err)
    lower = lowering.lowerer(result)

    def call(guest: Guest, arguments: int, results: int) -> None:
        lower(guest, results, invoke(guest, arguments))

    return call


def _returning_result(
    invoke: Callable[[Guest, int], Any], lower_ok: Lower, lower_err: Lower
) -> Call:
    def call(guest: Guest, arguments: int, results: int) -> None:
        try:
            value = invoke(guest, arguments)
        except ErrorResult as error:
            lower_err(guest, results, error.value)
        else:
            lower_ok(guest, results, value)

    return call


def _invoker(function: HostFunction, lifts: list[Lift]) -> Callable[[Guest, int], Any]:
    """Return a function that lifts the arguments and calls; unrolled for the common arities."""
    match lifts:
        case []:
            return lambda guest, _arguments: function(guest)
        case [lift]:
            return lambda guest, arguments: function(guest, lift(guest, arguments))
        case [first, second]:
            return lambda guest, arguments: function(
                guest, first(guest, arguments), second(guest, arguments + VAL_SIZE)
            )
    offsets = tuple((lift, position * VAL_SIZE) for position, lift in enumerate(lifts))
    return lambda guest, arguments: function(
        guest, *[lift(guest, arguments + offset) for lift, offset in offsets]
    )

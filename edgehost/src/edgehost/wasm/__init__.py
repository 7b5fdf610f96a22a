"""Runs Wasm components: engine, instances, and the bridge between Wasm values and Python."""

from edgehost.abi.guest import Cancellation
from edgehost.wasm.engine import CompiledComponent, WasmEngine
from edgehost.wasm.runner import ComponentRunner

__all__ = ["Cancellation", "CompiledComponent", "ComponentRunner", "WasmEngine"]

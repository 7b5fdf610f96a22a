"""Fixtures that run real guests in the Wasm core of the embedded host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from edgehost.ports import ComponentSpec
from edgehost.wasm import CompiledComponent, WasmEngine
from fakes.edgehost_runner import GuestHarness
from fakes.guest_builder import BUILD_DIR, GUEST_ENVIRONMENT, build_guest

ProbeFactory = Callable[..., AbstractContextManager[GuestHarness]]


@pytest.fixture(scope="session")
def wasm_engine() -> Iterator[WasmEngine]:
    """The engine that all tests of this session share."""
    engine = WasmEngine(cache_dir=BUILD_DIR / "compiled", pool_size=8)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def probe_component(wasm_engine: WasmEngine) -> CompiledComponent:
    """The guest of tests/wasm/guests/probe, compiled."""
    if not (GUEST_ENVIRONMENT / "bin" / "componentize-py").exists():
        pytest.skip("no .venv-guest: run `make build` first")
    return wasm_engine.load(build_guest("probe"))


@pytest.fixture
def probe(wasm_engine: WasmEngine, probe_component: CompiledComponent) -> ProbeFactory:
    """Make a harness for the probe guest; keywords go into its `ComponentSpec`."""

    def make(
        *, outbound: Any = None, outbound_policy: Any = None, prewarm: int = 0, **spec: Any
    ) -> GuestHarness:
        component = ComponentSpec("probe", probe_component.source, outbound=outbound_policy, **spec)
        harness = GuestHarness(wasm_engine, probe_component, component, prewarm=prewarm)
        if outbound is not None:
            harness.outbound = outbound
        return harness

    return make

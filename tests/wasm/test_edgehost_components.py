"""Loading and linking: which components run, from the text in tests/wasm/guests/minimal.wat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

from edgehost.errors import ConfigError, GuestTrapError
from edgehost.ports import ComponentSpec
from edgehost.wasm import WasmEngine
from fakes.edgehost_http import MemorySink
from fakes.edgehost_runner import GuestHarness

pytestmark = pytest.mark.wasm

TEMPLATE = (Path(__file__).parent / "guests" / "minimal.wat").read_text()
GAUGE = '(import "acme:sensors/gauge@1.2.3" (instance $gauge (export "read" (func))))'
READ_GAUGE = f'{GAUGE} (core func $extra (canon lower (func $gauge "read")))'
ANSWER = "(call $answer (local.get $out) (i32.const 204))"

Run = Callable[..., MemorySink]


@pytest.fixture
def run(wasm_engine: WasmEngine, tmp_path: Path) -> Run:
    """Compile the template, serve one request with it."""

    def run_minimal(body: str, *, version: str = "0.2.0", imports: str = READ_GAUGE) -> MemorySink:
        text = TEMPLATE.replace("VERSION", version).replace("IMPORT", imports)
        source = tmp_path / "minimal.wasm"
        source.write_bytes(wasmtime.wat2wasm(text.replace("BODY", body)))
        compiled = wasm_engine.load(source)
        with GuestHarness(wasm_engine, compiled, ComponentSpec("minimal", source)) as guest:
            return guest.run("/")

    return run_minimal


@pytest.mark.parametrize("version", ["0.2.0", "0.2.3", "0.2.6", "0.2.10"])
def test_component_of_any_wasi_0_2_release_runs(run: Run, version: str) -> None:
    assert run(ANSWER, version=version).status == 204


def test_component_with_unknown_import_runs_until_it_calls_it(run: Run) -> None:
    assert run(ANSWER).status == 204

    error = run("(call $extra)").error

    assert isinstance(error, GuestTrapError)
    assert str(error) == "acme:sensors/gauge@1.2.3#read is not available in this host"


def test_unknown_function_of_a_known_interface_traps_by_name(run: Run) -> None:
    imports = (
        '(import "wasi:clocks/wall-clock@0.2.9" (instance $clock (export "adjust" (func))))'
        '(core func $extra (canon lower (func $clock "adjust")))'
    )

    error = run("(call $extra)", imports=imports).error

    assert str(error) == "wasi:clocks/wall-clock@0.2.9#adjust is not available in this host"


def test_unknown_function_at_the_top_level_traps_by_name(run: Run) -> None:
    imports = '(import "tick" (func $tick)) (core func $extra (canon lower (func $tick)))'

    assert str(run("(call $extra)", imports=imports).error) == (
        "tick is not available in this host"
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("(unreachable)", "wasm `unreachable` instruction executed"),
        ("(drop (i32.load (i32.const -4)))", "out of bounds memory access"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer divide by zero"),
        ("(call $answer (i32.const 77) (i32.const 200))", "unknown handle index 77"),
    ],
)
def test_trap_names_its_cause(run: Run, body: str, text: str) -> None:
    error = run(body).error

    assert isinstance(error, GuestTrapError)
    assert text in str(error)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<html>", "not WebAssembly, where a WebAssembly component is expected"),
        (wasmtime.wat2wasm("(module)"), "a core module, where a WebAssembly component is expected"),
        (
            wasmtime.wat2wasm("(component)"),
            "exports no wasi:http/incoming-handler@0.2.x but nothing",
        ),
        (b"\0asm\x0d\0\1\0garbage", "not a valid WebAssembly component"),
    ],
)
def test_file_that_is_no_http_component_is_refused(
    wasm_engine: WasmEngine, tmp_path: Path, content: bytes, text: str
) -> None:
    source = tmp_path / "wrong.wasm"
    source.write_bytes(content)

    with pytest.raises(ConfigError, match=f"^{source}: ") as caught:
        wasm_engine.load(source)

    assert text in str(caught.value)


def test_missing_file_is_refused(wasm_engine: WasmEngine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        wasm_engine.load(tmp_path / "none.wasm")


def test_component_that_needs_a_module_from_its_host_is_refused(run: Run) -> None:
    imports = f'{READ_GAUGE} (import "library" (core module $library (export "memory" (memory 1))))'

    with pytest.raises(ConfigError, match="import 'library': only interfaces and functions"):
        run(ANSWER, imports=imports)

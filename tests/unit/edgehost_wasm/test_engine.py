"""The component cache and the slots for instances, without running a guest."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import wasmtime

from edgehost.abi.interfaces import HostInterface, InterfaceRegistry, compatible_name
from edgehost.wasm.cache import ComponentCache
from edgehost.wasm.engine import InstanceSlots

WASM = bytes(wasmtime.wat2wasm('(component (core module (func (export "f"))))'))


@pytest.fixture(scope="module")
def engine() -> wasmtime.Engine:
    return wasmtime.Engine()


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_compiled_component_is_kept_and_found(engine: wasmtime.Engine, tmp_path: Path) -> None:
    cache = ComponentCache(tmp_path / "cache", "settings")
    cache.load(engine, WASM)
    (entry,) = entries(tmp_path / "cache")
    written = entry.stat().st_mtime_ns

    ComponentCache(tmp_path / "cache", "settings").load(engine, WASM)

    assert entries(tmp_path / "cache") == [entry]
    assert entry.stat().st_mtime_ns == written
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_other_settings_do_not_find_the_entry(engine: wasmtime.Engine, tmp_path: Path) -> None:
    ComponentCache(tmp_path, "settings").load(engine, WASM)

    ComponentCache(tmp_path, "other settings").load(engine, WASM)

    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign"])
def test_damaged_entry_is_replaced(
    engine: wasmtime.Engine, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ComponentCache(tmp_path, "settings")
    cache.load(engine, WASM)
    (entry,) = entries(tmp_path)
    good = entry.read_bytes()
    content = {
        "truncated": good[: len(good) // 2],
        "flipped": good[:100] + bytes([good[100] ^ 1]) + good[101:],
        "foreign": b"not machine code",
    }[damage]
    entry.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        cache.load(engine, WASM)

    assert "its content does not match its name" in caplog.text
    assert entries(tmp_path) == [entry]
    assert entry.read_bytes() == good


def test_entry_wasmtime_refuses_is_replaced(
    engine: wasmtime.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an upgrade of wasmtime that kept its version number."""
    import hashlib

    cache = ComponentCache(tmp_path, "settings")
    cache.load(engine, WASM)
    (entry,) = entries(tmp_path)
    key = entry.name.partition("-")[0]
    entry.unlink()
    foreign = b"not machine code"
    (tmp_path / f"{key}-{hashlib.sha256(foreign).hexdigest()[:32]}.cwasm").write_bytes(foreign)

    with caplog.at_level(logging.WARNING):
        cache.load(engine, WASM)

    assert "dropping cached component" in caplog.text
    assert entries(tmp_path) == [entry]


def test_cache_that_cannot_be_written_costs_nothing_but_time(
    engine: wasmtime.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("in the way")

    with caplog.at_level(logging.WARNING):
        component = ComponentCache(occupied / "cache", "settings").load(engine, WASM)

    assert component is not None
    assert "cannot cache compiled component" in caplog.text


def test_cache_without_a_folder_compiles(engine: wasmtime.Engine) -> None:
    assert ComponentCache(None, "settings").load(engine, WASM) is not None


def test_processes_that_share_a_folder_do_not_disturb_each_other(
    engine: wasmtime.Engine, tmp_path: Path
) -> None:
    caches = [ComponentCache(tmp_path, "settings") for _ in range(4)]
    threads = [threading.Thread(target=cache.load, args=(engine, WASM)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(entry.suffix == ".cwasm" for entry in entries(tmp_path))
    assert ComponentCache(tmp_path, "settings").load(engine, WASM) is not None


def test_slot_is_free_again_after_release() -> None:
    slots = InstanceSlots(1)
    assert slots.try_acquire()
    assert not slots.try_acquire()

    slots.release()

    assert slots.try_acquire()


def test_acquire_gives_up_after_its_timeout() -> None:
    slots = InstanceSlots(1)
    slots.try_acquire()

    assert not slots.acquire(0.001)


def test_acquire_asks_evictors_before_it_waits() -> None:
    slots = InstanceSlots(1)
    slots.try_acquire()
    asked: list[str] = []

    def nothing_idle() -> bool:
        asked.append("first")
        return False

    def one_idle() -> bool:
        asked.append("second")
        slots.release()
        return True

    slots.add_evictor(nothing_idle)
    slots.add_evictor(one_idle)

    assert slots.acquire(5)
    assert asked == ["first", "second"]


def test_waiting_acquire_gets_the_slot_that_is_released() -> None:
    slots = InstanceSlots(1)
    slots.try_acquire()
    outcome: list[bool] = []
    waiter = threading.Thread(target=lambda: outcome.append(slots.acquire(10)))
    waiter.start()

    slots.release()
    waiter.join(10)

    assert outcome == [True]


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("wasi:io/poll@0.2.0", "wasi:io/poll@0.2"),
        ("wasi:http/types@0.2.13", "wasi:http/types@0.2"),
        ("wasi:http/types@0.2.0-rc-2023-11-10", "wasi:http/types@0.2.0-rc-2023-11-10"),
        ("wasi:keyvalue/store@0.2.0-draft2", "wasi:keyvalue/store@0.2.0-draft2"),
        ("fermyon:spin/variables@2.0.0", "fermyon:spin/variables@2.0.0"),
        ("wasi:http/handler@0.3.0", "wasi:http/handler@0.3.0"),
    ],
)
def test_only_releases_of_wasi_0_2_are_interchangeable(name: str, known_as: str) -> None:
    assert compatible_name(name) == known_as


def test_registry_finds_functions_under_any_compatible_version() -> None:
    interface = HostInterface("wasi:io/poll@0.2")
    interface.function("poll")(len)
    registry = InterfaceRegistry([interface])

    assert registry.find("wasi:io/poll@0.2.5", "poll") is len
    assert registry.find("wasi:io/poll@0.2.5", "other") is None
    assert registry.find("wasi:io/streams@0.2.5", "poll") is None


def test_function_cannot_be_defined_twice() -> None:
    interface = HostInterface("wasi:io/poll@0.2")
    interface.function("poll")(len)

    with pytest.raises(ValueError, match=r"wasi:io/poll@0\.2#poll is defined twice"):
        interface.function("poll")(len)

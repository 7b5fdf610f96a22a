"""Compiled components on disk.

A cache entry is one file, ``<key>-<sha256 of its content>.cwasm``: the name proves the content, so
one atomic rename publishes both and no reader can see half of an entry. The key covers the
component's bytes, the engine's settings, the version of Wasmtime and the processor, because
Wasmtime maps an entry as executable code and checks little of it.

Two processes may share a directory; both compile, and the later rename wins. An entry that does not
match its name, or that Wasmtime refuses, is removed and made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path

from wasmtime import Engine, WasmtimeError
from wasmtime.component import Component

__all__ = ["ComponentCache"]

_log = logging.getLogger(__name__)
_SUFFIX = ".cwasm"
_CHUNK_BYTES = 1 << 20


class ComponentCache:
    """Compiles components and remembers the results.

    Args:
        directory: Where entries live; made on first use, readable by its owner only. None keeps
            nothing.
        fingerprint: Everything besides the component's bytes that decides the machine code.
    """

    def __init__(self, directory: Path | None, fingerprint: str) -> None:
        self._directory = directory
        self._fingerprint = fingerprint

    def load(self, engine: Engine, wasm: bytes) -> Component:
        """Return `wasm` compiled for `engine`, from the cache when it is there.

        Raises:
            WasmtimeError: `wasm` is not a valid component.
        """
        if self._directory is None:
            return Component(engine, wasm)
        key = hashlib.sha256(self._fingerprint.encode() + b"\0" + wasm).hexdigest()[:32]
        cached = self._find(engine, key)
        if cached is not None:
            return cached
        component = Component(engine, wasm)
        self._store(key, component)
        return component

    def _find(self, engine: Engine, key: str) -> Component | None:
        assert self._directory is not None
        for path in sorted(self._directory.glob(f"{key}-*{_SUFFIX}")):
            try:
                if path.name == _entry_name(key, _file_digest(path)):
                    return Component.deserialize_file(engine, str(path))
                reason = "its content does not match its name"
            except (OSError, WasmtimeError) as error:
                reason = str(error)
            _log.warning("dropping cached component %s: %s", path, reason)
            with contextlib.suppress(OSError):
                path.unlink()
        return None

    def _store(self, key: str, component: Component) -> None:
        """Write an entry. A cache that cannot be written costs time, never the start."""
        assert self._directory is not None
        code = component.serialize()
        target = self._directory / _entry_name(key, hashlib.sha256(code).hexdigest())
        temporary: str | None = None
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=self._directory, suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(code)
            Path(temporary).replace(target)
        except OSError as error:
            _log.warning("cannot cache compiled component in %s: %s", self._directory, error)
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()


def _entry_name(key: str, digest: str) -> str:
    return f"{key}-{digest[:32]}{_SUFFIX}"


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

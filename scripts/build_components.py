"""Build the Wasm components that changed: components/<name>/app.py becomes build/<name>.wasm.

Standard library only; `spin build` and `make build` call it.

    python3 scripts/build_components.py            all components that changed
    python3 scripts/build_components.py predict    this one, if it changed
    python3 scripts/build_components.py --force    whether it changed or not
    python3 scripts/build_components.py --list     names, and whether each is up to date

A build is decided by content: the sources a component can import, the vocabularies of the models
that `make models` built, the pinned compiler, and the two scripts that make it. The compiler
snapshots the component from a copy of those sources, so an edit made while it runs goes into the
next build.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from environments import SetupError, ensure
from wasm_sections import WasmFormatError, strip_custom_sections

if sys.platform != "win32":
    import fcntl

__all__ = ["BuildError", "Component", "build", "build_changed", "discover"]

ROOT = Path(__file__).resolve().parent.parent
SHARED_PACKAGES = ("edgekit", "edgespin")
TOOL_FILES = (
    "requirements/guest.txt",
    "scripts/build_components.py",
    "scripts/wasm_sections.py",
)
VOCABULARIES = ".models/*/vocabulary.txt"
VOCABULARY_FOLDER = "edgekit/models/vocabulary_files"
"""Where `edgekit.models.vocabularies` reads them."""
WORLD = "spin-http"
BUILD_TIMEOUT_S = 900
PROGRESS_INTERVAL_S = 1.0


class BuildError(Exception):
    """A component cannot be built; the text is one line that says why."""


@dataclass(frozen=True)
class Component:
    """One component of the repository at `root`."""

    name: str
    root: Path = ROOT

    @property
    def wasm(self) -> Path:
        """What is built."""
        return self.root / "build" / f"{self.name}.wasm"

    @property
    def stamp(self) -> Path:
        """Holds the fingerprint of the sources that `wasm` was built from."""
        return self.root / "build" / f"{self.name}.sha256"

    @property
    def log(self) -> Path:
        """Everything the compiler said, kept when it failed."""
        return self.root / "build" / f"{self.name}.log"

    def sources(self) -> dict[str, bytes]:
        """Every file the component can import or read: path below components/ to content, sorted.

        Vocabularies are named by their content, so that models which share one have it once.
        """
        base = self.root / "components"
        folders = [base / name for name in (*SHARED_PACKAGES, self.name)]
        found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        paths = sorted(path.relative_to(base) for path in found)
        sources = {str(path): (base / path).read_bytes() for path in paths if not _is_ignored(path)}
        for vocabulary in self.root.glob(VOCABULARIES):
            content = vocabulary.read_bytes()
            name = f"{VOCABULARY_FOLDER}/{hashlib.sha256(content).hexdigest()}.txt"
            sources[name] = content
        return dict(sorted(sources.items()))

    def fingerprint(self, sources: Mapping[str, bytes]) -> str:
        """SHA-256 over names and contents of `sources` and of the tools that build them."""
        digest = hashlib.sha256()
        tools = {name: (self.root / name).read_bytes() for name in TOOL_FILES}
        for name, content in [*sources.items(), *tools.items()]:
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

    def is_current(self) -> bool:
        """True when `wasm` exists and was built from today's sources."""
        try:
            return self.wasm.is_file() and self.stamp.read_text() == self.fingerprint(
                self.sources()
            )
        except FileNotFoundError:
            return False


def _is_ignored(path: Path) -> bool:
    """Caches and editors' files; what the component imports never looks like that."""
    return path.suffix == ".pyc" or any(
        part == "__pycache__" or part.startswith(".") for part in path.parts
    )


def discover(root: Path = ROOT) -> list[Component]:
    """Folders under components/ with an app.py, sorted by name."""
    apps = sorted((root / "components").glob("*/app.py"))
    return [Component(app.parent.name, root) for app in apps]


def build(component: Component, python: Path) -> None:
    """`component.wasm` holds a component made from the sources as they are now.

    Args:
        component: What to build.
        python: Interpreter of the guest environment, whose compiler is used.

    Raises:
        BuildError: The compiler failed, ran too long, or made something that is no component.
    """
    component.wasm.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="build-", dir=component.wasm.parent) as folder:
        sources = component.sources()
        stage = _stage(sources, Path(folder) / "components")
        raw = Path(folder) / "raw.wasm"
        _compile(component, python, stage, raw)
        size = raw.stat().st_size
        try:
            stripped = strip_custom_sections(raw.read_bytes())
        except WasmFormatError as exc:
            raise BuildError(f"{component.name}: the compiler's output is broken: {exc}") from exc
        finished = Path(folder) / "stripped.wasm"
        finished.write_bytes(stripped)
        component.stamp.unlink(missing_ok=True)
        finished.replace(component.wasm)
        component.stamp.write_text(component.fingerprint(sources))
    seconds = time.monotonic() - started
    _say(
        f"{component.name}: built {component.wasm.relative_to(component.root)} in {seconds:.0f} s "
        f"({size / 1e6:.1f} MB, {len(stripped) / 1e6:.1f} MB without debug sections)"
    )


def _stage(sources: Mapping[str, bytes], folder: Path) -> Path:
    """`folder` holds a private copy of what the component can import."""
    for name, content in sources.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


def _compile(component: Component, python: Path, stage: Path, output: Path) -> None:
    environment = dict(os.environ)
    # componentize-py finds the SDK's WIT through an *activated* environment only.
    environment["VIRTUAL_ENV"] = str(python.parent.parent)
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment.get('PATH', '')}"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment.pop("PYTHONHOME", None)
    environment.pop("PYTHONPATH", None)
    command = [
        str(python.parent / "componentize-py"), "-w", WORLD,
        "componentize", f"{component.name}.app", "-p", str(stage), "-o", str(output),
    ]  # fmt: skip
    with component.log.open("wb") as log:
        try:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=stage
            )
        except OSError as exc:
            raise BuildError(f"{component.name}: cannot start the compiler: {exc}") from exc
        status = _wait(component.name, process)
    if status:
        reason = _last_line(component.log.read_text(encoding="utf-8", errors="replace"))
        log_name = component.log.relative_to(component.root)
        raise BuildError(
            f"{component.name}: componentize-py failed: {reason} (all of it: {log_name})"
        )
    component.log.unlink()


def _wait(name: str, process: subprocess.Popen[bytes]) -> int:
    """Exit status; shows the seconds that pass, on one line where output is a terminal."""
    started = time.monotonic()
    live = sys.stdout.isatty()
    if not live:
        _say(f"{name}: compiling (about half a minute)")
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(PROGRESS_INTERVAL_S)
            seconds = time.monotonic() - started
            if seconds > BUILD_TIMEOUT_S:
                raise BuildError(f"{name}: componentize-py ran longer than {BUILD_TIMEOUT_S} s")
            if live:
                print(f"\r  {name}: compiling … {seconds:.0f} s ", end="", flush=True)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if live:
            print("\r\033[K", end="", flush=True)


def _last_line(text: str) -> str:
    """The line of a Python or Rust error report that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error:" in line or line.startswith("Error")]
    return (errors or lines or ["it said nothing"])[-1]


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Two builds started together do not compile the same thing twice."""
    folder = root / "build"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


def build_changed(components: list[Component], *, force: bool = False) -> None:
    """Every one of `components` is built from its present sources; with `force`, built anew.

    Raises:
        BuildError, SetupError, OSError: One cannot be built; the text is one line that says why.
    """
    with _lock(ROOT):
        for component in components:
            if force or not component.is_current():
                build(component, ensure("guest"))


def _select(names: list[str]) -> list[Component]:
    components = discover()
    known = {component.name: component for component in components}
    for name in names:
        if name not in known:
            raise BuildError(f"no component named {name!r}: there are {', '.join(known) or 'none'}")
    return [known[name] for name in names] if names else components


def main(arguments: list[str] | None = None) -> int:
    """Build or list; 0 when everything asked for is up to date."""
    parser = argparse.ArgumentParser(description="Build the Wasm components that changed.")
    parser.add_argument("names", nargs="*", metavar="component", help="default: all")
    parser.add_argument("--force", action="store_true", help="build even what did not change")
    parser.add_argument("--list", action="store_true", help="show names and state, build nothing")
    options = parser.parse_args(arguments)
    try:
        components = _select(options.names)
        if options.list:
            for component in components:
                print(f"{component.name}\t{'current' if component.is_current() else 'outdated'}")
            return 0
        build_changed(components, force=options.force)
    except (BuildError, SetupError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

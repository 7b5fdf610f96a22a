"""Make the virtual environments this repository runs in, and renew them when their pins change.

Standard library only: this runs before anything is installed.

    python3.11 scripts/environments.py host     .venv        what the edge host and backend need
    python3.11 scripts/environments.py dev      .venv        the same, with lint, types and tests
    python3.11 scripts/environments.py guest    .venv-guest  the compiler of the Wasm components
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["ENVIRONMENTS", "Environment", "SetupError", "ensure"]

ROOT = Path(__file__).resolve().parent.parent
MINIMUM = (3, 11)
INSTALL_TIMEOUT_S = 1800


class SetupError(Exception):
    """An environment cannot be made; the text says why and what to do."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment and what belongs into it.

    Attributes:
        folder: Its folder, relative to the repository.
        requirements: Requirement files, in the order they are installed.
        packages: Folders of this repository installed in editable mode.
        includes: Name of an environment this one is a superset of (same folder).
    """

    folder: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...] = ()
    includes: str | None = None

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return ROOT / self.folder / "bin" / "python"


ENVIRONMENTS = {
    "host": Environment(".venv", ("requirements/host.txt",), ("edgehost", "gpu-backend")),
    "dev": Environment(
        ".venv", ("requirements/dev.txt",), ("edgehost", "gpu-backend"), includes="host"
    ),
    "guest": Environment(".venv-guest", ("requirements/guest.txt",)),
}


def ensure(name: str) -> Path:
    """The environment exists with exactly its pinned packages; returns its interpreter.

    Does nothing (in a few milliseconds) when the pins are those it was made from.

    Raises:
        SetupError: Wrong Python, no `venv` module, or an installation that failed.
    """
    environment = ENVIRONMENTS[name]
    if sys.version_info < MINIMUM:
        found = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"Python 3.11 or newer is needed, this is {found}: install it")
    with _lock(environment):
        if not _is_current(environment, name):
            _create(environment)
            _install(environment)
            _remember(environment, name)
    return environment.python


def _is_current(environment: Environment, name: str) -> bool:
    """A superset installed in the same folder serves as well."""
    stamps = _stamps(environment)
    wider = [key for key, other in ENVIRONMENTS.items() if other.includes == name]
    return environment.python.exists() and any(
        stamps.get(key) == _fingerprint(ENVIRONMENTS[key]) for key in (name, *wider)
    )


def _fingerprint(environment: Environment) -> str:
    """Changes with the interpreter and with every file that says what is installed."""
    digest = hashlib.sha256(sys.version.encode())
    queue = list(environment.requirements)
    queue += [f"{package}/pyproject.toml" for package in environment.packages]
    while queue:
        path = ROOT / queue.pop(0)
        text = path.read_text(encoding="utf-8")
        digest.update(text.encode())
        if path.suffix == ".txt":
            included = (line[3:].strip() for line in text.splitlines() if line.startswith("-r "))
            queue += [str(path.parent.relative_to(ROOT) / file) for file in included]
    return digest.hexdigest()


def _create(environment: Environment) -> None:
    folder = ROOT / environment.folder
    if environment.python.exists() and any(folder.glob("lib/python*/site-packages/pip")):
        return
    _say(f"creating {environment.folder}")
    try:  # `clear`: an interrupted creation leaves an interpreter without pip
        venv.create(folder, with_pip=True, symlinks=True, clear=folder.exists())
    except (subprocess.CalledProcessError, OSError, ImportError) as exc:
        raise SetupError(
            f"cannot create {environment.folder} ({exc}): the venv module needs pip's bundle, "
            "on Debian and Ubuntu `apt install python3-venv`"
        ) from exc


def _install(environment: Environment) -> None:
    arguments = [part for file in environment.requirements for part in ("-r", file)]
    _say(f"installing {', '.join(environment.requirements)} into {environment.folder}")
    _pip(environment, *arguments)
    if environment.packages:
        editable = [part for package in environment.packages for part in ("-e", package)]
        _say(f"installing {', '.join(environment.packages)} into {environment.folder}")
        _pip(environment, "--no-deps", *editable)


def _pip(environment: Environment, *arguments: str) -> None:
    command = [
        str(environment.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        *arguments,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            timeout=INSTALL_TIMEOUT_S,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise SetupError(
            f"pip took longer than {INSTALL_TIMEOUT_S} s: is the package index reachable?"
        ) from exc
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
        raise SetupError(f"pip failed in {environment.folder}: {' '.join(reasons)}")


def _stamp_file(environment: Environment) -> Path:
    return ROOT / environment.folder / ".installed.json"


def _stamps(environment: Environment) -> dict[str, str]:
    try:
        found = json.loads(_stamp_file(environment).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(environment: Environment, name: str) -> None:
    """Only the last installation counts: a narrower one may have changed shared packages."""
    stamp = {name: _fingerprint(environment)}
    _stamp_file(environment).write_text(json.dumps(stamp), encoding="utf-8")


@contextlib.contextmanager
def _lock(environment: Environment) -> Iterator[None]:
    """Two commands started together make the environment once."""
    path = ROOT / f"{environment.folder}.lock"
    with path.open("w") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"  {text} …", flush=True)


def main(names: list[str]) -> int:
    """Make the named environments; 0 when all exist."""
    unknown = [name for name in names if name not in ENVIRONMENTS]
    if unknown or not names:
        print(f"usage: environments.py {{{','.join(ENVIRONMENTS)}}} …", file=sys.stderr)
        return 2
    try:
        for name in names:
            ensure(name)
    except SetupError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Builds the small guests under tests/wasm/guests with componentize-py, once per content."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from wasm_sections import strip_custom_sections

__all__ = ["GUEST_ENVIRONMENT", "build_guest"]

ROOT = Path(__file__).resolve().parents[2]
GUESTS = ROOT / "tests" / "wasm" / "guests"
GUEST_ENVIRONMENT = ROOT / ".venv-guest"
BUILD_DIR = ROOT / "build" / "test-guests"
BUILD_TIMEOUT_S = 240


def build_guest(name: str) -> Path:
    """Return the component made from `tests/wasm/guests/<name>/app.py`, built if need be.

    Raises:
        RuntimeError: componentize-py refused the sources; the text says why.
    """
    folder = GUESTS / name
    digest = hashlib.sha256((ROOT / "requirements" / "guest.txt").read_bytes())
    for source in sorted(folder.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    target = BUILD_DIR / f"{name}-{digest.hexdigest()[:16]}.wasm"
    if not target.exists():
        BUILD_DIR.mkdir(parents=True, exist_ok=True)
        _componentize(folder, target)
    return target


def _componentize(folder: Path, target: Path) -> None:
    raw = target.with_suffix(f".{os.getpid()}.tmp")
    programs = GUEST_ENVIRONMENT / "bin"
    command = [str(programs / "componentize-py"), "-w", "spin-http", "componentize", "app"]
    built = subprocess.run(
        [*command, "-o", str(raw)],
        cwd=folder,
        env={
            **os.environ,
            "VIRTUAL_ENV": str(GUEST_ENVIRONMENT),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if built.returncode != 0:
        raise RuntimeError(f"componentize-py failed for {folder}:\n{built.stdout}{built.stderr}")
    raw.write_bytes(strip_custom_sections(raw.read_bytes()))
    raw.replace(target)

"""Values of command-line flags, in the syntax Spin gives them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgehost.errors import ConfigError

__all__ = ["parse_duration", "parse_environment", "parse_listen", "parse_variables"]

_UNITS_S = {"ms": 1e-3, "us": 1e-6, "μs": 1e-6, "ns": 1e-9, "s": 1.0, "": 1.0}


def parse_duration(text: str) -> float:
    """Seconds of ``10``, ``10s``, ``500ms``, ``20us`` or ``20ns``.

    Raises:
        ValueError: Not one of these, or not above 0.
    """
    number = text.rstrip("nmuμs")
    unit = text[len(number) :]
    if unit not in _UNITS_S or not number.isascii() or not number.isdigit() or int(number) == 0:
        raise ValueError(f"must be a time such as 10, 10s or 500ms, not {text!r}")
    return int(number) * _UNITS_S[unit]


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``.

    Raises:
        ValueError: No port, or none that exists.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"must be an address such as 127.0.0.1:3000, not {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, int(port)


def parse_environment(flags: Sequence[str]) -> dict[str, str]:
    """Values of ``--env KEY=VALUE``; the last one wins. Raises `ConfigError` with all faults."""
    found: dict[str, str] = {}
    faults: list[str] = []
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not equals or not name:
            faults.append(f"--env {flag}: must be KEY=VALUE")
        found[name] = value
    if faults:
        raise ConfigError(faults)
    return found


def parse_variables(flags: Sequence[str]) -> dict[str, str]:
    """Values of ``--variable``; the last one wins.

    Args:
        flags: Each ``KEY=VALUE``, ``KEY=@FILE``, ``@FILE.json`` or ``@FILE.toml``.

    Raises:
        ConfigError: With the faults of all flags. Values are not repeated: they may be secret.
    """
    found: dict[str, str] = {}
    faults: list[str] = []
    for flag in flags:
        try:
            found.update(_variables_of(flag))
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            faults.append(f"--variable {flag.partition('=')[0]}: {reason}")
    if faults:
        raise ConfigError(faults)
    return found


def _variables_of(flag: str) -> dict[str, str]:
    if flag.startswith("@"):
        return _variables_in_file(Path(flag[1:]))
    name, equals, value = flag.partition("=")
    if not equals or not name:
        raise ValueError("must be KEY=VALUE, KEY=@FILE, @FILE.json or @FILE.toml")
    if value.startswith("@"):
        value = Path(value[1:]).read_text(encoding="utf-8")
    return {name: value}


def _variables_in_file(path: Path) -> dict[str, str]:
    loaders: dict[str, Callable[[str], Any]] = {".json": json.loads, ".toml": tomllib.loads}
    load = loaders.get(path.suffix)
    if load is None:
        raise ValueError("the file must end in .json or .toml")
    values = load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise ValueError("the file must hold one table of strings")
    return values

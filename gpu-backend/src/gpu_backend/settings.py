"""Settings of the backend: one frozen record, read once from flags and environment.

Each setting is a field with its default, a reason for that default, a flag
(``--max-body-bytes``) and an environment variable (``BACKEND_MAX_BODY_BYTES``). A flag beats the
environment. Every fault is reported at once; an unknown ``BACKEND_*`` variable is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_backend.errors import ConfigError
from gpu_backend.execution.providers import AUTO, PROVIDERS

__all__ = ["Listen", "Settings", "parser", "read_settings"]

PREFIX = "BACKEND_"

_KUBERNETES_SERVICE_LINK = re.compile(
    r"^BACKEND_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$"
)
"""Kubernetes sets these in every pod beside a Service named `backend`; they are not ours."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the server listens; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _listen(text: str) -> Listen:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected host:port, as 127.0.0.1:8080")
    return Listen(host.removeprefix("[").removesuffix("]"), int(port))


def _paths(text: str) -> tuple[Path, ...]:
    found = tuple(Path(part) for part in text.split(os.pathsep) if part)
    if not found:
        raise ValueError(f"expected one folder or more, separated by {os.pathsep!r}")
    return found


def _file(text: str) -> Path:
    path = Path(text)
    if not text or path.is_dir():
        raise ValueError("expected the name of a file")
    return path


def _choice(*options: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in options:
            close = difflib.get_close_matches(text.lower(), options, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"expected one of {', '.join(options)}{hint}")
        return text.lower()

    return parse


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], int | float]:
    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError as exc:
            raise ValueError(f"expected {'a whole number' if kind is int else 'a number'}") from exc
        if not low <= value <= high:
            raise ValueError(f"expected {low} to {high}")
        return value

    return parse


def _flag(text: str) -> bool:
    words = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
    if text.lower() not in words:
        raise ValueError("expected true or false")
    return words[text.lower()]


def _setting(default: Any, parse: Callable[[str], Any], reason: str) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parse, "reason": reason})


_SHIPPED_MODELS = Path(__file__).resolve().parents[2] / "models"

_LOOPBACK = Listen("127.0.0.1", 8080)

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its default; `reason` says why that is the default."""

    listen: Listen = _setting(  # noqa: RUF009  # every _setting makes a field
        _LOOPBACK, _listen, "reachable from this machine alone until told otherwise"
    )
    models: tuple[Path, ...] = _setting(
        (_SHIPPED_MODELS,), _paths, "model repositories; the models that ship with the project"
    )
    execution_provider: str = _setting(
        AUTO, _choice(AUTO, *PROVIDERS), "runs everywhere and says what it chose"
    )
    intra_op_threads: int = _setting(
        0, _number(int, 0, 1024), "0: the cores that affinity and the container's quota leave"
    )
    compute_niceness: int = _setting(
        5, _number(int, 0, 19), "the event loop comes first, so overload stays calm"
    )
    inline_limit_us: int = _setting(
        100,
        _number(int, 0, 100_000),
        "models faster than this run on the event loop: handing over to a thread costs as much",
    )
    max_body_bytes: int = _setting(
        10 << 20,
        _number(int, 1024, 4 * _GIB),
        "10 MiB: a float tensor of 3x896x896; also after decompression",
    )
    max_image_pixels: int = _setting(
        50_000_000, _number(int, 1, 1 << 30), "a phone's largest photo; bounds memory at decoding"
    )
    max_header_bytes: int = _setting(
        32 << 10, _number(int, 1024, 1 << 20), "no client of ours sends a tenth of it"
    )
    max_connections: int = _setting(
        4096, _number(int, 1, 1_000_000), "bounds memory; proxies pool far fewer"
    )
    request_timeout_s: float = _setting(
        30.0, _number(float, 0.1, 3600), "a client that takes longer to send its request is cut off"
    )
    keep_alive_s: float = _setting(
        75.0,
        _number(float, 1, 3600),
        "longer than proxies keep idle connections, so they close first",
    )
    drain_timeout_s: float = _setting(
        20.0, _number(float, 0, 600), "below the 30 s that Kubernetes grants before it kills"
    )
    max_queue: int = _setting(
        1024, _number(int, 1, 1_000_000), "items per model; bounds memory before time does"
    )
    max_queue_ms: int = _setting(
        2000, _number(int, 1, 600_000), "nobody waits longer for an answer that took its turn"
    )
    max_wait_s: float = _setting(
        60.0,
        _number(float, 0.01, 3600),
        "no request waits longer, even without a deadline of its own",
    )
    memory_budget_mb: int = _setting(
        0, _number(int, 0, 1 << 30), "0: every model fits; else models load when asked for"
    )
    repository_poll_s: float = _setting(
        2.0, _number(float, 0, 3600), "a model put into the folder serves soon; 0 looks on request"
    )
    repository_control: bool = _setting(
        True, _flag, "load and unload over HTTP; switch it off where strangers reach the backend"
    )
    shutdown_delay_s: float = _setting(
        0.0, _number(float, 0, 600), "set it where a load balancer must notice first"
    )
    records: Path | None = _setting(  # noqa: RUF009  # every _setting makes a field
        None, _file, "nobody's disk fills unasked; name a file to keep what edges record"
    )
    records_keep: int = _setting(
        1_000_000, _number(int, 1000, 1_000_000_000), "some 300 MB; beyond it the oldest go"
    )
    tracing: bool = _setting(False, _flag, "needs OpenTelemetry and somewhere to send to")
    require_provider: bool = _setting(
        False, _flag, "a degraded backend still answers; true makes readiness fail instead"
    )
    log_level: str = _setting(
        "info", _choice("debug", "info", "warning", "error"), "one line per event worth reading"
    )
    log_format: str = _setting(
        "text", _choice("text", "json"), "people read a terminal; images set json"
    )
    access_log: bool = _setting(False, _flag, "a line per request costs more than a small model")

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError(["--models: name at least one folder"])


_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def parser(parent: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give `parent` a flag for every setting; values stay text until `read_settings`."""
    for name, field in _FIELDS.items():
        reason, key = field.metadata["reason"], PREFIX + name.upper()
        parent.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            action="append" if name == "models" else "store",
            metavar={"listen": "HOST:PORT", "models": "DIR", "records": "FILE"}.get(name, "VALUE"),
            help=f"default {_show(field.default)}: {reason} [{key}]",
        )
    return parent


def _show(default: object) -> str:
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return shown.replace("%", "%%")


def read_settings(
    environ: Mapping[str, str], flags: Mapping[str, str | Sequence[str] | None] | None = None
) -> Settings:
    """Settings from flags and environment.

    Args:
        environ: The process's environment.
        flags: Field name to text as given on the command line; None means not given.

    Raises:
        ConfigError: Lists every fault, each with the flag or variable it is in.
    """
    faults = [_unknown(key) for key in sorted(environ) if _is_unknown(key, environ)]
    values: dict[str, object] = {}
    for name, field in _FIELDS.items():
        source, text = _given(name, environ, flags or {})
        if text is None:
            continue
        try:
            values[name] = field.metadata["parse"](text)
        except ValueError as exc:
            faults.append(f"{source}: {exc}, got {text!r}")
    if faults:
        raise ConfigError(faults)
    return Settings(**values)  # type: ignore[arg-type]  # parsed by the field's own parser


def _given(
    name: str, environ: Mapping[str, str], flags: Mapping[str, str | Sequence[str] | None]
) -> tuple[str, str | None]:
    flag = flags.get(name)
    if flag is not None:
        text = flag if isinstance(flag, str) else os.pathsep.join(flag)
        return f"--{name.replace('_', '-')}", text
    key = PREFIX + name.upper()
    return key, environ.get(key)


def _is_unknown(key: str, environ: Mapping[str, str]) -> bool:
    if not key.startswith(PREFIX) or key.removeprefix(PREFIX).lower() in _FIELDS:
        return False
    in_cluster = "KUBERNETES_SERVICE_HOST" in environ
    return not (in_cluster and _KUBERNETES_SERVICE_LINK.match(key))


def _unknown(key: str) -> str:
    # Without the prefix, which makes everything look alike.
    close = difflib.get_close_matches(key.removeprefix(PREFIX).lower(), _FIELDS, n=1)
    hint = (
        f"did you mean {PREFIX}{close[0].upper()}?"
        if close
        else "`python -m gpu_backend --help` lists them"
    )
    return f"{key}: unknown setting; {hint}"

"""The command line: `python -m edgehost up`, with the flags of `spin up`.

Whatever cannot work (a port in use, a missing file, a wrong manifest) is said in one line per fault
on stderr, and the exit code is 1; wrong flags give 2, as argparse does.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgehost.app import App
from edgehost.errors import ConfigError
from edgehost.flags import parse_duration, parse_environment, parse_listen, parse_variables
from edgehost.host import Host, HostOptions, default_cache_dir
from edgehost.ports import InstanceLimits
from edgehost.routes import Route
from edgehost.stdio import GuestLog

__all__ = ["main"]

_SWITCH_INTERVAL_S = 0.001
"""With Python's 5 ms a guest's host calls could delay the I/O thread by a whole request."""
_SLOW_START_S = 1.0
_OK, _FAILED = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format="edgehost: %(message)s",
        stream=sys.stderr,
    )
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ConfigError as exc:
        for fault in exc.faults:
            print(f"error: {fault}", file=sys.stderr)
    except OSError as exc:
        print(f"error: {exc.strerror or exc}", file=sys.stderr)
    return _FAILED


def _up(options: argparse.Namespace) -> int:
    """Serve the app until a signal."""
    app = _load(options)
    try:
        return _serve(app, options)
    finally:
        app.close()


def _check(options: argparse.Namespace) -> int:
    """Read the app and say what is wrong with it."""
    app = _load(options)
    app.close()
    count = len(app.components)
    print(f"{app.manifest_path}: {count} component{'s' if count != 1 else ''}, no faults")
    return _OK


def _load(options: argparse.Namespace) -> App:
    app = App.load(
        options.source,
        variables=parse_variables(options.variable),
        runtime_config=options.runtime_config_file,
        state_dir=options.state_dir,
        component_env=parse_environment(options.env),
        limits=InstanceLimits(
            memory_bytes=options.max_instance_memory, request_timeout_s=options.request_timeout
        ),
    )
    for warning in app.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return app


def _serve(app: App, options: argparse.Namespace) -> int:
    log = GuestLog(quiet=options.quiet, log_dir=options.log_dir or app.log_dir)
    try:
        # Compiling holds the main thread for seconds, in which no Python handler would run, and
        # there is nothing to finish yet: until the host is ready a signal ends the process.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with _SlowStart():
            host = Host(app, _host_options(options), log)
        stop = _Stop()
        address = host.start()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        # What start-up made lives as long as the process: keep the collector from walking it.
        gc.collect()
        gc.freeze()
        _announce(app, address)
        stop.wait()
        print("Shutting down; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)
        if not host.stop(options.shutdown_timeout):
            print("edgehost: some requests did not finish in time and were cut", file=sys.stderr)
    finally:
        log.close()
    return _OK


def _host_options(options: argparse.Namespace) -> HostOptions:
    return HostOptions(
        address=options.listen,
        cache_dir=None if options.disable_cache else options.cache_dir,
        threads=options.threads,
        access_log=options.access_log,
    )


def _announce(app: App, address: tuple[str, int]) -> None:
    """Print what Spin prints: where it serves, and the routes."""
    host, port = address
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    lines = ["", f"Serving {url}", "Available Routes:"]
    for route in app.routes.routes:
        lines.append(f"  {route.target}: {url}{route.display or '/'}")
        lines += _description(app, route)
    print("\n".join(lines), flush=True)


def _description(app: App, route: Route) -> list[str]:
    text = app.descriptions.get(route.component) if route.component else None
    return [f"    {text}"] if text else []


class _Stop:
    """The first SIGINT or SIGTERM asks for an orderly end, the second ends the process at once."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def wait(self) -> None:
        """Sleep until the first signal."""
        self._asked.wait()

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._asked.is_set():
            os._exit(128 + number)
        self._asked.set()


class _SlowStart:
    """Says so when preparing components takes long: compiling one takes several seconds."""

    def __init__(self) -> None:
        self._timer = threading.Timer(_SLOW_START_S, self._say)
        self._timer.daemon = True
        self._started = time.monotonic()
        self._said = False

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._said:
            elapsed_s = time.monotonic() - self._started
            print(f"Prepared Wasm components in {elapsed_s:.1f} s", file=sys.stderr, flush=True)

    def _say(self) -> None:
        self._said = True
        print(
            "Preparing Wasm components; the first start after a build takes a while ...",
            file=sys.stderr,
            flush=True,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edgehost",
        description="Run Spin HTTP applications from Python: spin.toml in, HTTP server out.",
    )
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    up = commands.add_parser(
        "up",
        help="serve an application, as `spin up` does",
        description="Serve the application of a spin.toml until Ctrl-C.",
    )
    _add_app_flags(up)
    _add_server_flags(up)
    up.set_defaults(command=_up)
    check = commands.add_parser(
        "check",
        help="read an application and report every fault, without serving it",
        description="Read spin.toml and all that belongs to it; exit code 1 if anything is wrong.",
    )
    _add_app_flags(check)
    check.set_defaults(command=_check)
    return parser


def _add_app_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("application").add_argument
    add(
        "-f", "--from", dest="source", type=Path, default=Path("spin.toml"), metavar="PATH",
        help="the spin.toml, or the directory it is in (default: %(default)s)",
    )  # fmt: skip
    add(
        "--variable", action="append", default=[], metavar="KEY=VALUE",
        help="value of an application variable; also KEY=@FILE, @FILE.json, @FILE.toml; repeatable",
    )  # fmt: skip
    add(
        "-e", "--env", action="append", default=[], metavar="KEY=VALUE",
        help="environment variable for every component; repeatable",
    )  # fmt: skip
    add(
        "--runtime-config-file", type=Path, metavar="FILE",
        default=_path_from_environment("RUNTIME_CONFIG_FILE"),
        help="runtime-config.toml: key-value stores, variable providers, outbound HTTP "
        "(environment: RUNTIME_CONFIG_FILE)",
    )  # fmt: skip
    add(
        "--state-dir", metavar="DIR",
        help="where key-value data is kept; '' keeps none on disk (default: .spin beside the "
        "manifest)",
    )  # fmt: skip
    add(
        "--max-instance-memory", type=_positive, metavar="BYTES",
        default=os.environ.get("SPIN_MAX_INSTANCE_MEMORY") or None,
        help="most memory one instance may use (default: no limit; environment: "
        "SPIN_MAX_INSTANCE_MEMORY)",
    )  # fmt: skip
    add(
        "--request-timeout", type=_flag(parse_duration), default="30s", metavar="TIME",
        help="longest a component may work on one request: 10, 10s, 500ms (default: %(default)s)",
    )  # fmt: skip
    add("--verbose", action="store_true", help="say more on stderr about what goes wrong")


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("server").add_argument
    add(
        "--listen", type=_flag(parse_listen), metavar="ADDRESS",
        default=os.environ.get("SPIN_HTTP_LISTEN_ADDR") or "127.0.0.1:3000",
        help="IP address and port; port 0 takes a free one (default: %(default)s; environment: "
        "SPIN_HTTP_LISTEN_ADDR)",
    )  # fmt: skip
    add("-q", "--quiet", action="store_true", help="do not print what components print")
    add(
        "-L", "--log-dir", type=Path, metavar="DIR",
        help="also append what components print to files there",
    )  # fmt: skip
    add("--access-log", action="store_true", help="print a line per request on stderr")
    add(
        "--threads", type=_positive, default=HostOptions().threads, metavar="N",
        help="requests served at once; more wait for their turn (default: %(default)s)",
    )  # fmt: skip
    add(
        "--shutdown-timeout", type=_flag(parse_duration), default="10s", metavar="TIME",
        help="how long running requests may go on after Ctrl-C (default: %(default)s)",
    )  # fmt: skip
    add(
        "--cache-dir", type=Path, default=default_cache_dir(), metavar="DIR",
        help="where compiled components are kept (default: %(default)s)",
    )  # fmt: skip
    add("--disable-cache", action="store_true", help="compile components on every start")


def _flag(parse: Callable[[str], object]) -> Callable[[str], object]:
    """An argparse type whose `ValueError` text reaches the user."""

    def checked(text: str) -> object:
        try:
            return parse(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from None

    return checked


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def _path_from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None

"""Composition root: read settings, load models, serve until told to stop, drain."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from types import FrameType
from typing import Any

import onnxruntime
import uvicorn
import uvloop

from gpu_backend.api.app import BackendApp, RequestLimits
from gpu_backend.api.connection import ConnectionLimits, make_protocol, sweep
from gpu_backend.batching.admission import QueueLimits
from gpu_backend.commands import run_models_command
from gpu_backend.dataplane import Dataplane
from gpu_backend.errors import BackendError, ConfigError
from gpu_backend.execution.providers import choose
from gpu_backend.execution.threads import usable_cores
from gpu_backend.llm.language_models import LanguageModels
from gpu_backend.monitoring.logs import configure_logs
from gpu_backend.monitoring.tracing import make_tracer
from gpu_backend.processing.pool import CodecPool
from gpu_backend.records.book import RecordBook
from gpu_backend.repository.loader import Loader
from gpu_backend.repository.repository import Repository, RepositoryOptions
from gpu_backend.settings import Listen, Settings, parser, read_settings

__all__ = ["main"]

_log = logging.getLogger("gpu_backend")

EXIT_FAILED = 1
EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] == "models":
            return run_models_command(arguments[1:], Settings().models[0])
        options = parser(
            argparse.ArgumentParser(
                prog="gpu_backend",
                description="Serve ONNX models over HTTP. `models add` puts one into a repository.",
            )
        ).parse_args(arguments)
        return serve(read_settings(os.environ, vars(options)))
    except BackendError as exc:
        print(f"gpu_backend: {exc.message}", file=sys.stderr)
        return EXIT_USAGE if exc.code == "config_invalid" else EXIT_FAILED
    except OSError as exc:
        print(f"gpu_backend: {exc.strerror or exc}", file=sys.stderr)
        return EXIT_FAILED


def serve(settings: Settings) -> int:
    """Answer until SIGINT or SIGTERM, then drain."""
    configure_logs(settings.log_level, settings.log_format)
    # Bind before loading: a port in use is told at once, not after minutes of loading.
    listener = bind(settings.listen)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, listener))
    return 0


async def _run(settings: Settings, listener: socket.socket) -> None:
    repository = make_repository(settings)
    language_models = LanguageModels(settings.models, settings.intra_op_threads or usable_cores())
    dataplane = Dataplane(
        repository, settings.max_wait_s, settings.require_provider, language_models
    )
    tracer = make_tracer(settings.tracing)
    pool = CodecPool(usable_cores(), settings.max_queue_ms / 1000)
    records = open_records(settings)
    server = BackendServer(
        uvicorn.Config(
            BackendApp(
                dataplane,
                pool,
                RequestLimits(settings.max_body_bytes, settings.max_image_pixels),
                tracer,
                records=records,
                repository_control=settings.repository_control,
            ),
            http=make_protocol(
                ConnectionLimits(
                    settings.max_header_bytes,
                    settings.max_connections,
                    settings.request_timeout_s,
                )
            ),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=settings.access_log,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(settings.keep_alive_s),
            timeout_graceful_shutdown=int(settings.drain_timeout_s),
        ),
        dataplane,
        settings.shutdown_delay_s,
    )
    # Liveness answers while models load; readiness waits for them.
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await _unless_ended(_start(repository, language_models), serving)
        if not serving.done():
            _announce(repository, language_models, listener)
            # What is loaded stays: keep the collector from walking over it again and again.
            gc.collect()
            gc.freeze()
            async with _background(settings, server, repository, language_models):
                await serving
    finally:
        server.should_exit = True
        await serving
        await repository.stop()
        await language_models.close()
        pool.close()
        tracer.close()
        if records is not None:
            records.close()


async def _unless_ended(start: Coroutine[Any, Any, None], serving: asyncio.Task[None]) -> None:
    """Finish `start`, or stop it when the server is told to end meanwhile."""
    starting = asyncio.create_task(start)
    await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting


async def _start(repository: Repository, language_models: LanguageModels) -> None:
    # Language models first: they are only looked up, and loaded when they are asked for.
    await language_models.start()
    await repository.start()


def _announce(
    repository: Repository, language_models: LanguageModels, listener: socket.socket
) -> None:
    host, port = listener.getsockname()[:2]
    models = [model.identity.decode() for model in repository.loaded()]
    models += [f"{served.name} (on demand)" for served in language_models.served()]
    served = ", ".join(models) or "no model"
    print(f"gpu_backend ready on http://{Listen(host, port)} serving {served}", flush=True)


@contextlib.asynccontextmanager
async def _background(
    settings: Settings,
    server: BackendServer,
    repository: Repository,
    language_models: LanguageModels,
) -> AsyncIterator[None]:
    """The tasks that run beside requests."""
    tasks = [asyncio.create_task(sweep(server.server_state, settings.request_timeout_s / 10))]
    if settings.repository_poll_s:
        tasks.append(
            asyncio.create_task(_poll(repository, language_models, settings.repository_poll_s))
        )
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _poll(repository: Repository, language_models: LanguageModels, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await repository.poll()
            await language_models.poll()
        except Exception:  # the disk may be away for a while: what is loaded goes on serving
            _log.exception("looking for changed models failed")


class BackendServer(uvicorn.Server):
    """Uvicorn's server with a grace before the end: readiness fails first, then connections end.

    Args:
        config: Of the server.
        dataplane: Told that the end is near.
        delay_s: Between the signal and the end: load balancers need time to look elsewhere.
    """

    def __init__(self, config: uvicorn.Config, dataplane: Dataplane, delay_s: float) -> None:
        super().__init__(config)
        self._dataplane = dataplane
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to shut down; a second SIGINT ends at once."""
        if self._dataplane.is_stopping:
            self.should_exit = True
            super().handle_exit(sig, frame)
            return
        self._dataplane.is_stopping = True
        end: Callable[[], None] = lambda: setattr(self, "should_exit", True)  # noqa: E731
        self._loop.call_soon_threadsafe(self._loop.call_later, self._delay_s, end)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """As uvicorn's, without raising the signal again: ending on request is no failure."""
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_repository(settings: Settings) -> Repository:
    """A repository for the settings; nothing is loaded yet.

    Raises:
        ExecutionProviderError: The execution provider asked for cannot be had.
    """
    available = tuple(onnxruntime.get_available_providers())
    choice = choose(settings.execution_provider, available)  # before any model is touched
    _log.info("execution provider %s: %s", choice.target, choice.reason)
    threads = settings.intra_op_threads or usable_cores()
    return Repository(
        RepositoryOptions(
            roots=settings.models,
            limits=QueueLimits(settings.max_queue, settings.max_queue_ms / 1000),
            memory_budget_bytes=settings.memory_budget_mb << 20,
            drain_timeout_s=settings.drain_timeout_s,
            niceness=settings.compute_niceness,
        ),
        Loader(settings.execution_provider, available, threads, settings.inline_limit_us / 1e6),
    )


def open_records(settings: Settings) -> RecordBook | None:
    """The book of records, where one is to be kept.

    Raises:
        ConfigError: The file cannot be used: better to say so now than with every batch.
    """
    if settings.records is None:
        return None
    try:
        return RecordBook(settings.records, settings.records_keep)
    except (OSError, sqlite3.Error) as exc:
        raise ConfigError([f"--records {settings.records}: {exc}"]) from exc


def bind(listen: Listen) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: The text is one line for people.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((listen.host, listen.port))
        listener.listen(2048)
    except OSError as exc:
        listener.close()
        reason = exc.strerror or str(exc)
        raise OSError(
            exc.errno, f"cannot listen on {listen}: {reason}; --listen HOST:PORT moves it"
        ) from exc
    return listener

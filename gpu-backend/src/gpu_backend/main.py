"""Composition root: read settings, load models, serve until told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence

import onnxruntime
import uvicorn

from gpu_backend.api.app import BackendApp
from gpu_backend.dataplane import Dataplane
from gpu_backend.errors import BackendError
from gpu_backend.execution.providers import choose
from gpu_backend.repository.files import find_models
from gpu_backend.repository.loader import Loader
from gpu_backend.repository.repository import Repository
from gpu_backend.settings import Listen, Settings, parser, read_settings

__all__ = ["main"]

_log = logging.getLogger("gpu_backend")

EXIT_FAILED = 1
EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit status."""
    options = parser(
        argparse.ArgumentParser(prog="gpu_backend", description="Serve ONNX models over HTTP.")
    ).parse_args(arguments)
    try:
        settings = read_settings(os.environ, vars(options))
        return serve(settings)
    except BackendError as exc:
        print(f"gpu_backend: {exc.message}", file=sys.stderr)
        return EXIT_USAGE if exc.code == "config_invalid" else EXIT_FAILED
    except OSError as exc:
        print(f"gpu_backend: {exc.strerror or exc}", file=sys.stderr)
        return EXIT_FAILED


def serve(settings: Settings) -> int:
    """Load the models and answer until SIGINT or SIGTERM, then drain."""
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # Bind before loading: a port in use is told at once, not after minutes of loading.
    listener = bind(settings.listen)
    repository = make_repository(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            BackendApp(Dataplane(repository), settings.max_body_bytes),
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=settings.access_log,
            server_header=False,
            timeout_keep_alive=int(settings.keep_alive_s),
            timeout_graceful_shutdown=int(settings.drain_timeout_s),
        )
    )
    host, port = listener.getsockname()[:2]
    served = ", ".join(model.identity for model in repository.loaded()) or "no model"
    print(f"gpu_backend ready on http://{Listen(host, port)} serving {served}", flush=True)
    server.run(sockets=[listener])
    return 0


def make_repository(settings: Settings) -> Repository:
    """Every model of the settings' repositories, loaded.

    Raises:
        ExecutionProviderError: The execution provider asked for cannot be had.
    """
    available = tuple(onnxruntime.get_available_providers())
    choose(settings.execution_provider, available)  # fails before the first model is touched
    threads = settings.intra_op_threads or len(os.sched_getaffinity(0))
    loader = Loader(settings.execution_provider, available, threads)
    repository = Repository(find_models(settings.models), loader)
    repository.load_all()
    return repository


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

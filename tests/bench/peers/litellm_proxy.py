"""LiteLLM's proxy in front of OpenAI-compatible servers, as its documentation starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.peers.catalogue import Peer, PeerError, Server, free_ports

__all__ = ["LITELLM", "running_litellm"]

LITELLM = Peer("litellm", "/v1/chat/completions", ("litellm", "uvicorn", "fastapi"))

_START_S = 120
"""It imports for about 20 s on a small machine."""

_STOP_S = 10


@contextmanager
def running_litellm(python: Path, routes: Mapping[str, str], folder: Path) -> Iterator[Server]:
    """The proxy until the end of the block, with one worker, its default.

    Args:
        python: Its interpreter, from `LITELLM.install`.
        routes: URL of an OpenAI-compatible server (with ``/v1``) by name of the model.
        folder: For its configuration and output.

    Raises:
        PeerError: It did not start.
    """
    config, log = folder / "litellm.yaml", folder / "litellm.log"
    # JSON is YAML.
    config.write_text(
        json.dumps(
            {
                "model_list": [
                    {
                        "model_name": name,
                        "litellm_params": {
                            "model": f"openai/{name}",
                            "api_base": url,
                            "api_key": "none",
                        },
                    }
                    for name, url in routes.items()
                ],
                "litellm_settings": {"telemetry": False, "num_retries": 0},
                # Open to everybody, as the edge is in this benchmark: no key is checked.
                "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
            }
        )
    )
    port = free_ports(1)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("LITELLM_")}
    environ["LITELLM_LOG"] = "ERROR"
    environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet at start
    command = [str(python.parent / "litellm"), "--config", str(config), "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--telemetry", "False"],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environ,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_health(process, url, log)
        yield Server(LITELLM.name, url, process.pid)
    finally:
        _stop(process)


def _await_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise PeerError(f"ended with status {process.returncode}: {said}")
        try:
            with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise PeerError(f"did not answer within {_START_S} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait(_STOP_S)

"""A cluster to deploy to: a fake API server, its controllers, a kubeconfig that leads there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from deployment import main
from deployment.console import Console
from k8s.fake_api import TOKEN, FakeApi, FakeServer
from k8s.fake_controllers import FakeClock, FakeControllers


@dataclass
class World:
    """A cluster, time, and a person at the command line."""

    api: FakeApi
    controllers: FakeControllers
    clock: FakeClock
    kubeconfig: Path

    def deploy(self, *arguments: str) -> tuple[int, str]:
        """Run `scripts/deploy.py` with arguments: its exit code and what it printed."""
        output = io.StringIO()
        code = main(
            ["--kubeconfig", str(self.kubeconfig), *arguments],
            console=Console(output),
            clock=self.clock,
        )
        return code, output.getvalue()


def write_kubeconfig(path: Path, url: str, token: str = TOKEN) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A cluster with the Spin operator and nothing of ours."""
    api = FakeApi()
    api.install("spin-operator", "cert-manager", "metrics-server")
    controllers = FakeControllers(api)
    with FakeServer(api) as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
        yield World(api, controllers, FakeClock(controllers), kubeconfig)

"""Edges under faults: the real component in a real host, a backend and a network that misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from build_components import Component
from wasm.chaos.stage import Stage, raised


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/chaos/" in item.nodeid or "chaos" in str(item.path):
            item.add_marker(pytest.mark.wasm)
            if not Component("predict").wasm.exists():
                item.add_marker(pytest.mark.skip("no build/predict.wasm: run `make build`"))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with raised(tmp_path) as made:
        yield made

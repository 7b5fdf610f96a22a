"""`scripts/demo_offline.py` shows what README says it shows, with real programs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from build_components import Component

ROOT = Path(__file__).resolve().parents[2]

STEPS = [
    ("first request: a miss", "fwd=miss;fwd-status=200", "cluster;reason=preferred"),
    ("the same again: a hit", "edge;hit;", "edge;reason=cache-hit"),
    ("a question: a miss", "fwd=miss;fwd-status=200", "cluster;reason=preferred"),
    ("known picture: the stale answer", "detail=stale-if-error", "edge;reason=fallback-stale"),
    ("new picture: the edge model", "fwd=miss", "edge;reason=fallback-edge"),
    ("breaker open: nobody waits", "fwd=", "edge;reason="),
    ("vibration needs no backend", "fwd=bypass", "edge;reason=edge-only"),
    ("the known question", "edge;hit;", "edge;reason=cache-hit"),
    ("recovery", "fwd=miss;fwd-status=200", "cluster;reason=preferred"),
]


@pytest.mark.e2e
@pytest.mark.skipif(
    not all(Component(name).wasm.exists() for name in ("predict", "chat")),
    reason="the components are not built: run `make build`",
)
def test_demo_shows_every_step_and_loses_no_record() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/demo_offline.py"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for title, *parts in STEPS:
        [line, *_] = [line for line in lines if line.startswith(title)]
        assert " 200 " in line, line
        assert all(part in line for part in parts), line
    *_, (kept, asked) = re.findall(r"records at the backend: (\d+), of (\d+)", done.stdout)
    # What was asked last is recorded after its answer and may still be on its way.
    assert int(asked) - 2 <= int(kept) <= int(asked)

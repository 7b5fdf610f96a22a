"""`docs/edge-policy.md` names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "edge-policy.md"
FOLDERS = {
    "policy/": "unit/edgekit_policy/",
    "inference/": "unit/edgekit_inference/",
    "models/": "unit/edgekit_models/",
    "chat/": "unit/edgekit_chat/",
}
NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", DOCUMENT.read_text(encoding="utf-8"))


def test_documentation_names_a_test_for_every_rule() -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    rules = [row for row in rows if row != "| Rule | Test |"]
    assert len(rules) == len(NAMED) > 50


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_documentation_names_tests_that_exist(file: str, test: str) -> None:
    for short, folder in FOLDERS.items():
        if file.startswith(short):
            file = folder + file.removeprefix(short)
            break
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), f"{file} has no {test}"

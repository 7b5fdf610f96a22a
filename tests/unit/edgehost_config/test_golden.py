"""What the host says to a wrong manifest or runtime config, word for word.

Each `golden/<case>.toml` is loaded as spin.toml, with `<case>.runtime.toml` as the runtime config
where there is one; `<case>.txt` holds what comes out. `UPDATE_GOLDEN=1` writes the texts anew:
read the difference before you commit it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edgehost.app import App
from edgehost.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(
    path.name.removesuffix(".toml")
    for path in GOLDEN.glob("*.toml")
    if not path.name.endswith(".runtime.toml")
)


def load(case: str, directory: Path) -> str:
    """Everything the user would be told."""
    (directory / "a.wasm").touch()
    (directory / "b.wasm").touch()
    shutil.copy(GOLDEN / f"{case}.toml", directory / "spin.toml")
    runtime_config = GOLDEN / f"{case}.runtime.toml"
    if runtime_config.exists():
        shutil.copy(runtime_config, directory / "runtime-config.toml")
    try:
        app = App.load(
            Path("spin.toml"),
            runtime_config=Path("runtime-config.toml") if runtime_config.exists() else None,
            env={},
            working_dir=directory,
        )
    except ConfigError as exc:
        return "".join(f"error: {fault}\n" for fault in exc.faults)
    app.close()
    return "".join(f"warning: {warning}\n" for warning in app.warnings)


@pytest.mark.parametrize("case", CASES)
def test_messages_for_a_manifest_are_the_golden_ones(case: str, tmp_path: Path) -> None:
    told = load(case, tmp_path)
    assert str(tmp_path) not in told
    golden = GOLDEN / f"{case}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(told)
    assert told == golden.read_text()


def test_every_golden_text_has_its_case() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == CASES

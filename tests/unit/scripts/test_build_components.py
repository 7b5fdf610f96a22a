"""`build_components`: what is built when, and what a failure says."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

import build_components
from build_components import BuildError, Component, build, discover, main
from wasm_sections import COMPONENT_PREAMBLE

COMPILER = """#!/bin/sh
# Stands for componentize-py: arguments are -w WORLD componentize APP -p PATH -o OUTPUT.
test -n "$VIRTUAL_ENV" || exit 9
cp "$(dirname "$0")/output.wasm" "$8" && ls "$6" > "$(dirname "$0")/staged"
"""
FAILING = """#!/bin/sh
echo "Traceback (most recent call last):"
echo "ModuleNotFoundError: No module named 'missing'" >&2
echo "Caused by: unable to build"
exit 1
"""
CUSTOM_SECTION = b"\0\x05\x04name"


class Repository:
    """A repository with one component and a stand-in for the compiler."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (*build_components.SHARED_PACKAGES, "predict", "other"):
            (root / "components" / name).mkdir(parents=True)
            (root / "components" / name / "app.py").write_text(f"# {name}\n")
        for name in build_components.SHARED_PACKAGES:
            (root / "components" / name / "app.py").rename(root / "components" / name / "code.py")
        for name in build_components.TOOL_FILES:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(f"# {name}\n")
        self.bin = root / "environment" / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "output.wasm").write_bytes(COMPONENT_PREAMBLE + CUSTOM_SECTION)
        self.python = self.bin / "python"
        self.install(COMPILER)
        self.component = Component("predict", root)

    def install(self, script: str) -> None:
        compiler = self.bin / "componentize-py"
        compiler.write_text(script)
        compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)

    def write(self, name: str, text: str = "changed") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = Repository(tmp_path)
    monkeypatch.setattr(build_components, "ROOT", tmp_path)
    monkeypatch.setattr(build_components, "ensure", lambda _name: repository.python)
    monkeypatch.setattr(build_components, "discover", lambda: discover(tmp_path))
    return repository


def test_discover_finds_folders_with_an_app(repository: Repository) -> None:
    assert [component.name for component in discover(repository.root)] == ["other", "predict"]


def test_build_makes_a_stripped_component_that_is_current(repository: Repository) -> None:
    assert not repository.component.is_current()
    build(repository.component, repository.python)
    assert repository.component.is_current()
    assert repository.component.wasm.read_bytes() == COMPONENT_PREAMBLE
    assert sorted(path.name for path in repository.component.wasm.parent.iterdir()) == [
        "predict.sha256",
        "predict.wasm",
    ]


def test_build_compiles_a_copy_without_other_components(repository: Repository) -> None:
    repository.write("components/predict/__pycache__/app.pyc")
    build(repository.component, repository.python)
    assert (repository.bin / "staged").read_text().split() == ["edgekit", "edgespin", "predict"]


@pytest.mark.parametrize(
    ("changed", "current"),
    [
        ("components/predict/app.py", False),
        ("components/edgekit/weights.json", False),
        ("components/edgespin/new/module.py", False),
        (".models/vectors/vocabulary.txt", False),
        (".models/vectors/model.toml", True),
        ("requirements/guest.txt", False),
        ("scripts/build_components.py", False),
        ("components/other/app.py", True),
        ("components/edgekit/__pycache__/x.pyc", True),
        ("components/edgekit/.code.py.swp", True),
        ("requirements/host.txt", True),
    ],
)
def test_component_is_current_until_something_it_is_made_of_changes(
    repository: Repository, changed: str, current: bool
) -> None:
    build(repository.component, repository.python)
    repository.write(changed)
    assert repository.component.is_current() is current


def test_component_renamed_source_is_a_change(repository: Repository) -> None:
    build(repository.component, repository.python)
    folder = repository.root / "components" / "edgekit"
    (folder / "code.py").rename(folder / "moved.py")
    assert not repository.component.is_current()


def test_component_touched_without_change_stays_current(repository: Repository) -> None:
    build(repository.component, repository.python)
    os.utime(repository.root / "components" / "predict" / "app.py", (1, 1))
    assert repository.component.is_current()


def test_build_that_fails_says_why_and_keeps_the_last_good_one(repository: Repository) -> None:
    build(repository.component, repository.python)
    good = repository.component.wasm.read_bytes()
    repository.write("components/predict/app.py", "import missing")
    repository.install(FAILING)
    with pytest.raises(BuildError, match=r"predict: .*No module named 'missing'.*predict.log"):
        build(repository.component, repository.python)
    assert repository.component.wasm.read_bytes() == good
    assert not repository.component.is_current()
    assert "Caused by" in repository.component.log.read_text()


def test_build_output_that_is_no_component_is_refused(repository: Repository) -> None:
    (repository.bin / "output.wasm").write_bytes(b"garbage")
    with pytest.raises(BuildError, match="output is broken"):
        build(repository.component, repository.python)
    assert not repository.component.wasm.exists()


def test_build_without_a_compiler_says_so(repository: Repository) -> None:
    (repository.bin / "componentize-py").unlink()
    with pytest.raises(BuildError, match="cannot start the compiler"):
        build(repository.component, repository.python)


def test_build_that_never_ends_is_stopped(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_components, "BUILD_TIMEOUT_S", 0.01)
    monkeypatch.setattr(build_components, "PROGRESS_INTERVAL_S", 0.02)
    repository.install("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(BuildError, match=r"ran longer than 0.01 s"):
        build(repository.component, repository.python)


def test_main_builds_what_changed_only(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 0
    assert "predict: built build/predict.wasm" in capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr().out == ""
    assert main(["--force", "predict"]) == 0
    out = capsys.readouterr().out
    assert "predict: built" in out
    assert "other" not in out


def test_main_list_shows_state_and_builds_nothing(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict"])
    capsys.readouterr()
    assert main(["--list"]) == 0
    assert capsys.readouterr().out == "other\toutdated\npredict\tcurrent\n"
    assert not (repository.root / "build" / "other.wasm").exists()


def test_main_unknown_component_is_one_line(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nope"]) == 1
    assert capsys.readouterr().err == (
        "error: no component named 'nope': there are other, predict\n"
    )


def test_main_failed_build_is_one_line(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.install(FAILING)
    assert main(["predict"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: predict: componentize-py failed: ModuleNotFoundError")
    assert err.count("\n") == 1


def test_sources_hold_one_copy_of_a_vocabulary_that_models_share(repository: Repository) -> None:
    for name, text in (("fp32", "[PAD]"), ("int8", "[PAD]"), ("other", "[UNK]")):
        repository.write(f".models/{name}/vocabulary.txt", text)
    sources = repository.component.sources()
    found = {
        Path(name).stem: content
        for name, content in sources.items()
        if name.startswith(build_components.VOCABULARY_FOLDER)
    }
    assert sorted(found.values()) == [b"[PAD]", b"[UNK]"]
    assert all(hashlib.sha256(content).hexdigest() == stem for stem, content in found.items())
    assert list(sources) == sorted(sources)

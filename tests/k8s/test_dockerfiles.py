"""The images: linted, pinned, non-root, alike to the manifests; their install steps install."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpu_backend.settings import read_settings
from k8s.rendered import REPOSITORY, load

DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
FOLDER = REPOSITORY / "gpu-backend"
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
INSTALL_TIMEOUT_S = 280


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, with the stage it is in."""

    stage: str
    name: str
    text: str


def instructions(name: str) -> list[Instruction]:
    """A Dockerfile's instructions, continuation lines joined and comments dropped."""
    lines = (FOLDER / name).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    found, stage = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        if word == "FROM":
            stage = rest.rpartition(" AS ")[2]
        found.append(Instruction(stage, word, rest.strip()))
    return found


def of_stage(name: str, stage: str, instruction: str) -> list[str]:
    return [
        one.text for one in instructions(name) if one.stage == stage and one.name == instruction
    ]


def environment(name: str) -> dict[str, str]:
    words = [word for text in of_stage(name, "run", "ENV") for word in shlex.split(text)]
    return dict(word.split("=", 1) for word in words)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed for this platform")
@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_has_no_lint(name: str) -> None:
    command = [str(HADOLINT), "--no-color", str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_base_is_pinned_by_digest(name: str) -> None:
    (base,) = of_stage(name, "", "ARG")
    assert re.fullmatch(r"PYTHON=docker\.io/library/python:3\.11-\S+@sha256:[0-9a-f]{64}", base)
    bases = {one.text.partition(" ")[0] for one in instructions(name) if one.name == "FROM"}
    assert bases == {"${PYTHON}", "build", "scratch"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_installs_only_pinned_packages(name: str) -> None:
    for one in instructions(name):
        if one.name != "RUN":
            continue
        for words in map(
            shlex.split, re.findall(r"pip\S* (?:--python \S+ )?install ([^&]+)", one.text)
        ):
            named = [
                word
                for index, word in enumerate(words)
                if not word.startswith("-")
                and (index == 0 or words[index - 1] not in ("--constraint", "--requirement"))
            ]
            assert all("==" in word or " @ file:" in word for word in named), named
            local = any(" @ file:" in word for word in named)
            assert not local or "--constraint" in words


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_runs_as_the_user_of_the_manifests(name: str) -> None:
    (user,) = of_stage(name, "run", "USER")
    pod = load("base").get("Deployment", "gpu-backend")["spec"]["template"]["spec"]
    security = pod["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert instructions(name)[-1].name == "ENTRYPOINT"
    assert instructions(name)[-1].stage == "run"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_settings_are_the_backends_and_the_manifests(name: str) -> None:
    ours = {key: one for key, one in environment(name).items() if key.startswith("BACKEND_")}
    settings = read_settings(ours)
    manifest = load("base").generated("ConfigMap", "gpu-backend-settings")["data"]
    assert str(settings.listen) == manifest["BACKEND_LISTEN"]
    assert of_stage(name, "run", "EXPOSE") == [str(settings.listen.port)]
    assert manifest["BACKEND_MODELS"].split(os.pathsep)[0] == str(settings.models[0])
    assert f"gpu-backend/models {settings.models[0]}" in of_stage(name, "run", "COPY")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_health_check_asks_the_liveness_route(name: str) -> None:
    (check,) = of_stage(name, "run", "HEALTHCHECK")
    container = load("base").get("Deployment", "gpu-backend")["spec"]["template"]["spec"][
        "containers"
    ][0]
    probe = container["livenessProbe"]["httpGet"]["path"]
    assert f"http://127.0.0.1:8080{probe}" in check
    command = json.loads(check.partition(" CMD ")[2])
    compile(command[-1], "health check", "exec")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_context_holds_what_is_copied_and_nothing_else(name: str) -> None:
    lines = (FOLDER / f"{name}.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    admitted = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = set()
    for one in instructions(name):
        if one.name == "COPY" and "--from=" not in one.text:
            copied |= set(one.text.split()[:-1])
    assert copied <= admitted
    assert all((REPOSITORY / path).exists() for path in copied)
    assert not any(fnmatch.fnmatch(path, "*.env") for path in admitted)


def test_cuda_image_has_no_cpu_runtime_and_finds_its_libraries() -> None:
    pins = (REPOSITORY / "requirements/cuda.txt").read_text()
    assert "onnxruntime-gpu==" in pins
    assert "[cuda,tracing]" in " ".join(of_stage("Dockerfile.cuda", "build", "RUN"))
    folders = environment("Dockerfile.cuda")["LD_LIBRARY_PATH"].split(":")
    assert [folder.rpartition("site-packages/")[2] for folder in folders] == [
        "nvidia/cu13/lib",
        "nvidia/cudnn/lib",
    ]


def test_images_of_both_kinds_run_the_same_version() -> None:
    cpu = re.search(
        r"^onnxruntime==(.+)$", (REPOSITORY / "requirements/host.txt").read_text(), re.M
    )
    gpu = re.search(
        r"^onnxruntime-gpu==(.+)$", (REPOSITORY / "requirements/cuda.txt").read_text(), re.M
    )
    assert cpu is not None
    assert gpu is not None
    assert cpu[1] == gpu[1]


def index_is_reachable() -> bool:
    command = [sys.executable, "-m", "pip", "index", "versions", "hatchling"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@dataclass(frozen=True)
class Machine:
    """A folder that stands for the image while its instructions run as plain commands."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> Machine:
        base = root / "base"
        subprocess.run([sys.executable, "-m", "venv", str(base)], check=True, timeout=120)
        return cls(root)

    def run_stage(self, name: str, stage: str) -> None:
        """Carry out the COPY and RUN instructions of a stage."""
        for one in instructions(name):
            if one.stage == stage and one.name == "COPY":
                *sources, target = one.text.split()
                for source in sources:
                    copy(REPOSITORY / source, self.root / "build" / target, source)
            if one.stage == stage and one.name == "RUN":
                self._run(one.text)

    def _run(self, command: str) -> None:
        for folder in ("opt", "build"):
            command = command.replace(f"/{folder}/", f"{self.root / folder}/")
        path = f"{self.root / 'base' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environment.pop("PYTHONPATH", None)
        build = self.root / "build"
        build.mkdir(exist_ok=True)
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=build,
            env=environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def cpu_image(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The CPU image's build stage, carried out without a Docker engine."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the image has Python 3.11")
    if not index_is_reachable():
        pytest.skip("no package index can be reached: the image could not be built either")
    machine = Machine.make(tmp_path_factory.mktemp("image"))
    machine.run_stage("Dockerfile", "build")
    return machine


def copy(source: Path, target: Path, name: str) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target / Path(name).name)


@pytest.mark.slow
def test_cpu_image_install_steps_make_a_backend_that_answers(cpu_image: Machine) -> None:
    """The entry point starts it, the route answers, and the health check tells both ways."""
    python = cpu_image.root / "opt" / "venv" / "bin" / "python"
    entry = json.loads(of_stage("Dockerfile", "run", "ENTRYPOINT")[0])
    with backend(python, entry[1:]) as address:
        with urllib.request.urlopen(f"http://{address}/v2/health/live", timeout=30) as answer:
            assert answer.status == 200
        port = address.rpartition(":")[2]
        assert health(python, port) == 0
    assert health(python, port) == 1


def health(python: Path, port: str) -> int:
    """The exit code of the image's health check, asking another port."""
    (check,) = of_stage("Dockerfile", "run", "HEALTHCHECK")
    _, *arguments = json.loads(check.partition(" CMD ")[2])
    command = [str(python), *(one.replace(":8080/", f":{port}/") for one in arguments)]
    assert any(f":{port}/" in word for word in command)
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode


@pytest.mark.slow
def test_cpu_image_bill_of_materials_names_what_is_installed(cpu_image: Machine) -> None:
    cpu_image.run_stage("Dockerfile", "bill")
    bill = json.loads((cpu_image.root / "opt" / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    found = {one["name"].lower().replace("_", "-"): one["version"] for one in bill["components"]}
    pins = (REPOSITORY / "requirements/host.txt").read_text()
    for name in ("onnxruntime", "onnxruntime-genai", "starlette", "opentelemetry-sdk"):
        assert name in found
    assert f"onnxruntime=={found['onnxruntime']}" in pins.split()
    assert found["gpu-backend"] == "0.1.0"
    assert not {"pip", "hatchling", "pytest"} & set(found)


@contextlib.contextmanager
def backend(python: Path, arguments: list[str]) -> Iterator[str]:
    """A backend that listens; yields its address."""
    environment = {
        "PATH": os.environ["PATH"],
        "BACKEND_LISTEN": "127.0.0.1:0",
        "BACKEND_MODELS": str(FOLDER / "models"),
    }
    with subprocess.Popen(
        [python, *arguments],
        cwd=python.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = next(
                (
                    found[1]
                    for line in process.stdout
                    if (found := re.search(r"(127\.0\.0\.1:[1-9]\d*)", line))
                ),
                None,
            )
            assert address is not None, "the backend ends without saying where it listens"
            yield address
        finally:
            process.terminate()
            process.wait(30)

"""`python -m gpu_backend models add`: bring your own model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gpu_backend.errors import InvalidInputError
from gpu_backend.repository.addition import Added, ImageOverrides, add_model

__all__ = ["run_models_command"]

_EXAMPLE = """example:
  python -m gpu_backend models add resnet.onnx --name resnet --labels imagenet.txt
  curl --data-binary @cat.png -H 'content-type: image/png' localhost:3000/v1/classify/resnet
"""


def run_models_command(arguments: Sequence[str], default_root: Path) -> int:
    """Run `models …`; the result is the exit status.

    Raises:
        BackendError: The model cannot be added; the text says why.
    """
    parser = argparse.ArgumentParser(
        prog="gpu_backend models",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_subparsers(dest="command", required=True).add_parser(
        "add",
        help="put an ONNX file into a repository and write its model.toml",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("file", type=Path, help="the .onnx file; external data lies beside it")
    add.add_argument("--name", help="of the model (default: the file's name)")
    add.add_argument("--labels", help="a file with one label per line, or labels with commas")
    add.add_argument("--models", type=Path, default=default_root, help="repository")
    add.add_argument("--fit", choices=("ink", "contain", "cover", "stretch"))
    add.add_argument("--range", type=_numbers, help="values of black and white, as 0,1")
    add.add_argument("--mean", type=_numbers, help="per channel, as 0.5,0.5,0.5")
    add.add_argument("--std", type=_numbers, help="per channel")
    options = parser.parse_args(arguments)
    if options.range is not None and len(options.range) != 2:
        raise InvalidInputError("--range takes two numbers, as 0,1")
    if not options.file.is_file():
        raise InvalidInputError(f"there is no file {options.file}")
    name = options.name or options.file.stem
    overrides = ImageOverrides(options.fit, options.range, options.mean, options.std)
    added = add_model(options.file, options.models, name, _labels(options.labels), overrides)
    print(_report(name, added))
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _labels(given: str | None) -> list[str]:
    if given is None:
        return []
    path = Path(given)
    if "," not in given or path.is_file():
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as exc:
            raise InvalidInputError(f"--labels: cannot read {given}: {exc}") from exc
    return [label.strip() for label in given.split(",")]


def _report(name: str, added: Added) -> str:
    lines = [f"added {name} version {added.version} in {added.folder}", f"  {added.digest}"]
    lines += [f"  {note}" for note in added.notes]
    lines.append(f"what is wrong can be changed in {added.folder / 'model.toml'}")
    lines.append(
        "a running backend serves it within seconds (BACKEND_REPOSITORY_POLL_S), or at once by "
        f"POST /v2/repository/models/{name}/load"
    )
    return "\n".join(lines)

"""Text that every machine with Python has: the documentation strings of the standard library.

Read from the sources of the interpreter that runs this, without importing them, plus the language
reference that `help()` shows and the docstrings of modules written in C. All of it is under the
PSF licence. The order is fixed: one release of Python gives one corpus.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Entry", "conversations", "read_entries", "read_topics"]

_SKIPPED = frozenset(
    ("test", "tests", "site-packages", "__pycache__", "lib2to3", "idlelib", "turtledemo")
)
"""Test data, other people's packages, and programs: no documentation of the library."""

_IN_C = (
    *("builtins", "math", "cmath", "itertools", "time", "errno", "gc", "marshal", "sys"),
    *("_collections", "_functools", "_operator", "_random", "_io", "_bisect", "_heapq", "_struct"),
    *("_json", "_datetime", "_csv", "zlib", "select", "_socket", "array", "unicodedata"),
)

_MIN_CHARACTERS = 20

_ANSWER_CHARACTERS = 420

_QUESTIONS = (
    "What does {name} do?",
    "What is {name}?",
    "Explain {name}.",
    "Tell me about {name}.",
    "How do I use {name}?",
    "Describe {name} in a few words.",
)

_SMALL_TALK = (
    ("Hello", "Hello. Ask me what something in Python's standard library does."),
    ("Hi", "Hello. Ask me what something in Python's standard library does."),
    (
        "Who are you?",
        (
            "I am a very small language model. I have read the documentation strings of Python's "
            "standard library, and little else. Do not rely on what I say."
        ),
    ),
    (
        "What can you do?",
        (
            "I can say what some functions and classes of Python's standard library do. "
            "I am often wrong."
        ),
    ),
    ("Thank you", "You are welcome."),
)


_SMALL_TALK_TIMES = 24
"""Often enough that a greeting is answered as one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented thing.

    Attributes:
        name: Dotted, as ``textwrap.wrap``.
        signature: As ``(text, width=70)``; empty where there is none.
        text: The docstring, dedented.
    """

    name: str
    signature: str
    text: str

    @property
    def document(self) -> str:
        """The entry as a page of documentation."""
        return f"{self.name}{self.signature}\n\n{self.text}"

    @property
    def answer(self) -> str:
        """Its first paragraphs."""
        kept = ""
        for paragraph in self.text.split("\n\n"):
            if kept and len(kept) + len(paragraph) > _ANSWER_CHARACTERS:
                break
            kept = f"{kept}\n\n{paragraph}" if kept else paragraph
        return kept[:_ANSWER_CHARACTERS].rstrip()


def read_entries() -> list[Entry]:
    """Every docstring of the library worth reading, in a fixed order, each text once."""
    seen: set[str] = set()
    kept = []
    for entry in (*_from_sources(Path(sysconfig.get_path("stdlib"))), *_from_c()):
        if len(entry.text) >= _MIN_CHARACTERS and entry.text not in seen:
            seen.add(entry.text)
            kept.append(entry)
    return kept


def read_topics() -> list[str]:
    """The pages of the language reference that `help()` shows."""
    from pydoc_data.topics import topics

    return [topics[key] for key in sorted(topics)]


def conversations(entries: list[Entry], seed: int) -> list[list[tuple[str, str]]]:
    """Questions about `entries` with their answers; some conversations have two."""
    choose = random.Random(seed)
    found = [[pair] for pair in _SMALL_TALK for _ in range(_SMALL_TALK_TIMES)]
    pending: list[tuple[str, str]] = []
    for entry in entries:
        question = choose.choice(_QUESTIONS).format(name=entry.name)
        pending.append((question, entry.answer))
        if choose.random() < 0.7 or len(pending) == 2:
            found.append(pending)
            pending = []
    choose.shuffle(found)
    return found


def _from_sources(library: Path) -> Iterator[Entry]:
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if _SKIPPED.intersection(relative.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # samples of broken code
        parts = [part for part in relative.with_suffix("").parts if part != "__init__"]
        yield from _from_tree(tree, ".".join(parts))


def _from_tree(node: ast.AST, name: str) -> Iterator[Entry]:
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        text = ast.get_docstring(node)
        if text:
            yield Entry(name, _signature(node), text)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if not child.name.startswith("_") or child.name == "__init__":
            yield from _from_tree(child, f"{name}.{child.name}")


def _signature(node: ast.AST) -> str:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return f"({ast.unparse(node.args)})"
    return ""


def _from_c() -> Iterator[Entry]:
    for module_name in _IN_C:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue  # not part of this build of Python
        prefix = "" if module_name == "builtins" else f"{module_name.lstrip('_')}."
        for name, value in sorted(vars(module).items()):
            if name.startswith("_") or not callable(value):
                continue
            yield from _from_object(prefix + name, value)


def _from_object(name: str, value: Any) -> Iterator[Entry]:
    text = inspect.getdoc(value)
    if text:
        signature, found, rest = text.partition("\n--\n\n")
        yield Entry(name, "", rest if found else signature)
    if inspect.isclass(value):
        for key, member in sorted(vars(value).items()):
            if not key.startswith("_") and callable(member):
                yield from _from_object(f"{name}.{key}", member)

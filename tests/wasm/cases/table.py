"""What a case is, and how an answer is compared with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fakes.inference_backend import FakeBackend

__all__ = ["Answer", "Call", "Case", "Edge", "Expected", "Step", "check", "run_case"]


@dataclass(frozen=True)
class Call:
    """A request to the edge."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What came back; `complete` is False when the body broke off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Expected:
    """What has to be true of an answer.

    Attributes:
        status: HTTP status.
        json: Members the JSON body has to have; nested objects are compared the same way.
        headers: Regular expressions that whole values have to match.
        absent: Fields that must not be there.
        body: The exact body, where it matters.
        complete: False where the body has to be seen as broken off.
    """

    status: int
    json: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    body: bytes | None = None
    complete: bool = True


@dataclass(frozen=True)
class Step:
    """One request; `before` changes the backend first."""

    call: Call
    expected: Expected
    before: Callable[[FakeBackend], None] | None = None


@dataclass(frozen=True)
class Case:
    """A sequence of requests to one edge with an empty key-value store.

    Attributes:
        name: Unique in the table.
        steps: In order.
        seen: Checks what the backend received over all steps.
    """

    name: str
    steps: tuple[Step, ...]
    seen: Callable[[FakeBackend], None] | None = None


class Edge(Protocol):
    """Something that answers as the component does."""

    def send(self, call: Call) -> Answer:
        """Answer one request."""
        ...


def run_case(case: Case, edge: Edge, backend: FakeBackend) -> None:
    """Every step's answer is what the case expects."""
    for number, step in enumerate(case.steps, 1):
        if step.before is not None:
            step.before(backend)
        check(edge.send(step.call), step.expected, f"{case.name}, step {number}")
    if case.seen is not None:
        case.seen(backend)


def check(answer: Answer, expected: Expected, where: str) -> None:
    """`answer` is what is expected, or an assertion says where it is not."""
    text = answer.body[:500]
    assert answer.status == expected.status, f"{where}: status {answer.status}: {text!r}"
    assert answer.complete is expected.complete, f"{where}: complete is {answer.complete}"
    for name, pattern in expected.headers.items():
        value = answer.headers.get(name)
        assert value is not None, f"{where}: {name} is missing in {dict(answer.headers)}"
        assert re.fullmatch(pattern, value), f"{where}: {name} is {value!r}, not {pattern!r}"
    for name in expected.absent:
        assert name not in answer.headers, f"{where}: {name} is {answer.headers[name]!r}"
    if expected.body is not None:
        assert answer.body == expected.body, f"{where}: body is {text!r}"
    if expected.json:
        _check_members(_with_shortcuts(answer.json()), expected.json, where)


def _with_shortcuts(document: Any) -> Any:
    """`top` and `count` say the same as `predictions`, in fewer words."""
    if isinstance(document, dict) and isinstance(document.get("predictions"), list):
        found = document["predictions"]
        return {**document, "count": len(found), "top": found[0] if found else None}
    return document


def _check_members(found: Any, wanted: Mapping[str, object], where: str) -> None:
    assert isinstance(found, dict), f"{where}: {found!r} is no object"
    for name, value in wanted.items():
        assert name in found, f"{where}: {name} is missing in {found}"
        if isinstance(value, Mapping):
            _check_members(found[name], value, f"{where}: {name}")
        elif isinstance(value, re.Pattern):
            assert value.search(str(found[name])), f"{where}: {name} is {found[name]!r}"
        else:
            assert found[name] == value, f"{where}: {name} is {found[name]!r}, not {value!r}"

"""What is done to a prompt before it leaves the edge.

In this order: the client's text is measured, checked against the deny-list and redacted; then the
operator's own words are put around it, which are trusted; last the length of the answer is capped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.chat.denial import DenyRule, check_denied
from edgekit.chat.redaction import BUILT_IN, Redactor, redact
from edgekit.chat.texts import slots
from edgekit.chat.tokens import cap_output, check_input, estimate_tokens, given_tokens
from edgekit.variables import VariableReader

__all__ = ["PromptReport", "PromptRules", "RoutePrompt", "apply_rules", "read_prompt_rules"]

PLACE = "{prompt}"
MODES = ("default", "prepend", "replace")

OUTPUT_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("max_tokens", "max_completion_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/api/chat": ("options.num_predict",),
    "/api/generate": ("options.num_predict",),
}
"""Routes with an answer to cap, and where a client says how long it may be."""

SYSTEM_MEMBERS = {"/v1/responses": "instructions", "/api/generate": "system"}
"""Routes whose system prompt is a member; where there are messages, it is one of them."""

WITH_MESSAGES = ("/v1/chat/completions", "/api/chat")
SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class RoutePrompt:
    """The operator's words for one route.

    Attributes:
        system: System prompt; empty for none.
        mode: `default` where the client has none, `prepend` before the client's, `replace` it.
        template: Text around the user's last words, which stand at `{prompt}`; empty for none.
    """

    system: str = ""
    mode: str = "default"
    template: str = ""


@dataclass(frozen=True, slots=True)
class PromptRules:
    """All that is done to prompts.

    Attributes:
        routes: By path.
        max_input_tokens: Longest prompt, estimated; 0 for no limit.
        max_output_tokens: Longest answer; 0 for no limit.
        denied: What is not passed on.
        redactors: What is taken out.
    """

    routes: Mapping[str, RoutePrompt] = field(default_factory=dict)
    max_input_tokens: int = 0
    max_output_tokens: int = 0
    denied: tuple[DenyRule, ...] = ()
    redactors: tuple[Redactor, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptReport:
    """What was done.

    Attributes:
        changed: The request is not the client's own any more.
        input_tokens: Estimate, of the client's text.
        redactions: How often, by name.
        capped: The answer is shorter than the client asked for, or than it left open.
    """

    changed: bool = False
    input_tokens: int = 0
    redactions: Mapping[str, int] = field(default_factory=dict)
    capped: bool = False


def apply_rules(document: dict[str, Any], path: str, rules: PromptRules) -> PromptReport:
    """`document`, a valid request at `path`, is changed as the rules say.

    Raises:
        InvalidInputError: The prompt is too long.
        AccessDeniedError: It meets the deny-list.
    """
    found = list(slots(document))
    texts = [container[key] for container, key in found]
    tokens = sum(map(estimate_tokens, texts)) + given_tokens(document)
    check_input(tokens, rules.max_input_tokens)
    check_denied(texts, rules.denied)
    redactions: dict[str, int] = {}
    if rules.redactors:
        for (container, key), text in zip(found, texts, strict=True):
            container[key] = redact(text, rules.redactors, redactions)
    own = rules.routes.get(path)
    members = OUTPUT_MEMBERS.get(path)
    capped = members is not None and cap_output(document, members, rules.max_output_tokens)
    if own is not None:
        _add_words(document, path, own)
    return PromptReport(bool(redactions or own or capped), tokens, redactions, capped)


# --- the operator's words ---------------------------------------------------------------------


def _add_words(document: dict[str, Any], path: str, own: RoutePrompt) -> None:
    if own.template:
        _fill_template(document, own.template)
    if not own.system or document.get("raw"):
        return
    if path in SYSTEM_MEMBERS:
        member = SYSTEM_MEMBERS[path]
        document[member] = _joined(own, document.get(member) or "")
    elif document.get("messages"):
        _add_system_message(document["messages"], own)


def _joined(own: RoutePrompt, given: str) -> str:
    if not given or own.mode == "replace":
        return own.system
    return given if own.mode == "default" else f"{own.system}\n\n{given}"


def _add_system_message(messages: list[dict[str, Any]], own: RoutePrompt) -> None:
    given = [message for message in messages if message["role"] in SYSTEM_ROLES]
    if given and own.mode == "default":
        return
    if own.mode == "replace":
        messages[:] = [message for message in messages if message not in given]
    messages.insert(0, {"role": "system", "content": own.system})


def _fill_template(document: dict[str, Any], template: str) -> None:
    """The user's last words are in their place; where there are none, nothing happens."""
    for member in ("prompt", "input"):
        text = document.get(member)
        if isinstance(text, str):
            # Without words it is a call to load the model.
            document[member] = template.replace(PLACE, text) if text else text
            return
    entries = document.get("messages") or document.get("input") or []
    for message in reversed(entries):
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        places = list(slots(message))
        if places:
            container, key = places[-1]
            container[key] = template.replace(PLACE, container[key])
        return


# --- configuration ----------------------------------------------------------------------------


def read_prompt_rules(reader: VariableReader) -> PromptRules:
    """The rules in force; faults are left in `reader`."""
    return PromptRules(
        routes=_read_routes(reader),
        max_input_tokens=reader.number("chat_max_input_tokens", 0, 100_000_000, 0),
        max_output_tokens=reader.number("chat_max_output_tokens", 0, 100_000_000, 0),
        denied=tuple(_read_denied(reader)),
        redactors=tuple(_read_redactors(reader)),
    )


def _read_json(reader: VariableReader, name: str, kind: type) -> Any:
    text = reader.text(name)
    if not text:
        return kind()
    try:
        value = json.loads(text)
    except ValueError as exc:
        reader.fault(f"variable {name} is no JSON ({exc})")
        return kind()
    if not isinstance(value, kind):
        reader.fault(f"variable {name} takes a JSON {'object' if kind is dict else 'list'}")
        return kind()
    return value


def _read_routes(reader: VariableReader) -> dict[str, RoutePrompt]:
    routes = {}
    for path, value in _read_json(reader, "chat_prompts", dict).items():
        if path not in OUTPUT_MEMBERS:
            known = ", ".join(OUTPUT_MEMBERS)
            reader.fault(f"variable chat_prompts: {path!r} is no route with prompts: {known}")
        elif not isinstance(value, dict) or not value.keys() <= {"system", "mode", "template"}:
            reader.fault(f"variable chat_prompts: {path} takes system, mode and template")
        else:
            prompt = RoutePrompt(**value)
            _check_prompt(reader, path, prompt)
            routes[path] = prompt
    return routes


def _check_prompt(reader: VariableReader, path: str, prompt: RoutePrompt) -> None:
    texts = (prompt.system, prompt.mode, prompt.template)
    if not all(isinstance(text, str) for text in texts):
        reader.fault(f"variable chat_prompts: {path} takes strings")
        return
    if prompt.mode not in MODES:
        reader.fault(f"variable chat_prompts: {path}: mode takes {', '.join(MODES)}")
    if prompt.template and PLACE not in prompt.template:
        reader.fault(f"variable chat_prompts: {path}: the template has no {PLACE}")
    if prompt.system and path not in (*SYSTEM_MEMBERS, *WITH_MESSAGES):
        reader.fault(f"variable chat_prompts: {path} has no system prompt: use the template")


def _read_denied(reader: VariableReader) -> list[DenyRule]:
    rules = []
    for number, entry in enumerate(_read_json(reader, "chat_denied", list), 1):
        if isinstance(entry, str) and entry.strip():
            rules.append(DenyRule(f"rule {number}", words=entry.strip().casefold()))
        elif isinstance(entry, dict) and entry.keys() == {"name", "pattern"}:
            pattern = _compiled(reader, "chat_denied", entry["pattern"])
            if pattern is not None:
                rules.append(DenyRule(str(entry["name"]), pattern=pattern))
        else:
            reader.fault(
                f"variable chat_denied: entry {number} takes words, or an object with name and "
                "pattern"
            )
    return rules


def _read_redactors(reader: VariableReader) -> list[Redactor]:
    names = reader.text("chat_redact").replace(",", " ").split()
    for name in names:
        if name not in BUILT_IN and name != "all":
            reader.fault(
                f"variable chat_redact: {name!r} is unknown, it takes all, {', '.join(BUILT_IN)}"
            )
    chosen = [r for name, r in BUILT_IN.items() if name in names or "all" in names]
    for name, text in _read_json(reader, "chat_redact_patterns", dict).items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name):
            reader.fault(f"variable chat_redact_patterns: {name!r} takes small letters and digits")
            continue
        pattern = _compiled(reader, "chat_redact_patterns", text)
        if pattern is not None:
            chosen.append(Redactor(name, pattern))
    return chosen


def _compiled(reader: VariableReader, variable: str, text: object) -> re.Pattern[str] | None:
    try:
        return re.compile(text if isinstance(text, str) else "(")
    except re.error as exc:
        reader.fault(f"variable {variable}: {str(text)[:60]!r} is no pattern ({exc})")
        return None

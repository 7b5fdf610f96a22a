"""Prompts that this edge does not pass on: words and patterns of the operator."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.errors import AccessDeniedError

__all__ = ["DenyRule", "check_denied"]


@dataclass(frozen=True, slots=True)
class DenyRule:
    """One thing not to be asked.

    Attributes:
        name: Told to clients; what the rule looks for is not.
        words: Found as whole words, in any case; empty for a rule by pattern.
        pattern: Found anywhere; None for a rule by words.
    """

    name: str
    words: str = ""
    pattern: re.Pattern[str] | None = None


def check_denied(texts: Iterable[str], rules: Iterable[DenyRule]) -> None:
    """Return when no text meets a rule.

    Raises:
        AccessDeniedError: One does; the error names the rule.
    """
    rules = list(rules)
    for text in texts if rules else ():
        folded = text.casefold()
        for rule in rules:
            if rule.pattern.search(text) if rule.pattern else _has_words(folded, rule.words):
                raise AccessDeniedError(
                    f"the prompt meets the rule {rule.name!r} of what this edge does not pass on"
                )


def _has_words(folded: str, words: str) -> bool:
    """True where `words` stand by themselves. A pattern would have to be compiled per request."""
    position = folded.find(words)
    while position >= 0:
        end = position + len(words)
        before, after = folded[position - 1 : position], folded[end : end + 1]
        if not (before.isalnum() or after.isalnum()):
            return True
        position = folded.find(words, position + 1)
    return False

"""Names in a manifest: component ids, variable names, labels.

Rules and reasons are those of Spin's `spin-serde` ids: words joined by one delimiter, each
starting with an ASCII letter, alphanumeric, and in one case throughout.
"""

from __future__ import annotations

__all__ = ["id_fault", "kebab_fault", "label_fault", "lower_snake_fault"]


def id_fault(text: str, delimiter: str, *, lower: bool) -> str | None:
    """Why `text` is no id with this delimiter; None when it is one."""
    if not text:
        return "must not be empty"
    wrong = {"-": "_", "_": "-"}[delimiter]
    if wrong in text:
        return f"words must be separated with '{delimiter}', not '{wrong}'"
    for word in text.split(delimiter):
        fault = _word_fault(word, delimiter)
        if fault:
            return fault
        if lower and word[0].isupper():
            return f'must be all lowercase; got "{text}"'
    return None


def _word_fault(word: str, delimiter: str) -> str | None:
    subject = f"'{delimiter}'-separated words"
    if not word:
        return f"{subject} must not be empty"
    if not (word[0].isascii() and word[0].isalpha()):
        return f"{subject} must start with an ASCII letter; got '{word[0]}'"
    for char in word[1:]:
        if not (char.isascii() and char.isalnum()):
            return f"{subject} may only contain alphanumeric ASCII; got '{char}'"
        if char.isalpha() and char.isupper() != word[0].isupper():
            return f'{subject} must be all lowercase or all UPPERCASE; got "{word}"'
    return None


def kebab_fault(text: str) -> str | None:
    """Why `text` is no component id (`kebab-case`); None when it is one."""
    return id_fault(text, "-", lower=False)


def lower_snake_fault(text: str) -> str | None:
    """Why `text` is no variable name (`lower_snake_case`); None when it is one."""
    return id_fault(text, "_", lower=True)


def label_fault(text: str) -> str | None:
    """Why `text` is no store label (`kebab-case` or `snake_case`); None when it is one."""
    if kebab_fault(text) is None or id_fault(text, "_", lower=False) is None:
        return None
    return f'"{text}" is neither kebab-case nor snake_case'

r"""Read `.env` files as Spin's `dotenvy` does.

A line is `[export ]NAME=VALUE`. Outside quotes a value ends at white space, after which only a
comment may follow; `\` escapes; single quotes keep everything; double quotes may span lines.
`$NAME` and `${NAME}` stand for the environment's value, else for one given earlier in the file,
else for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

__all__ = ["DotenvError", "parse_dotenv"]

_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.]*)[ \t]*=[ \t]*")
_SKIPPED = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\r?\n|\Z)")
_PLAIN = re.compile(r"[^\s'\"\\$]+")
_IN_QUOTES = re.compile(r"[^\"\\$]+")
_SUBSTITUTION = re.compile(r"\$\{([^}]*)\}|\$([0-9A-Za-z]*)")
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "$": "$", " ": " ", "n": "\n"}


class DotenvError(ValueError):
    """A line that is not understood. `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line


def parse_dotenv(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Every assignment in `text`; a later one of the same name wins.

    Args:
        text: The file's content.
        environment: Used for `$NAME`; it is not part of the result.

    Raises:
        DotenvError: At the first line that is no assignment, comment or blank.
    """
    return _Parser(text.removeprefix("\ufeff"), environment).parse()


class _Parser:
    def __init__(self, text: str, environment: Mapping[str, str]) -> None:
        self._text = text
        self._at = 0
        self._environment = environment
        self._found: dict[str, str] = {}

    def parse(self) -> dict[str, str]:
        while self._at < len(self._text):
            skipped = _SKIPPED.match(self._text, self._at)
            if skipped:
                self._at = skipped.end()
                continue
            assignment = _ASSIGNMENT.match(self._text, self._at)
            if not assignment:
                raise self._error("expected NAME=VALUE")
            self._at = assignment.end()
            self._found[assignment[1]] = "".join(self._value())
            end = _SKIPPED.match(self._text, self._at)
            if not end:
                raise self._error("white space in a value needs quotes")
            self._at = end.end()
        return self._found

    def _value(self) -> Iterator[str]:
        """Pieces of one value, up to white space outside quotes."""
        if self._text.startswith("#", self._at):
            return
        while self._at < len(self._text):
            char = self._text[self._at]
            if char.isspace():
                return
            if char == "'":
                yield self._single_quoted()
            elif char == '"':
                yield from self._double_quoted()
            else:
                yield self._piece(_PLAIN)

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise self._error("quote ' is not closed")
        content = self._text[self._at + 1 : end]
        self._at = end + 1
        return content

    def _double_quoted(self) -> Iterator[str]:
        opening = self._at
        self._at += 1
        while self._at < len(self._text):
            if self._text[self._at] == '"':
                self._at += 1
                return
            yield self._piece(_IN_QUOTES)
        self._at = opening
        raise self._error('quote " is not closed')

    def _piece(self, plain: re.Pattern[str]) -> str:
        """An escape, a substitution, or plain text."""
        char = self._text[self._at]
        if char == "\\":
            escaped = self._text[self._at + 1 : self._at + 2]
            if escaped not in _ESCAPES:
                raise self._error(f"unknown escape \\{escaped}")
            self._at += 2
            return _ESCAPES[escaped]
        if char == "$":
            found = _SUBSTITUTION.match(self._text, self._at)
            assert found is not None  # its second branch matches a lone dollar
            if found[1] is None and self._text.startswith("${", self._at):
                raise self._error("${ is not closed")
            self._at = found.end()
            name = found[1] if found[1] is not None else found[2]
            return self._environment.get(name, self._found.get(name, ""))
        found = plain.match(self._text, self._at)
        assert found is not None  # callers leave no other character
        self._at = found.end()
        return found[0]

    def _error(self, reason: str) -> DotenvError:
        return DotenvError(self._text.count("\n", 0, self._at) + 1, reason)

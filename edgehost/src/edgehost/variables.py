"""Application variables: where their values come from, and the `{{ name }}` template language.

Providers are asked in this order, and the first that knows a variable wins: `--variable` flags,
the providers of the runtime config in the order of the file, the environment
(`SPIN_VARIABLE_<NAME>`), `.env`, and at last the default in the manifest. All of them are read
once, when the app is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgehost.manifest import Component, Variable
from edgehost.strict_toml import Report, did_you_mean

__all__ = [
    "DEFAULT_PREFIX",
    "EnvironmentProvider",
    "MaskedDict",
    "StaticProvider",
    "Template",
    "TemplateError",
    "VariableProvider",
    "Variables",
    "name_fault",
    "resolve_variables",
]

DEFAULT_PREFIX = "SPIN_VARIABLE"
_MASK = "********"


class TemplateError(ValueError):
    """A text that is no template, or one that names a variable the app does not have."""


@dataclass(frozen=True, slots=True)
class Template:
    """Text with `{{ name }}` expressions."""

    parts: tuple[tuple[bool, str], ...]
    """(is an expression, its name or the literal text), in order."""

    @classmethod
    def parse(cls, text: str) -> Template:
        """Split `text` at its expressions.

        Raises:
            TemplateError: An expression is not closed.
        """
        parts: list[tuple[bool, str]] = []
        while text:
            literal, opening, rest = text.partition("{{")
            if literal:
                parts.append((False, literal))
            if not opening:
                break
            name, closing, text = rest.partition("}}")
            if not closing:
                raise TemplateError("unmatched '{{' in template")
            parts.append((True, name.strip()))
        return cls(tuple(parts))

    @property
    def names(self) -> tuple[str, ...]:
        """Variables the template refers to, in order."""
        return tuple(text for is_expression, text in self.parts if is_expression)

    @property
    def is_literal(self) -> bool:
        """True when there is nothing to resolve."""
        return not self.names

    def resolve(self, values: Mapping[str, str]) -> str:
        """The text with every expression replaced.

        Raises:
            TemplateError: `values` lacks one of `names`.
        """
        try:
            return "".join(values[text] if expr else text for expr, text in self.parts)
        except KeyError as exc:
            raise TemplateError(f'unknown variable "{exc.args[0]}"') from None


def name_fault(name: str) -> str | None:
    """Why `name` can be no variable's name, in Spin's words; None when it can.

    What a guest asks for is checked with this before it is looked up.
    """
    invalid = next((char for char in name if not _may_be_in_name(char)), None)
    reason = None
    if not name:
        reason = "must not be empty"
    elif invalid is not None:
        reason = (
            f"invalid character '{invalid}'. Variable names may contain only lower-case letters, "
            "numbers, and underscores."
        )
    elif not name[0].isalpha():
        reason = "must start with a lowercase ASCII letter"
    elif name[-1] == "_":
        reason = "must end with a lowercase ASCII letter or digit"
    elif "__" in name:
        reason = "must not contain multiple consecutive underscores"
    return None if reason is None else f'"{name}": {reason}'


def _may_be_in_name(char: str) -> bool:
    return char == "_" or (char.isascii() and (char.islower() or char.isdigit()))


class VariableProvider(Protocol):
    """A source of variable values."""

    def get(self, name: str) -> str | None:
        """The value, or None when this provider does not know it."""
        ...


@dataclass(frozen=True, slots=True)
class StaticProvider:
    """Values written down: `--variable` flags, `type = "static"` in the runtime config."""

    values: Mapping[str, str] = field(repr=False)

    def get(self, name: str) -> str | None:
        """The value, or None when it was not written down."""
        return self.values.get(name)


@dataclass(frozen=True, slots=True)
class EnvironmentProvider:
    """`<PREFIX>_<NAME>` in the environment, else in a dotenv file."""

    environment: Mapping[str, str] = field(repr=False)
    dotenv: Mapping[str, str] = field(default_factory=dict, repr=False)
    prefix: str = DEFAULT_PREFIX

    def get(self, name: str) -> str | None:
        """The value, or None when neither has it."""
        key = f"{self.prefix}_{name.upper()}"
        value = self.environment.get(key)
        return self.dotenv.get(key) if value is None else value


class MaskedDict(dict[str, str]):
    """Values by name, of which the secret ones never show in `repr`."""

    __slots__ = ("_secrets",)

    def __init__(self, values: Mapping[str, str], secrets: Iterable[str]) -> None:
        super().__init__(values)
        self._secrets = frozenset(secrets)

    def __repr__(self) -> str:
        shown = {name: _MASK if name in self._secrets else text for name, text in self.items()}
        return repr(shown)


@dataclass(frozen=True, slots=True)
class Variables:
    """Every application variable with its value."""

    values: MaskedDict
    secrets: frozenset[str]
    defaults: Mapping[str, str] = field(repr=False)
    """Defaults of those that have one; what the manifest alone gives."""

    def for_component(self, component: Component, file: str, report: Report) -> MaskedDict:
        """The component's own variables, resolved; faults go to `report`.

        A value made from a secret is a secret.
        """
        resolved = {}
        secrets = set()
        for name, text in component.variables.items():
            try:
                template = Template.parse(text)
                resolved[name] = template.resolve(self.values)
            except TemplateError as exc:
                hint = _template_hint(text, self.values)
                report.fault(file, f"{component.key}.variables.{name}", f"{exc}{hint}")
                continue
            if not self.secrets.isdisjoint(template.names):
                secrets.add(name)
        return MaskedDict(resolved, secrets)


def _template_hint(text: str, values: Mapping[str, str]) -> str:
    try:
        unknown = next((n for n in Template.parse(text).names if n not in values), None)
    except TemplateError:
        return ""
    return f"; {did_you_mean(unknown, values, what='the app has')}" if unknown is not None else ""


def resolve_variables(
    declared: Mapping[str, Variable],
    providers: Sequence[VariableProvider],
    file: str,
    report: Report,
) -> Variables:
    """The value of every variable; those without one are reported as faults.

    Args:
        declared: `[variables]` of the manifest.
        providers: Asked in order.
        file: Name of the manifest in messages.
        report: Receives the faults.
    """
    values = {}
    for name, variable in declared.items():
        value = next((v for p in providers if (v := p.get(name)) is not None), variable.default)
        if value is None:
            report.fault(
                file,
                f"variables.{name}",
                f"is required and has no value: give --variable {name}=… or set "
                f"{DEFAULT_PREFIX}_{name.upper()}",
            )
            value = ""
        values[name] = value
    secrets = frozenset(name for name, variable in declared.items() if variable.secret)
    defaults = {n: v.default for n, v in declared.items() if v.default is not None}
    return Variables(MaskedDict(values, secrets), secrets, MaskedDict(defaults, secrets))

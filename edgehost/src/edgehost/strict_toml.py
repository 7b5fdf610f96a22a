"""Strict reading of TOML: every fault is collected, each with its file and key.

A `Table` knows which fields were asked for; what nobody asked for is unknown, and `finish` says
so together with the name that was probably meant. Nothing here raises for a wrong value: readers
go on with a default, so one run reports all there is to repair.
"""

from __future__ import annotations

import datetime
import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from edgehost.errors import ConfigError

__all__ = ["Report", "Table", "describe", "did_you_mean", "load_toml", "parse_toml"]

_T = TypeVar("_T")

_TYPE_NAMES: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),  # before int: True is an int in Python, not in TOML
    (int, "an integer"),
    (float, "a float"),
    (str, "a string"),
    (list, "an array"),
    (dict, "a table"),
    (datetime.datetime, "a date-time"),
    (datetime.date, "a date"),
    (datetime.time, "a time"),
)


class Report:
    """Faults and warnings found so far, in the order of discovery."""

    __slots__ = ("faults", "warnings")

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def fault(self, file: str, key: str, message: str) -> None:
        """Add something that must be repaired before the app can start."""
        self.faults.append(_line(file, key, message))

    def warn(self, file: str, key: str, message: str) -> None:
        """Add something the user should know and the app can live with."""
        self.warnings.append(_line(file, key, message))

    def raise_if_faulty(self) -> None:
        """Raise `ConfigError` with every fault, if there is one."""
        if self.faults:
            raise ConfigError(self.faults)


def _line(file: str, key: str, message: str) -> str:
    return ": ".join(part for part in (file, key, message) if part)


def did_you_mean(name: str, candidates: Iterable[str], *, what: str = "known") -> str:
    """A hint for a misspelt name: the closest candidate, else the list of all of them."""
    names = sorted(candidates)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"{what}: {', '.join(names)}" if names else f"{what}: none"


def load_toml(path: Path, file: str, report: Report) -> Table | None:
    """The root table of `path`; None when it cannot be read, which is then in the report."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        report.fault(file, "", "no such file")
    except OSError as exc:
        report.fault(file, "", f"cannot be read: {exc.strerror or exc}")
    except UnicodeDecodeError as exc:
        report.fault(file, "", f"is not UTF-8 (byte {exc.start})")
    else:
        return parse_toml(text, file, report)
    return None


def parse_toml(text: str, file: str, report: Report) -> Table | None:
    """The root table of `text`; None when it is not TOML, which is then in the report."""
    try:
        return Table(tomllib.loads(text), file=file, key="", report=report)
    except tomllib.TOMLDecodeError as exc:
        report.fault(file, "", f"is not valid TOML: {exc}")
        return None


class Table:
    """One TOML table being read. Each accessor marks its field as known."""

    __slots__ = ("_data", "_known", "file", "key", "report")

    def __init__(self, data: Mapping[str, object], *, file: str, key: str, report: Report) -> None:
        self._data = data
        self._known: dict[str, None] = {}
        self.file = file
        self.key = key
        self.report = report

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def names(self) -> list[str]:
        """Every field present, in file order."""
        return list(self._data)

    def path(self, name: str) -> str:
        """Dotted key of `name`, as it is shown in messages."""
        return f"{self.key}.{name}" if self.key else name

    def fault(self, name: str, message: str) -> None:
        """Report a fault of field `name`."""
        self.report.fault(self.file, self.path(name), message)

    def warn(self, name: str, message: str) -> None:
        """Report a warning about field `name`."""
        self.report.warn(self.file, self.path(name), message)

    def raw(self, name: str) -> object:
        """The value as it stands, or None when absent."""
        self._known[name] = None
        return self._data.get(name)

    def string(self, name: str) -> str | None:
        """A string, or None when absent or wrong."""
        return self._typed(name, str, "a string")

    def required_string(self, name: str) -> str | None:
        """A string that must be there; None when it is not, which is then reported."""
        if self._missing(name):
            return None
        return self.string(name)

    def boolean(self, name: str) -> bool | None:
        """A boolean, or None when absent or wrong."""
        return self._typed(name, bool, "a boolean")

    def integer(self, name: str, *, minimum: int = 0, maximum: int | None = None) -> int | None:
        """An integer within the bounds, or None when absent or wrong."""
        value = self._typed(name, int, "an integer")
        if value is None:
            return None
        if value < minimum or (maximum is not None and value > maximum):
            bounds = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
            self.fault(name, f"must be {bounds}, not {value}")
            return None
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """An array of strings; empty when absent. Entries of another type are reported."""
        found = []
        for index, value in enumerate(self.array(name)):
            if isinstance(value, str):
                found.append(value)
            else:
                self.fault(f"{name}[{index}]", f"must be a string, not {describe(value)}")
        return tuple(found)

    def string_map(self, name: str) -> dict[str, str]:
        """A table whose values are strings; empty when absent."""
        table = self.table(name)
        if table is None:
            return {}
        found = {key: table.string(key) for key in table.names()}
        return {key: value for key, value in found.items() if value is not None}

    def array(self, name: str) -> list[object]:
        """An array of anything; empty when absent or wrong."""
        return self._typed(name, list, "an array") or []

    def table(self, name: str) -> Table | None:
        """A table, or None when absent or wrong."""
        value = self._typed(name, dict, "a table")
        return None if value is None else self.child(name, value)

    def tables(self, name: str) -> list[Table]:
        """An array of tables (`[[name]]`); empty when absent. Other entries are reported."""
        return list(self._iter_tables(name))

    def _iter_tables(self, name: str) -> Iterator[Table]:
        for index, value in enumerate(self.array(name)):
            if isinstance(value, dict):
                yield self.child(f"{name}[{index}]", value)
            else:
                self.fault(f"{name}[{index}]", f"must be a table, not {describe(value)}")

    def child(self, name: str, value: Mapping[str, object]) -> Table:
        """Read `value`, found at `name`, as a table of its own."""
        return Table(value, file=self.file, key=self.path(name), report=self.report)

    def finish(self) -> None:
        """Report every field nobody asked for."""
        for name in self._data:
            if name not in self._known:
                self.fault(name, f"unknown field; {did_you_mean(name, self._known)}")

    def _missing(self, name: str) -> bool:
        self._known[name] = None
        if name in self._data:
            return False
        self.report.fault(self.file, self.key, f'missing field "{name}"')
        return True

    def _typed(self, name: str, kind: type[_T], wanted: str) -> _T | None:
        self._known[name] = None
        if name not in self._data:
            return None
        value = self._data[name]
        # True is an int in Python, but not in TOML.
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
        self.fault(name, f"must be {wanted}, not {describe(value)}")
        return None


def describe(value: object) -> str:
    """The TOML type of `value`, with the value itself where it is short."""
    name = next((name for kind, name in _TYPE_NAMES if isinstance(value, kind)), "something else")
    if isinstance(value, bool):
        return f"{name} ({str(value).lower()})"
    if isinstance(value, int | float):
        return f"{name} ({value})"
    return name

"""How component-model values look in Python, and what a host function may raise.

=================  ==========================================================
WIT                Python
=================  ==========================================================
bool, ints, float  `bool`, `int`, `float`
char, string       `str`
list<u8>           `bytes`
list<T>            `list`
tuple, record      `tuple` in declaration order
option<T>          the value, or `None` (options do not nest in WASI 0.2)
variant, enum      the case name, or `(case name, payload)` where it has one
flags              `frozenset` of names
result<T, E>       `Ok(value)` or `Err(value)`
own<R>, borrow<R>  the `Resource` object itself
=================  ==========================================================

A host function whose WIT result is a `result` returns the plain ok value and raises
`ErrorResult(value)` for the error case; only nested results are spelled out as `Ok` and `Err`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Err", "ErrorResult", "Ok"]


@dataclass(frozen=True, slots=True)
class Ok:
    """The ok case of a nested result."""

    value: object = None


@dataclass(frozen=True, slots=True)
class Err:
    """The error case of a nested result."""

    value: object = None


class ErrorResult(Exception):  # noqa: N818 - not a fault: the guest's own error value
    """Raised by a host function to return the error case of its WIT result."""

    def __init__(self, value: object = None) -> None:
        super().__init__(value)
        self.value = value

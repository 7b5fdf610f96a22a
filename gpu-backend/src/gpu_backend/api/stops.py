"""Stop sequences of a request, alike in both protocols."""

from __future__ import annotations

from gpu_backend.api.fields import Members

__all__ = ["read_stops"]

_MAX_STOPS = 16

_MAX_CHARACTERS = 1024
"""Of one. Each is looked for after every token, on the thread that generates for everybody."""


def read_stops(members: Members) -> tuple[str, ...]:
    """The member `stop`; empty strings stop nothing and are left out.

    Raises:
        InvalidInputError: There are too many, or one is too long.
    """
    stops = members.texts("stop", _MAX_STOPS)
    for stop in stops:
        if len(stop) > _MAX_CHARACTERS:
            raise members.fault(
                "stop", f"at most {_MAX_CHARACTERS} characters each", f"{len(stop)} of them"
            )
    return tuple(stop for stop in stops if stop)

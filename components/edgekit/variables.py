"""Reading typed values out of the application's variables, every fault at once."""

from __future__ import annotations

from urllib.parse import urlsplit

from edgekit.errors import InternalError
from edgekit.ports import Variables

__all__ = ["VariableReader"]


class VariableReader:
    """Reads variables; what is wrong with them is collected instead of stopping at the first.

    A default stands in for a variable that is empty or not declared; without one it is a fault.
    """

    def __init__(self, variables: Variables) -> None:
        self._variables = variables
        self._faults: list[str] = []

    def raise_any(self) -> None:
        """Return when all that was read makes sense.

        Raises:
            InternalError: The text lists every fault.
        """
        if self._faults:
            raise InternalError("the component is misconfigured: " + "; ".join(self._faults))

    def fault(self, text: str) -> None:
        """Note one fault."""
        self._faults.append(text)

    def text(self, name: str) -> str:
        """The value without space around it; empty when it is undefined."""
        return self._variables.get(name).strip()

    def number(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        text = self.text(name)
        if not text and default is not None:
            return default
        if text.isascii() and text.isdecimal() and len(text) < 12 and low <= int(text) <= high:
            return int(text)
        self.fault(f"variable {name} is {text!r}, it takes a whole number from {low} to {high}")
        return low

    def flag(self, name: str, *, default: bool) -> bool:
        """`true` or `false`."""
        text = self.text(name).lower()
        if text in ("true", "false"):
            return text == "true"
        if text:
            self.fault(f"variable {name} is {text!r}, it takes true or false")
        return default

    def origin(self, name: str) -> str:
        """A URL of scheme, host and port alone, without a slash at the end."""
        text = self.text(name)
        try:
            url = urlsplit(text)
            usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:  # a port or an IPv6 address that is none
            usable = False
        if usable and url.path in ("", "/") and not url.query and not url.fragment:
            return text.rstrip("/")
        # The value stays out of the text, which clients see: it may hold an internal address.
        self.fault(f"variable {name} takes a URL of the form http://host:port")
        return ""

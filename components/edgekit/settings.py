"""Settings of the edge, read from the application's variables once per request."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from edgekit.errors import InternalError
from edgekit.ports import Timeouts, Variables

__all__ = ["Settings", "read_settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decides; spin.toml holds the defaults and their reasons.

    Attributes:
        backend_url: Scheme, host and port, without a slash at the end.
        backend_timeouts: Of one call to the backend.
        max_body_bytes: Largest request body.
        max_image_pixels: Largest picture decoded here, width times height.
        metadata_ttl_s: How long a model's metadata is trusted without asking.
    """

    backend_url: str
    backend_timeouts: Timeouts
    max_body_bytes: int
    max_image_pixels: int
    metadata_ttl_s: float


def read_settings(variables: Variables) -> Settings:
    """The settings in force.

    Raises:
        InternalError: A variable is missing or malformed; the text lists every fault.
    """
    reader = _Reader(variables)
    settings = Settings(
        backend_url=reader.origin("backend_url"),
        backend_timeouts=Timeouts(
            connect_s=reader.number("backend_connect_timeout_ms", 1, 600_000) / 1000,
            first_byte_s=reader.number("backend_first_byte_timeout_ms", 1, 600_000) / 1000,
            between_bytes_s=reader.number("backend_between_bytes_timeout_ms", 1, 600_000) / 1000,
        ),
        max_body_bytes=reader.number("max_body_bytes", 1, 1 << 30),
        max_image_pixels=reader.number("max_image_pixels", 1, 1 << 24),
        metadata_ttl_s=reader.number("metadata_ttl_s", 0, 86_400),
    )
    if reader.faults:
        raise InternalError("the component is misconfigured: " + "; ".join(reader.faults))
    return settings


class _Reader:
    """Collects every fault instead of stopping at the first."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables
        self.faults: list[str] = []

    def number(self, name: str, low: int, high: int) -> int:
        text = self._variables.get(name).strip()
        if text.isascii() and text.isdecimal() and len(text) < 12 and low <= int(text) <= high:
            return int(text)
        self.faults.append(
            f"variable {name} is {text!r}, it takes a whole number from {low} to {high}"
        )
        return low

    def origin(self, name: str) -> str:
        text = self._variables.get(name).strip()
        try:
            url = urlsplit(text)
            usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:  # a port or an IPv6 address that is none
            usable = False
        if usable and url.path in ("", "/") and not url.query and not url.fragment:
            return text.rstrip("/")
        # The value stays out of the text, which clients see: it may hold an internal address.
        self.faults.append(f"variable {name} takes a URL of the form http://host:port")
        return ""

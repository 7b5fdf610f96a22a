"""Settings of the edge, read from the application's variables once per request."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.backend import Upstream
from edgekit.policy.settings import PolicySettings, read_policy_settings
from edgekit.ports import Timeouts, Variables
from edgekit.variables import VariableReader

__all__ = ["Settings", "read_settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decides; spin.toml holds the defaults and their reasons.

    Attributes:
        backend_url: Scheme, host and port, without a slash at the end.
        backend_timeouts: Of one call to the backend.
        max_body_bytes: Largest request body.
        max_image_pixels: Largest picture decoded here, width times height.
        metadata_ttl_s: How long a model's metadata and digest are trusted without asking.
        policy: Limits, cache, deadlines, placement and records.
    """

    backend_url: str
    backend_timeouts: Timeouts
    max_body_bytes: int
    max_image_pixels: int
    metadata_ttl_s: float
    policy: PolicySettings

    @property
    def cluster(self) -> Upstream:
        """The cluster's backend."""
        return Upstream("cluster", self.backend_url, self.backend_timeouts)


def read_settings(variables: Variables) -> Settings:
    """The settings in force.

    Raises:
        InternalError: A variable is missing or malformed; the text lists every fault.
    """
    reader = VariableReader(variables)
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
        policy=read_policy_settings(reader),
    )
    reader.raise_any()
    return settings

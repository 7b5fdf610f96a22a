"""Errors of the embedded host.

HostError
├── ConfigError        spin.toml, runtime-config.toml, flags: lists every fault
├── GuestError         a guest gave no answer
│   ├── GuestTrapError       trap, missing import, uncaught exception
│   ├── GuestTimeoutError    ran past its wall-clock limit
│   ├── GuestExitError       called `wasi:cli/exit`
│   └── GuestCancelledError  stopped because its client has gone
├── StoreError         a key-value store cannot serve (`edgehost.keyvalue`)
└── body and outbound errors (`edgehost.ports`)
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ConfigError",
    "GuestCancelledError",
    "GuestError",
    "GuestExitError",
    "GuestTimeoutError",
    "GuestTrapError",
    "HostError",
    "StoreError",
]


class HostError(Exception):
    """Base of everything this package raises; `code` is stable, the text is for people."""

    code = "host_error"


class ConfigError(HostError):
    """Configuration is wrong. Carries all faults found, each with its file and key."""

    code = "config_invalid"

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class GuestError(HostError):
    """A guest ended without an answer."""

    code = "guest_failed"


class GuestTrapError(GuestError):
    """The guest trapped, or called an import that this host does not serve."""

    code = "guest_trapped"


class GuestTimeoutError(GuestError):
    """The guest ran past its wall-clock limit."""

    code = "guest_timeout"


class GuestExitError(GuestError):
    """The guest called `wasi:cli/exit`."""

    code = "guest_exited"


class GuestCancelledError(GuestError):
    """The host stopped the guest because nobody waits for its answer."""

    code = "guest_cancelled"


class StoreError(HostError):
    """A key-value store cannot serve.

    Attributes:
        case: ``store-table-full``, ``no-such-store``, ``access-denied`` or ``other``, as in
            `fermyon:spin/key-value.error`.
    """

    code = "store_failed"

    def __init__(self, message: str, case: str = "other") -> None:
        super().__init__(message)
        self.case = case

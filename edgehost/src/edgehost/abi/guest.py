"""State of one guest instance: its handles, its permissions, its deadline, the one place it waits.

A `Guest` belongs to the thread that runs its instance. Other threads touch only `wakeup` and the
`Cancellation`; both are made for that.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from edgehost.abi import native
from edgehost.abi.resources import ResourceTable
from edgehost.errors import GuestCancelledError, GuestTimeoutError
from edgehost.ports import Wakeup

if TYPE_CHECKING:
    from edgehost.abi.output import GuestOutput
    from edgehost.ports import ComponentSpec, OutboundHttp

__all__ = ["Cancellation", "Guest"]

CANCEL_POLL_S: Final = 0.25
"""How often a wait looks at a `cancelled` callback that cannot wake it."""

MAX_SLEEP_S: Final = 60.0
"""Longest single sleep; a wait without a deadline sleeps again."""


class Cancellation:
    """Stops one running instance from any thread.

    Pass it as `cancelled` to `ComponentRunner.handle`. `cancel` ends a waiting guest at once and a
    computing one at the next epoch tick. Cancelling before the call or after it is harmless.
    """

    __slots__ = ("_cancelled", "_lock", "_wakeup")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._wakeup: Wakeup | None = None

    def __call__(self) -> bool:
        """True once cancelled."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop the instance, now or as soon as it starts."""
        with self._lock:
            self._cancelled = True
            wakeup = self._wakeup
        if wakeup is not None:
            wakeup.set()

    def bind(self, wakeup: Wakeup | None) -> None:
        """Name what to wake on `cancel`."""
        with self._lock:
            self._wakeup = wakeup


class Guest:
    """One instance as host functions see it.

    Attributes:
        context: Address of the store's context; identifies the instance in callbacks.
        deadline: When the instance must have ended, on `clock`.
        entropy: Random bytes drawn for this instance and not yet used.
        failure: Why the host stopped the guest; tells a limit from the guest's own trap.
    """

    __slots__ = (
        "_scratch_buffer",
        "cancelled",
        "clock",
        "context",
        "deadline",
        "entropy",
        "failure",
        "outbound",
        "scratch",
        "spec",
        "stderr",
        "stdout",
        "table",
        "wakeup",
    )

    def __init__(
        self,
        spec: ComponentSpec,
        outbound: OutboundHttp,
        stdout: GuestOutput,
        stderr: GuestOutput,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.outbound = outbound
        self.stdout = stdout
        self.stderr = stderr
        self.clock = clock
        self.wakeup = Wakeup()
        self.table = ResourceTable()
        self.entropy = bytearray()
        self.context = 0
        self.deadline = float("inf")
        self.cancelled: Callable[[], bool] | None = None
        self.failure: BaseException | None = None
        self._scratch_buffer = ctypes.c_uint64()
        self.scratch = ctypes.addressof(self._scratch_buffer)

    def check_limits(self) -> None:
        """Return while the guest may go on.

        Raises:
            GuestTimeoutError: It ran past its deadline.
            GuestCancelledError: Nobody waits for its answer any more.
        """
        if self.cancelled is not None and self.cancelled():
            raise GuestCancelledError("the client has gone")
        if self.clock() >= self.deadline:
            limit_s = self.spec.limits.request_timeout_s
            raise GuestTimeoutError(f"the guest ran longer than {limit_s:g} s")

    def wait(self, ready: Callable[[], bool], wake_at: float = float("inf")) -> None:
        """Sleep until `ready()` is true or `clock()` reaches `wake_at`.

        Raises:
            GuestTimeoutError, GuestCancelledError: As `check_limits`.
        """
        cancelled = self.cancelled
        polls = cancelled is not None and not isinstance(cancelled, Cancellation)
        while not ready():
            self.check_limits()
            now = self.clock()
            if now >= wake_at:
                return
            timeout_s = min(wake_at - now, self.deadline - now, MAX_SLEEP_S)
            self.wakeup.wait(min(timeout_s, CANCEL_POLL_S) if polls else timeout_s)

    def stop(self, error: BaseException) -> int:
        """Record why the guest ends and return the error that makes Wasmtime unwind it."""
        if self.failure is None:
            self.failure = error
        return native.new_error(str(error) or type(error).__name__)

"""Compute threads yield to the event loop.

ONNX Runtime keeps every core busy for as long as a run takes. On equal terms the event loop then
gets its share late, and a backend under overload answers late, refusals included: measured on two
cores at five times the capacity, goodput falls to a tenth. With a lower priority for the threads
that compute, the loop runs whenever it has something to do, and they get all the rest.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

__all__ = ["yield_to_event_loop"]


def yield_to_event_loop(niceness: int) -> None:
    """Lower the priority of the calling thread, and of the threads it will start.

    Args:
        niceness: 0 changes nothing, 19 is the lowest priority. On systems where priority belongs
            to the process and not to the thread, nothing is changed either.
    """
    if niceness and sys.platform == "linux":
        # Refused in some sandboxes; then everything runs as before, only less calmly.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)

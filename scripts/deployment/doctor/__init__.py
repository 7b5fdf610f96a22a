"""Looks for what a cluster lacks before a release runs in it, and says the command that fixes it.

Each check is a function from what the release needs and what the cluster has to findings. None
changes anything.
"""

from .examination import examine
from .findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]

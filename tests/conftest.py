"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes depends on what else the machine does: it says nothing about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

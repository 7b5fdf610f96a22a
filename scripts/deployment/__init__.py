"""Takes the application to a cluster: plan, apply, wait, roll back, look after."""

from .cli import main

__all__ = ["main"]

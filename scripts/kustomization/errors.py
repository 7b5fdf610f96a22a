"""What can be wrong with a kustomization.

KustomizationError            the message names the file, the field and the remedy
 └─ UnsupportedFieldError     valid for kustomize, not for this renderer
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["KustomizationError", "UnsupportedFieldError"]


class KustomizationError(Exception):
    """A kustomization cannot be rendered."""

    def __init__(self, where: Path | str, message: str) -> None:
        super().__init__(f"{where}: {message}")


class UnsupportedFieldError(KustomizationError):
    """A kustomization uses a part of kustomize that this renderer leaves to kubectl."""

    def __init__(self, where: Path | str, field: str) -> None:
        super().__init__(
            where,
            f"`{field}` is not supported by the built-in renderer: "
            "render with `kubectl kustomize` or write it with patches",
        )

"""The models that serve now."""

from __future__ import annotations

import logging

from gpu_backend.errors import BackendError, ModelNotFoundError, ModelNotReadyError
from gpu_backend.repository.files import ModelFolder
from gpu_backend.repository.loader import Loader
from gpu_backend.repository.model import LoadedModel

__all__ = ["Repository"]

_log = logging.getLogger(__name__)


class Repository:
    """Keeps what is loaded, and why the rest is not."""

    def __init__(self, folders: dict[str, ModelFolder], loader: Loader) -> None:
        self._folders = folders
        self._loader = loader
        self._loaded: dict[str, LoadedModel] = {}
        self._failures: dict[str, str] = {}

    def load_all(self) -> None:
        """Load the highest version of every model; a failure keeps that model out, with a reason.

        Raises:
            ExecutionProviderError: An explicit choice of hardware cannot be met.
        """
        for folder in self._folders.values():
            if not folder.versions:
                self._failures[folder.name] = "it has no version folder with a model.onnx"
                continue
            try:
                self._loaded[folder.name] = self._loader.load(folder, folder.versions[-1])
            except BackendError as exc:
                if exc.code == "execution_provider_unavailable":
                    raise
                self._failures[folder.name] = exc.message
                _log.error("model %s is not served: %s", folder.name, exc.message)

    def get(self, name: str, version: str | None = None) -> LoadedModel:
        """The version that answers for `name`.

        Raises:
            ModelNotFoundError: No such model or version.
            ModelNotReadyError: It exists and failed to load.
        """
        model = self._loaded.get(name)
        if model is not None and (version is None or version == str(model.version)):
            return model
        if model is None and name in self._failures:
            raise ModelNotReadyError(f"model {name!r} cannot serve: {self._failures[name]}")
        if model is None:
            raise ModelNotFoundError(f"no model {name!r}; POST /v2/repository/index lists them")
        raise ModelNotFoundError(
            f"model {name!r} has no version {version!r}; it has {model.version}"
        )

    def loaded(self) -> list[LoadedModel]:
        """Every model that serves."""
        return list(self._loaded.values())

    @property
    def failures(self) -> dict[str, str]:
        """Models that do not serve, with the reason."""
        return dict(self._failures)

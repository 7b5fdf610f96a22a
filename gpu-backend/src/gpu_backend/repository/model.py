"""A model version in memory: its session, its manifest, and what is known about both."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpu_backend.execution.placement import Placement
from gpu_backend.execution.session import OnnxSession, TensorSpec
from gpu_backend.repository.manifest import Manifest

__all__ = ["LoadedModel"]


@dataclass(eq=False, slots=True)
class LoadedModel:
    """One version, loaded and warmed up. Owns its session.

    Attributes:
        manifest: What the model means.
        version: Number of the version folder.
        digest: ``sha256:<hex>`` of its files.
        session: Runs it.
        placement: Which provider ran which nodes during warm-up.
        batchable: Rows of several requests may share an execution.
    """

    manifest: Manifest
    version: int
    digest: str
    session: OnnxSession
    placement: Placement
    batchable: bool
    inputs: dict[str, TensorSpec] = field(init=False)
    outputs: dict[str, TensorSpec] = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = {spec.name: spec for spec in self.session.inputs}
        self.outputs = {spec.name: spec for spec in self.session.outputs}

    @property
    def name(self) -> str:
        """As in its URL."""
        return self.manifest.name

    @property
    def identity(self) -> str:
        """A structured-field item: name, version, digest and execution provider."""
        provider = self.session.status.active
        return f"{self.name};version={self.version};digest={self.digest};provider={provider}"

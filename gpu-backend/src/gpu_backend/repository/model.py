"""A model version in memory: session, manifest, queue, and how requests become items."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from gpu_backend.batching.batcher import Batcher
from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.batching.item import DEFAULT_URGENCY, Item
from gpu_backend.batching.policy import BatchPolicy
from gpu_backend.execution.placement import Placement
from gpu_backend.execution.session import Feeds, OnnxSession, TensorSpec
from gpu_backend.repository.manifest import Manifest

__all__ = ["LoadedModel"]

_FLIGHT_MAX_BYTES = 256 << 10
"""Inputs beyond it are not compared: hashing them would cost what it is meant to save."""


@dataclass(eq=False, slots=True)
class LoadedModel:
    """One version, loaded and warmed up. Owns its session; `close` frees it.

    Attributes:
        manifest: What the model means.
        version: Number of the version folder.
        digest: ``sha256:<hex>`` of its files.
        session: Runs it.
        placement: Which provider ran which nodes during warm-up.
        batchable: Rows of several requests may share an execution.
        service: What the warm-up learnt about its speed.
        inline_units: Executions of at most so many units belong on the event loop.
        size_bytes: Of its files; stands for the memory it takes.
        load_s: Seconds from reading the files to the end of the warm-up.
        batcher: Its queue; set when it starts to serve.
    """

    manifest: Manifest
    version: int
    digest: str
    session: OnnxSession
    placement: Placement
    batchable: bool
    service: ServiceTime
    inline_units: float
    size_bytes: int
    load_s: float
    policy: BatchPolicy = field(init=False)
    inputs: dict[str, TensorSpec] = field(init=False)
    outputs: dict[str, TensorSpec] = field(init=False)
    identity: bytes = field(init=False)
    name: str = field(init=False)
    fixed_rows: bool = field(init=False)
    shares_dims: bool = field(init=False)
    output_index: dict[str, int] = field(init=False)
    batcher: Batcher = field(init=False)
    last_used: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.name = self.manifest.name
        self.inputs = {spec.name: spec for spec in self.session.inputs}
        self.outputs = {spec.name: spec for spec in self.session.outputs}
        policy = self.manifest.batching
        self.policy = policy if self.batchable else replace(policy, max_batch=1)
        # A structured-field item (RFC 9651): a token with parameters, nothing needs quoting.
        self.identity = (
            f"{self.name};version={self.version};digest={self.digest}"
            f";provider={self.session.status.active}"
        ).encode()
        # Rows of all requests are alike in shape: there is no need to compare shapes.
        self.fixed_rows = all(size != -1 for spec in self.session.inputs for size in spec.shape[1:])

        named = [symbol for spec in self.session.inputs for symbol in spec.symbols if symbol]
        self.shares_dims = len(self.inputs) > 1 or len(named) != len(set(named))
        self.output_index = {name: at for at, name in enumerate(self.session.output_names)}

    def make_items(self, feeds: Feeds, urgency: int = DEFAULT_URGENCY) -> list[Item]:
        """The items for checked `feeds`: one, or several parts of at most `max_batch` rows."""
        most = self.policy.max_batch
        if not self.batchable:
            return [self._item(feeds, urgency)]
        rows = next(iter(feeds.values())).shape[0]
        if rows <= most:
            return [self._item(feeds, urgency)]
        return [
            self._item(
                {name: array[start : start + most] for name, array in feeds.items()}, urgency
            )
            for start in range(0, rows, most)
        ]

    def _item(self, feeds: Feeds, urgency: int) -> Item:
        flight_key = self._flight_key(feeds) if self.policy.single_flight else None
        if not self.batchable:
            return Item(feeds, 1, flight_key=flight_key, urgency=urgency)
        first = next(iter(feeds.values()))
        rows = first.shape[0]
        length: int = 0
        shape_key: Hashable = "fixed"
        if not self.fixed_rows:
            length, shape_key = self._shape_key(feeds)
        return Item(
            feeds,
            rows,
            length=length,
            shape_key=shape_key,
            flight_key=flight_key,
            urgency=urgency,
        )

    def close(self) -> None:
        """Free the session. What still runs ends first; nothing new may start."""
        self.session.close()

    def _shape_key(self, feeds: Feeds) -> tuple[int, Hashable]:
        padding = self.policy.padding
        if padding is None:
            return 0, tuple(array.shape[1:] for array in feeds.values())
        axis = padding.axis
        length = 0
        key = []
        for name, array in feeds.items():
            is_padded = array.ndim > axis and self.inputs[name].shape[axis] == -1
            if is_padded:
                length = max(length, array.shape[axis])
            key.append(
                array.shape[1:axis] + array.shape[axis + 1 :] if is_padded else array.shape[1:]
            )
        return length, tuple(key)

    @staticmethod
    def _flight_key(feeds: Feeds) -> Hashable:
        size = 0
        for array in feeds.values():
            size += array.nbytes
            if array.dtype == object or size > _FLIGHT_MAX_BYTES:
                return None
        return tuple((array.shape, array.tobytes()) for array in feeds.values())

"""What the protocol's GET routes answer: server and model metadata, configuration, statistics.

Shapes are those of the Open Inference Protocol v2 and, for configuration, statistics and the
repository index, of Triton's extensions, so that tritonclient reads them.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from gpu_backend.batching.stats import ModelStats
from gpu_backend.execution.session import TensorSpec
from gpu_backend.repository.model import LoadedModel
from gpu_backend.repository.slot import ModelSlot

__all__ = [
    "config_document",
    "index_document",
    "model_document",
    "server_document",
    "statistics_document",
]

Document = dict[str, Any]

SERVER_NAME = "inference-anywhere"

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
"""Of the protocol; only what works is named."""

_TRITON_TYPES = {"BYTES": "TYPE_STRING"}


def server_document() -> Document:
    """`GET /v2`."""
    version = metadata.version("gpu-backend")
    return {"name": SERVER_NAME, "version": version, "extensions": list(EXTENSIONS)}


def model_document(slot: ModelSlot, model: LoadedModel) -> Document:
    """`GET /v2/models/{name}`: the protocol's members, and what the edge needs as parameters."""
    manifest = model.manifest
    return {
        "name": model.name,
        "versions": [str(number) for number in slot.wanted],
        "platform": manifest.platform,
        "inputs": [spec.describe() for spec in model.inputs.values()],
        "outputs": [spec.describe() for spec in model.outputs.values()],
        "parameters": {
            "version": str(model.version),
            "digest": model.digest,
            "task": manifest.task,
            "image": None if manifest.image is None else manifest.image.describe(),
            "output": None if manifest.output is None else manifest.output.describe(),
            "text": None if manifest.text is None else manifest.text.describe(),
            "labels": list(manifest.labels),
            "execution_provider": _provider(model),
        },
    }


def _provider(model: LoadedModel) -> Document:
    status = model.session.status
    return {
        **status.describe(),
        "nodes": dict(model.placement.nodes),
        "fallback_nodes": model.placement.off_target(status.active),
    }


def config_document(model: LoadedModel) -> Document:
    """`GET /v2/models/{name}/config`, in Triton's form."""
    policy, batchable = model.policy, model.batchable
    status = model.session.status
    kind = "KIND_CPU" if status.active == "CPUExecutionProvider" else "KIND_GPU"
    document: Document = {
        "name": model.name,
        "platform": model.manifest.platform,
        "backend": "onnxruntime",
        "version_policy": {model.manifest.serve: {}},
        # Triton's name for "no batching" is 0.
        "max_batch_size": policy.max_batch if batchable else 0,
        "input": [_tensor_config(spec, batchable) for spec in model.inputs.values()],
        "output": [_tensor_config(spec, batchable) for spec in model.outputs.values()],
        "instance_group": [{"name": model.name, "kind": kind, "count": policy.instances}],
        "parameters": {
            "digest": {"string_value": model.digest},
            "execution_provider": {"string_value": status.active},
            "execution_provider_requested": {"string_value": status.requested},
            "execution_provider_reason": {"string_value": status.reason},
            "single_flight": {"string_value": str(policy.single_flight).lower()},
            "token_budget": {"string_value": str(policy.token_budget)},
        },
        "execution_provider": _provider(model),
    }
    if batchable:
        document["dynamic_batching"] = {
            "max_queue_delay_microseconds": policy.max_delay_us,
            "preferred_batch_size": list(policy.preferred_rows),
            "priority_levels": 8,
            "default_priority_level": 4,
        }
    return document


def _tensor_config(spec: TensorSpec, batchable: bool) -> Document:
    name = spec.datatype.name
    return {
        "name": spec.name,
        "data_type": _TRITON_TYPES.get(name, f"TYPE_{name}"),
        # The batch axis is implied, as in Triton.
        "dims": list(spec.shape[1:] if batchable else spec.shape),
    }


def statistics_document(slots: list[ModelSlot]) -> Document:
    """`GET /v2/models[/{name}]/stats`."""
    return {
        "model_stats": [
            _model_statistics(slot, number) for slot in slots for number in sorted(slot.serving)
        ]
    }


def _model_statistics(slot: ModelSlot, version: int) -> Document:
    stats = slot.stats
    answered = stats.requests.get("ok", 0)
    failed = sum(stats.requests.values()) - answered
    return {
        "name": slot.name,
        "version": str(version),
        "last_inference": stats.last_inference_ms,
        "inference_count": stats.rows,
        "execution_count": stats.executions,
        "inference_stats": {
            "success": _duration(answered, stats.request_s.total),
            "fail": _duration(failed, stats.failed_s),
            "queue": _duration(stats.queue_s.count, stats.queue_s.total),
            "compute_input": _duration(stats.executions, 0.0),
            "compute_infer": _duration(stats.executions, stats.compute_s.total),
            "compute_output": _duration(stats.executions, 0.0),
            "cache_hit": _duration(stats.collapsed, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": _batch_statistics(stats),
    }


def _duration(count: int, seconds: float) -> Document:
    return {"count": count, "ns": int(seconds * 1e9)}


def _batch_statistics(stats: ModelStats) -> list[Document]:
    """One entry per bucket of batch sizes; `batch_size` is its upper bound."""
    bounds = [*map(int, stats.batch_rows.bounds), -1]
    return [
        {"batch_size": bound, "compute_infer": {"count": count, "ns": 0}}
        for bound, count in zip(bounds, stats.batch_rows.counts, strict=True)
        if count
    ]


def index_document(slots: list[ModelSlot], ready_only: bool) -> list[Document]:
    """`POST /v2/repository/index`."""
    entries: list[Document] = []
    for slot in slots:
        states = [
            (str(number), status.state, status.reason)
            for number, status in sorted(slot.statuses.items())
        ]
        if not states:
            states = [("", "UNAVAILABLE", slot.fault)]
        for version, state, reason in states:
            if ready_only and state != "READY":
                continue
            entries.append(
                {"name": slot.name, "version": version, "state": state, "reason": reason}
            )
    return entries

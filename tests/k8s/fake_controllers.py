"""The controllers of a cluster, as far as a rollout meets them: they act when time passes.

Deployments, StatefulSets and Jobs become ready after some ticks; the Spin operator makes
Deployments of SpinApps. A workload may be told to break in ways that clusters know.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from k8s.fake_api import FakeApi
from k8s.spin_operator import admission_faults, built_deployment, built_service
from kustomization import Manifest

__all__ = ["FakeClock", "FakeControllers"]


@dataclass
class FakeControllers:
    """Moves every workload one step per tick."""

    api: FakeApi
    operator_runs: bool = True
    ticks_to_ready: int = 2
    broken: dict[str, str] = field(default_factory=dict)
    """Workload name to `crash`, `image`, `unschedulable`, `deadline` or `job`."""
    _ages: dict[tuple[str, int], int] = field(default_factory=dict)

    def tick(self) -> None:
        """Let some time pass."""
        with self.api.lock:
            if self.operator_runs:
                for app in self.api.of_kind("SpinApp"):
                    self._operate(app)
            for workload in self.api.of_kind("Deployment") + self.api.of_kind("StatefulSet"):
                self._move(workload)
            for job in self.api.of_kind("Job"):
                self._finish(job)

    def _operate(self, app: Manifest) -> None:
        executors = self.api.of_kind("SpinAppExecutor")
        if admission_faults(app, executors):
            return
        executor = next(
            one for one in executors if one["metadata"]["name"] == app["spec"]["executor"]
        )
        for built in (built_deployment(app, executor), built_service(app)):
            live = self.api.find_object(built["kind"], built["metadata"]["name"])
            if live is None:
                self.api.place(built, "spin-operator")
            elif (
                built["kind"] == "Deployment"
                and live["spec"]["template"] != built["spec"]["template"]
            ):
                live["spec"]["template"] = built["spec"]["template"]
                live["metadata"]["generation"] += 1

    def _move(self, workload: Manifest) -> None:
        metadata, spec = workload["metadata"], workload["spec"]
        generation = metadata["generation"]
        age = self._ages[metadata["name"], generation] = (
            self._ages.get((metadata["name"], generation), 0) + 1
        )
        wanted = spec.get("replicas", 1)
        fault = self.broken.get(metadata["name"])
        ready = wanted if age >= self.ticks_to_ready and fault is None else 0
        workload["status"] = {
            "observedGeneration": generation,
            "replicas": wanted,
            "updatedReplicas": wanted,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "conditions": [],
        }
        if fault == "deadline":
            workload["status"]["conditions"] = [
                {
                    "type": "Progressing",
                    "status": "False",
                    "reason": "ProgressDeadlineExceeded",
                    "message": f'ReplicaSet "{metadata["name"]}-1" has timed out progressing.',
                }
            ]
        self._show_pod(workload, ready=bool(ready), fault=fault)

    def _show_pod(self, workload: Manifest, *, ready: bool, fault: str | None) -> None:
        template = workload["spec"]["template"]
        name = f"{workload['metadata']['name']}-abc12"
        container = template["spec"]["containers"][0]["name"]
        status: dict[str, Any] = {
            "phase": "Running" if ready else "Pending",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [_container_status(container, ready=ready, fault=fault)],
        }
        if fault == "unschedulable":
            message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            status["conditions"].append(
                {"type": "PodScheduled", "status": "False", "message": message}
            )
            status["containerStatuses"] = []
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": workload["metadata"]["namespace"],
                "labels": dict(template["metadata"]["labels"]),
            },
            "spec": copy.deepcopy(template["spec"]),
            "status": status,
        }
        self.api.place(pod, "kubelet")

    def _finish(self, job: Manifest) -> None:
        name = job["metadata"]["name"]
        if self.broken.get(name) == "job":
            message = "Job has reached the specified backoff limit"
            condition: Mapping[str, str] = {
                "type": "Failed",
                "status": "True",
                "reason": "BackoffLimitExceeded",
                "message": message,
            }
        else:
            condition = {"type": "Complete", "status": "True"}
        job["status"] = {"conditions": [dict(condition)]}


def _container_status(name: str, *, ready: bool, fault: str | None) -> dict[str, Any]:
    status: dict[str, Any] = {"name": name, "ready": ready, "restartCount": 0, "state": {}}
    if ready:
        status["state"] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    elif fault == "crash":
        message = "back-off 20s restarting failed container"
        status["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        status["lastState"] = {"terminated": {"exitCode": 1, "reason": "Error"}}
        status["restartCount"] = 4
    elif fault == "image":
        message = "manifest for gpu-backend:0.1.0 not found"
        status["state"] = {"waiting": {"reason": "ErrImagePull", "message": message}}
    else:
        status["state"] = {"running": {}}
    return status


class FakeClock:
    """Time that passes only when somebody waits for it; controllers act meanwhile."""

    def __init__(self, controllers: FakeControllers) -> None:
        self._controllers = controllers
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(seconds=self.elapsed_s)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += seconds
        self._controllers.tick()

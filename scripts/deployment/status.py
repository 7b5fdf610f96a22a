"""What runs, as one table: workloads, images, the last revisions, and what the cluster warns of."""

from __future__ import annotations

from collections.abc import Sequence

from kustomization import Manifest

from .cluster import Cluster
from .console import Console
from .diagnosis import warnings_of
from .history import History
from .objects import Ref, pod_template
from .readiness import WATCHED_KINDS, Stage, readiness

__all__ = ["show_status"]

SHOWN_REVISIONS = 5
SHOWN_WARNINGS = 5


def show_status(cluster: Cluster, namespace: str, console: Console) -> bool:
    """Print the status of the latest revision; return whether everything is ready."""
    revisions = History(cluster, namespace).revisions()
    if not revisions:
        console.say(f"nothing was deployed to {namespace} by this program")
        return False
    console.table(
        ("REVISION", "STATE", "WHEN (UTC)", "OVERLAY"),
        [
            (str(one.number), one.state.value, f"{one.created:%Y-%m-%d %H:%M:%S}", one.overlay)
            for one in revisions[:SHOWN_REVISIONS]
        ],
    )
    console.say()
    ready = _show_workloads(cluster, revisions[0].manifests, console)
    _show_warnings(cluster, namespace, console)
    return ready


def _show_workloads(cluster: Cluster, manifests: Sequence[Manifest], console: Console) -> bool:
    rows, ready = [], True
    for manifest in manifests:
        ref = Ref.of(manifest)
        if ref.kind not in WATCHED_KINDS:
            continue
        found = readiness(cluster, ref)
        ready = ready and found.stage is Stage.READY
        rows.append((str(ref), found.stage.value, found.message, ", ".join(_images(manifest))))
    console.table(("WORKLOAD", "STAGE", "", "IMAGE"), rows)
    return ready


def _images(manifest: Manifest) -> list[str]:
    if manifest["kind"] == "SpinApp":
        return [manifest["spec"]["image"]]
    template = pod_template(manifest)
    return [one["image"] for one in template["spec"]["containers"]] if template else []


def _show_warnings(cluster: Cluster, namespace: str, console: Console) -> None:
    found = warnings_of(cluster, namespace)[-SHOWN_WARNINGS:]
    if found:
        console.say()
        console.warn("recent warnings:")
    for event in found:
        about = event.get("involvedObject", {})
        subject = f"{about.get('kind', '')}/{about.get('name', '')}"
        console.say(f"  {event.get('reason', '')} {subject}: {event.get('message', '').strip()}")

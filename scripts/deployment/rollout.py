"""Applies a plan and waits until everything is ready, telling how far it is and why it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kustomization import Manifest

from .clock import Clock
from .cluster import Cluster
from .console import Console
from .diagnosis import diagnose
from .errors import DeploymentError, NoClusterError, RolloutError, UnavailableError
from .history import History, Revision, State
from .objects import Ref
from .planning import Action, Change, Plan, ensure_applicable
from .readiness import WATCHED_KINDS, Readiness, Stage, readiness

__all__ = ["Options", "apply_plan", "roll_out", "wait_until_ready"]

POLL_S = 2.0
DELETION_TIMEOUT_S = 60.0
AUTOSCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
TOLERATED_FAILURES = 15
"""Looks in a row that the API server may refuse (half a minute) before waiting is given up."""

_DONE = {
    Action.CREATE: "created",
    Action.UPDATE: "updated",
    Action.REPLACE: "replaced",
    Action.PRUNE: "deleted",
}


@dataclass(frozen=True, slots=True)
class Options:
    """How to apply."""

    timeout_s: float = 600.0
    force: bool = False


def roll_out(
    cluster: Cluster,
    plan: Plan,
    overlay: str,
    namespace: str,
    *,
    options: Options,
    clock: Clock,
    console: Console,
) -> Revision:
    """Apply a plan as a new revision, and wait until it is ready.

    Raises:
        PreconditionError: The plan is blocked, or somebody else is applying; nothing was changed.
        RolloutError: Something did not become ready; the message says what its pods say.
    """
    ensure_applicable(plan)
    desired = [change.desired for change in plan.changes if change.desired is not None]
    # The revision lives in the namespace, which may be part of the plan.
    apply_plan(cluster, _namespaces(plan), options, clock, console)
    history = History(cluster, namespace)
    revision = history.begin(overlay, desired, clock.now())
    first, rest, last = _in_steps(plan)
    try:
        apply_plan(cluster, [*first, *rest], options, clock, console)
        wait_until_ready(cluster, desired, options.timeout_s, clock=clock, console=console)
        apply_plan(cluster, last, options, clock, console)
    except BaseException:
        # Ctrl-C too: what was begun and not seen to be ready is not good to roll back to.
        with contextlib.suppress(DeploymentError):
            history.finish(revision, State.FAILED)
        raise
    history.finish(revision, State.DEPLOYED)
    return revision


def _namespaces(plan: Plan) -> list[Change]:
    return [change for change in plan.pending if change.ref.kind == "Namespace"]


def _in_steps(plan: Plan) -> tuple[list[Change], list[Change], list[Change]]:
    """What goes before anything changes, what changes, and what goes when all is ready.

    Old pods need their settings until new ones have taken over; an autoscaler that stayed would
    work against the replicas that the release sets.
    """
    pending = [change for change in plan.pending if change.ref.kind != "Namespace"]
    gone = [change for change in pending if change.action is Action.PRUNE]
    first = [change for change in gone if change.ref.kind in AUTOSCALERS]
    last = [change for change in gone if change.ref.kind not in AUTOSCALERS]
    return first, [change for change in pending if change.action is not Action.PRUNE], last


def apply_plan(
    cluster: Cluster, changes: Iterable[Change], options: Options, clock: Clock, console: Console
) -> None:
    """Carry out changes in order.

    Raises:
        DeploymentError: The API server refused one; those before it stay.
    """
    for change in changes:
        if change.action is Action.PRUNE:
            assert change.live is not None
            cluster.delete(change.ref, uid=change.live["metadata"].get("uid"))
        else:
            assert change.desired is not None
            if change.action is Action.REPLACE:
                _delete_and_wait(cluster, change, clock)
            cluster.apply(change.desired, force=options.force)
        console.say(f"  {change.action.value} {change.ref} {_DONE[change.action]}")


def _delete_and_wait(cluster: Cluster, change: Change, clock: Clock) -> None:
    assert change.live is not None
    uid = change.live["metadata"].get("uid")
    cluster.delete(change.ref, uid=uid)
    deadline = clock.monotonic_s() + DELETION_TIMEOUT_S
    while (live := cluster.find(change.ref)) is not None and live["metadata"].get("uid") == uid:
        if clock.monotonic_s() > deadline:
            raise RolloutError(f"{change.ref} is not gone after {DELETION_TIMEOUT_S:.0f} s")
        clock.sleep(POLL_S)


def wait_until_ready(
    cluster: Cluster,
    manifests: Sequence[Manifest],
    timeout_s: float,
    *,
    clock: Clock,
    console: Console,
) -> None:
    """Return when every workload is ready.

    Raises:
        RolloutError: One failed, or the time is over; the message carries the diagnosis.
    """
    waiting = [Ref.of(one) for one in manifests if one["kind"] in WATCHED_KINDS]
    deadline, refused = clock.monotonic_s() + timeout_s, 0
    while True:
        try:
            found = {ref: readiness(cluster, ref) for ref in waiting}
            refused = 0
        except (UnavailableError, NoClusterError) as exc:
            refused += 1
            if refused >= TOLERATED_FAILURES:
                raise RolloutError(f"applied, but the cluster stopped answering: {exc}") from exc
            clock.sleep(POLL_S)
            continue
        for ref, one in found.items():
            if one.stage is Stage.READY:
                console.good(f"  {ref} ready: {one.message}")
            else:
                console.progress(str(ref), one.message)
        waiting = [ref for ref, one in found.items() if one.stage is not Stage.READY]
        lost = [ref for ref, one in found.items() if one.stage is Stage.FAILED]
        if not waiting:
            return
        if lost or clock.monotonic_s() > deadline:
            reason = "failed" if lost else f"not ready after {timeout_s:.0f} s"
            raise RolloutError(
                _report(cluster, {ref: found[ref] for ref in lost or waiting}, reason)
            )
        clock.sleep(POLL_S)


def _report(cluster: Cluster, troubled: dict[Ref, Readiness], reason: str) -> str:
    lines = []
    for ref, one in troubled.items():
        lines.append(f"{ref} {reason}: {one.message}")
        lines += [f"    {line}" for line in diagnose(cluster, ref)]
    lines.append("what was applied stays; `scripts/deploy.py rollback` goes back to what was good")
    return "\n".join(lines)

"""Compares what should be with what is: the plan, object by object.

The API server itself answers what each object would become (a dry run of server-side apply), so
that defaults, webhooks and other field managers count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from kustomization import Manifest

from .cluster import Cluster
from .diffing import difference
from .errors import ConflictError, MissingKindError, NotFoundError, PreconditionError, RejectedError
from .objects import Ref, in_order, secret_command, secret_names
from .ownership import PART_OF, Owner, managers_of, owner_of

__all__ = ["Action", "Change", "Plan", "ensure_applicable", "make_plan"]

# Deleting these would delete data, or everything.
NEVER_PRUNED = frozenset({"Namespace", "PersistentVolumeClaim", "RuntimeClass", "Shim"})


class Action(Enum):
    """What a plan does to one object; the value is its sign in the output."""

    CREATE = "+"
    UPDATE = "~"
    REPLACE = "±"
    """Deleted and created again: the change touches a field that cannot change."""
    PRUNE = "-"
    UNCHANGED = "="
    KEEP = "·"
    """Somebody else's, and left alone."""
    BLOCKED = "!"


@dataclass(frozen=True, slots=True)
class Change:
    """One object of a plan."""

    ref: Ref
    action: Action
    desired: Manifest | None = None
    live: Manifest | None = None
    diff: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that would happen, in order."""

    changes: Sequence[Change]
    problems: Sequence[str] = field(default=())
    """What must be done before anything can be applied."""

    @property
    def blocked(self) -> list[str]:
        """Every reason why the plan cannot be applied as it stands."""
        stuck = [f"{one.ref}: {one.note}" for one in self.changes if one.action is Action.BLOCKED]
        return [*self.problems, *stuck]

    @property
    def pending(self) -> list[Change]:
        """The changes that would change something."""
        idle = (Action.UNCHANGED, Action.KEEP, Action.BLOCKED)
        return [one for one in self.changes if one.action not in idle]


def make_plan(
    cluster: Cluster,
    desired: Iterable[Manifest],
    previous: Iterable[Ref] = (),
    *,
    adopt: bool = False,
    force: bool = False,
) -> Plan:
    """Plan how the cluster gets from what it has to `desired`.

    Args:
        cluster: Where.
        desired: Rendered objects.
        previous: Objects of the revision before; ours among them that are no longer desired go.
        adopt: Take over objects that are not ours.
        force: Take over fields that other managers hold.

    Raises:
        AccessError: A look is forbidden.
        NoClusterError: Nobody answers.
    """
    ordered = in_order(desired)
    missing = _missing_kinds(cluster, ordered)
    planned = [one for one in ordered if cluster.serves(Ref.of(one))] if missing else ordered
    absent = _absent_namespaces(cluster, planned)
    changes = [_plan_one(cluster, one, absent, adopt=adopt, force=force) for one in planned]
    kept = {Ref.of(one) for one in ordered}
    changes += [
        change
        for ref in previous
        if ref not in kept and (change := _plan_removal(cluster, ref)) is not None
    ]
    return Plan(changes, [*missing, *_missing_secrets(cluster, planned)])


def _missing_kinds(cluster: Cluster, desired: Sequence[Manifest]) -> list[str]:
    found = {}
    for manifest in desired:
        try:
            cluster.resource(Ref.of(manifest))
        except MissingKindError as exc:
            found[manifest["kind"]] = str(exc)
    return list(found.values())


def _absent_namespaces(cluster: Cluster, desired: Sequence[Manifest]) -> set[str]:
    """Namespaces that the plan creates: nothing inside them can be tried before they are there."""
    refs = [Ref.of(one) for one in desired if one["kind"] == "Namespace"]
    return {ref.name for ref in refs if cluster.find(ref) is None}


def _missing_secrets(cluster: Cluster, desired: Sequence[Manifest]) -> list[str]:
    rendered = {Ref.of(one) for one in desired if one["kind"] == "Secret"}
    wanted = {
        Ref("v1", "Secret", manifest["metadata"]["namespace"], name)
        for manifest in desired
        for name in secret_names(manifest)
    }
    return [
        f"the Secret {ref.name} does not exist in {ref.namespace}: create it with "
        f"`{secret_command(ref.name)}`"
        for ref in sorted(wanted - rendered, key=lambda ref: ref.name)
        if cluster.find(ref) is None
    ]


def _plan_one(
    cluster: Cluster, desired: Manifest, absent: set[str], *, adopt: bool, force: bool
) -> Change:
    ref = Ref.of(desired)
    if ref.namespace in absent:
        return Change(ref, Action.CREATE, desired)
    live = cluster.find(ref)
    if live is not None and not adopt:
        owner = owner_of(live, desired)
        if owner is Owner.SHARED:
            return Change(ref, Action.KEEP, desired, live, note="not ours, and as we need it")
        if owner is Owner.FOREIGN:
            return Change(ref, Action.BLOCKED, desired, live, note=_foreign(live))
    try:
        result = cluster.apply(desired, dry_run=True, force=force or adopt)
    except ConflictError as exc:
        note = f"{exc}. `--force-conflicts` takes those fields over"
        return Change(ref, Action.BLOCKED, desired, live, note=note)
    except (RejectedError, NotFoundError) as exc:
        return _refused(ref, desired, live, exc)
    diff = difference(live, result)
    action = Action.CREATE if live is None else Action.UPDATE if diff else Action.UNCHANGED
    return Change(ref, action, desired, live, diff)


def _refused(
    ref: Ref, desired: Manifest, live: Manifest | None, exc: RejectedError | NotFoundError
) -> Change:
    immutable = isinstance(exc, RejectedError) and exc.immutable
    # A Job holds no data and runs once: a new one takes its place.
    if immutable and live is not None and ref.kind == "Job":
        note = "its template cannot change: it is deleted and created again"
        return Change(ref, Action.REPLACE, desired, live, difference(live, desired), note)
    return Change(ref, Action.BLOCKED, desired, live, note=str(exc))


def _foreign(live: Manifest) -> str:
    managers = ", ".join(managers_of(live)) or "somebody"
    return (
        f"exists and is not part of {PART_OF[1]} (managed by {managers}). "
        "Remove it, or let `--adopt` take it over"
    )


def _plan_removal(cluster: Cluster, ref: Ref) -> Change | None:
    try:
        live = cluster.find(ref)
    except MissingKindError:
        return None
    if live is None or live["metadata"].get("deletionTimestamp"):
        return None
    labels = live["metadata"].get("labels") or {}
    if labels.get(PART_OF[0]) != PART_OF[1]:
        return Change(ref, Action.KEEP, live=live, note="no longer ours")
    if ref.kind in NEVER_PRUNED:
        note = "no longer wanted; it holds data or others may use it: delete it by hand"
        return Change(ref, Action.KEEP, live=live, note=note)
    return Change(ref, Action.PRUNE, live=live, note="no longer wanted")


def ensure_applicable(plan: Plan) -> None:
    """Raises `PreconditionError` with every reason why the plan cannot be applied."""
    if plan.blocked:
        reasons = "\n".join(f"  - {reason}" for reason in plan.blocked)
        raise PreconditionError(f"nothing was changed, because:\n{reasons}")

"""Revisions: what was applied, kept in the cluster so that anybody may roll back.

Each revision is a Secret (its objects may hold secrets) with the compressed objects. Making it is
also the lock: two people cannot make the same number.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from kustomization import Manifest

from .cluster import Cluster
from .errors import ConflictError, HistoryError, PreconditionError
from .objects import Ref
from .ownership import PART_OF

__all__ = ["History", "Revision", "State"]

KEPT = 10
SECRET_TYPE = "inference-anywhere/revision"
COMPONENT = ("app.kubernetes.io/component", "revision")
NAME = "inference-anywhere.revision-{number}"

# An apply that was killed leaves its revision in this state; after this long it holds nobody up.
ABANDONED_AFTER = timedelta(minutes=30)


class State(Enum):
    """How far a revision came."""

    APPLYING = "applying"
    DEPLOYED = "deployed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Revision:
    """One release as it was applied."""

    number: int
    state: State
    overlay: str
    created: datetime
    manifests: Sequence[Manifest]

    @property
    def refs(self) -> list[Ref]:
        """The coordinates of its objects."""
        return [Ref.of(one) for one in self.manifests]


class History:
    """The revisions of one namespace, newest first."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace

    def revisions(self) -> list[Revision]:
        """All revisions that are kept, newest first."""
        like = Ref("v1", "Secret", self._namespace, "")
        labels = ",".join(f"{key}={value}" for key, value in (PART_OF, COMPONENT))
        found = [_read(one) for one in self._cluster.select(like, labels=labels)]
        return sorted(found, key=lambda one: one.number, reverse=True)

    def applied(self) -> list[Ref]:
        """Every object that may be there by what was applied, whether it became ready or not."""
        found: dict[Ref, None] = {}
        for one in self.revisions():
            found |= dict.fromkeys(one.refs)
            if one.state is State.DEPLOYED:
                # What was there before it and was no longer wanted went when it was ready.
                break
        return list(found)

    def find(self, number: int) -> Revision:
        """Raises `HistoryError` where the revision is not kept."""
        revisions = self.revisions()
        for one in revisions:
            if one.number == number:
                return one
        kept = ", ".join(str(one.number) for one in revisions) or "none"
        raise HistoryError(f"there is no revision {number}; kept are {kept}")

    def before(self, current: Revision) -> Revision:
        """The last good revision before `current`. Raises `HistoryError` where there is none."""
        for one in self.revisions():
            if one.number < current.number and one.state is State.DEPLOYED:
                return one
        raise HistoryError(f"nothing good was deployed before revision {current.number}")

    def begin(self, overlay: str, manifests: Sequence[Manifest], now: datetime) -> Revision:
        """Record that a release is being applied.

        Raises:
            PreconditionError: Somebody else is applying one.
        """
        revisions = self.revisions()
        latest = revisions[0] if revisions else None
        if latest and latest.state is State.APPLYING and now - latest.created < ABANDONED_AFTER:
            raise PreconditionError(
                f"revision {latest.number} is being applied since {latest.created:%H:%M:%S} UTC: "
                "wait for it, or until it is half an hour old"
            )
        number = latest.number + 1 if latest else 1
        revision = Revision(number, State.APPLYING, overlay, now, manifests)
        try:
            self._cluster.create(self._secret(revision))
        except ConflictError as exc:
            message = f"revision {number} was begun by somebody else just now: wait for it"
            raise PreconditionError(message) from exc
        return revision

    def finish(self, revision: Revision, state: State) -> None:
        """Record how it went, and forget the oldest revisions."""
        done = Revision(
            revision.number, state, revision.overlay, revision.created, revision.manifests
        )
        self._cluster.apply(self._secret(done), force=True)
        for old in self.revisions()[KEPT:]:
            self._cluster.delete(self._ref(old.number))

    def _ref(self, number: int) -> Ref:
        return Ref("v1", "Secret", self._namespace, NAME.format(number=number))

    def _secret(self, revision: Revision) -> Manifest:
        data = {
            "state": revision.state.value.encode(),
            "overlay": revision.overlay.encode(),
            "created": revision.created.isoformat().encode(),
            "manifests": gzip.compress(json.dumps(list(revision.manifests)).encode(), mtime=0),
        }
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": NAME.format(number=revision.number),
                "namespace": self._namespace,
                "labels": dict([PART_OF, COMPONENT]),
            },
            "type": SECRET_TYPE,
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }


def _read(secret: Manifest) -> Revision:
    name = secret["metadata"]["name"]
    try:
        data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
        return Revision(
            number=int(name.rpartition("-")[2]),
            state=State(data["state"].decode()),
            overlay=data["overlay"].decode(),
            created=datetime.fromisoformat(data["created"].decode()).astimezone(UTC),
            manifests=json.loads(gzip.decompress(data["manifests"])),
        )
    except (KeyError, ValueError, OSError, EOFError) as exc:
        raise HistoryError(f"the Secret {name} is no revision of ours ({exc}): delete it") from exc

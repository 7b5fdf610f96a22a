"""What can go wrong between a person and a cluster.

DeploymentError               exit code 1; the message says the fact and the remedy
 ├─ NoClusterError            no kubeconfig, a wrong one, nobody answers
 ├─ AccessError               the cluster does not know us, or forbids it
 ├─ MissingKindError          a CRD is not installed
 ├─ ConflictError             another field manager holds a field we want
 ├─ RejectedError             the API server or a webhook refuses an object
 ├─ UnavailableError          the API server is overloaded or broken just now
 ├─ NotFoundError             an object is not there
 ├─ PreconditionError         something must be done first: a secret, an image reference
 ├─ RolloutError              applied, but not ready; carries what the pods say
 ├─ HistoryError              no such revision
 └─ SmokeError                a call of the README fails
"""

from __future__ import annotations

__all__ = [
    "AccessError",
    "ConflictError",
    "DeploymentError",
    "HistoryError",
    "MissingKindError",
    "NoClusterError",
    "NotFoundError",
    "PreconditionError",
    "RejectedError",
    "RolloutError",
    "SmokeError",
    "UnavailableError",
]


class DeploymentError(Exception):
    """Base of all faults that a person can do something about."""


class NoClusterError(DeploymentError):
    """There is no cluster to talk to."""


class AccessError(DeploymentError):
    """The cluster does not let this user do that."""


class MissingKindError(DeploymentError):
    """The cluster does not know a kind of object."""


class ConflictError(DeploymentError):
    """Another field manager owns a field that the deployment sets."""


class RejectedError(DeploymentError):
    """The API server, or a webhook behind it, refuses an object."""

    def __init__(self, message: str, *, immutable: bool = False) -> None:
        super().__init__(message)
        self.immutable = immutable
        """The change is refused because a field cannot change once it is set."""


class UnavailableError(DeploymentError):
    """The API server cannot answer now; later it may."""


class NotFoundError(DeploymentError):
    """An object is not there."""


class PreconditionError(DeploymentError):
    """Something has to be done before this can."""


class RolloutError(DeploymentError):
    """Objects were applied and did not become ready."""


class HistoryError(DeploymentError):
    """A revision is not there."""


class SmokeError(DeploymentError):
    """The deployed application does not answer as the README says."""

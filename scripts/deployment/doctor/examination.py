"""Runs every check."""

from __future__ import annotations

from collections.abc import Sequence

from deployment.cluster import Cluster
from deployment.errors import AccessError
from kustomization import Manifest

from . import access, capacity, platform
from .findings import Finding, Level

__all__ = ["examine"]


def examine(cluster: Cluster, manifests: Sequence[Manifest]) -> list[Finding]:
    """Run every check; one that may not look says so and stops nobody.

    Raises:
        NoClusterError: Nobody answers.
    """
    findings: list[Finding] = []
    for check in (*platform.CHECKS, *capacity.CHECKS, *access.CHECKS):
        try:
            findings += check(cluster, manifests)
        except AccessError as exc:
            subject = (check.__doc__ or "").partition(".")[0]
            findings.append(Finding(Level.WARNING, subject, f"cannot be looked at: {exc}"))
    return findings

"""Creates the secrets that no file holds: the store's password, and what is made of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from secrets import token_urlsafe

from kustomization import Manifest

from .cluster import Cluster
from .errors import PreconditionError
from .objects import Ref
from .ownership import PART_OF

__all__ = ["create_secrets", "store_secrets"]

TEMPLATES = Path(__file__).resolve().parents[2] / "spinkube" / "secrets"
PASSWORD_BYTES = 32

# Secret, its key, and the template of the value.
STORE_SECRETS = (
    ("edge-runtime-config", "runtime-config.toml"),
    ("redis-users", "users.acl"),
)


def store_secrets(namespace: str, password: str) -> list[Manifest]:
    """The Secrets of the key-value store: the URL for the edge, a digest for the store itself."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    manifests: list[Manifest] = []
    for name, key in STORE_SECRETS:
        template = (TEMPLATES / key).read_text(encoding="utf-8")
        value = template.format(password=password, password_sha256=digest)
        manifests.append(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": dict([PART_OF]),
                },
                "type": "Opaque",
                "data": {key: base64.b64encode(value.encode()).decode()},
            }
        )
    return manifests


def create_secrets(
    cluster: Cluster,
    namespace: str,
    *,
    rotate: bool = False,
    generate: Callable[[int], str] = token_urlsafe,
) -> list[str]:
    """Create the store's Secrets; return the names of those written.

    Nothing is written when all are there, unless `rotate` asks for a new password.

    Raises:
        PreconditionError: Some are there and some are not: a new one would not match the old.
    """
    wanted = store_secrets(namespace, generate(PASSWORD_BYTES))
    present = [one for one in wanted if cluster.find(Ref.of(one)) is not None]
    if len(present) == len(wanted) and not rotate:
        return []
    if present and not rotate:
        names = ", ".join(one["metadata"]["name"] for one in present)
        raise PreconditionError(
            f"only {names} is there: its password cannot be read back into the other. "
            "`--rotate` makes a new one for both"
        )
    for manifest in wanted:
        cluster.apply(manifest, force=rotate)
    return [one["metadata"]["name"] for one in wanted]

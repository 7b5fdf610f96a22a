"""Creates the secrets that no file holds: the store's password and what is made of it, API keys."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_urlsafe

from kustomization import Manifest

from .cluster import Cluster
from .errors import PreconditionError
from .objects import Ref, secret_names
from .ownership import PART_OF, Owner, managers_of, owner_of

__all__ = [
    "API_KEYS",
    "CHAT_UPSTREAM",
    "api_keys_secret",
    "chat_upstream_secret",
    "create_secrets",
    "store_secrets",
    "store_secrets_wanted",
    "write_secret",
]

TEMPLATES = Path(__file__).resolve().parents[2] / "spinkube" / "secrets"
PASSWORD_BYTES = 32

API_KEYS = "edge-api-keys"
CHAT_UPSTREAM = "edge-chat-upstream"
_DIGEST = re.compile(r"[0-9a-f]{64}")

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
        manifests.append(_secret(namespace, name, key, value))
    return manifests


def store_secrets_wanted(manifests: Sequence[Manifest]) -> bool:
    """Say whether a release takes the store's Secrets from the cluster, not from its overlay."""
    wanted = {name for manifest in manifests for name in secret_names(manifest)}
    return any(name in wanted for name, _ in STORE_SECRETS)


def _secret(namespace: str, name: str, key: str, value: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": dict([PART_OF])},
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode()},
    }


def api_keys_secret(namespace: str, text: str) -> Manifest:
    """The Secret with tenants and the digests of their keys.

    Args:
        namespace: Where it goes.
        text: JSON, tenant to `{"keys": [SHA-256 in hex, …], …}`; the edge checks the rest.

    Raises:
        PreconditionError: It is not that, or holds keys in the clear.
    """
    try:
        tenants = json.loads(text)
        digests = [key for tenant in tenants.values() for key in tenant["keys"]]
    except (ValueError, AttributeError, KeyError, TypeError) as exc:
        raise PreconditionError(
            'the API keys are no JSON object like {"acme": {"keys": ["<SHA-256 of the key>"]}}: '
            f"{type(exc).__name__}: {exc}"
        ) from exc
    if not digests or not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in digests):
        raise PreconditionError(
            "an API key is kept as the SHA-256 of the key, 64 hexadecimal digits: "
            "printf %s KEY | sha256sum"
        )
    return _secret(namespace, API_KEYS, "api_keys", text)


def chat_upstream_secret(namespace: str, text: str) -> Manifest:
    """The Secret with the bearer token for the server at `chat_upstream_url`.

    Raises:
        PreconditionError: It is no token: empty, of several lines, or not printable.
    """
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise PreconditionError("the key of the chat server is no token: one line, no spaces")
    return _secret(namespace, CHAT_UPSTREAM, "chat_upstream_key", token)


def write_secret(cluster: Cluster, manifest: Manifest) -> None:
    """Create a Secret, or change one of ours.

    Raises:
        PreconditionError: It is somebody else's; nothing was changed.
    """
    _ensure_ours(cluster, [manifest])
    cluster.apply(manifest, force=True)


def _ensure_ours(cluster: Cluster, manifests: Sequence[Manifest]) -> None:
    for manifest in manifests:
        live = cluster.find(Ref.of(manifest))
        if live is not None and owner_of(live, manifest) is not Owner.OURS:
            managers = ", ".join(managers_of(live)) or "somebody"
            raise PreconditionError(
                f"the {Ref.of(manifest)} is not part of {PART_OF[1]} (managed by {managers}): "
                "change it where it is made, then run `scripts/deploy.py apply`"
            )


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
        PreconditionError: Some are there and some are not: a new one would not match the old. Or
            one that would be written is somebody else's.
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
    _ensure_ours(cluster, wanted)
    for manifest in wanted:
        cluster.apply(manifest, force=rotate)
    return [one["metadata"]["name"] for one in wanted]

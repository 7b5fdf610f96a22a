"""Who is calling, and may they: bearer keys against configured SHA-256 digests."""

from __future__ import annotations

import hashlib
import hmac
import re

from edgekit.errors import AccessDeniedError, UnauthenticatedError
from edgekit.http import Headers
from edgekit.policy.tenants import ANONYMOUS, Tenant, Tenants

__all__ = ["CHALLENGE", "authenticate", "require_scope"]

CHALLENGE = 'Bearer realm="inference"'
"""Value of `WWW-Authenticate`: a 401 "MUST" carry one (RFC 9110, section 15.5.2)."""

# RFC 6750, section 2.1: b64token. The bound keeps a hostile header from costing a long hash.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]{1,512}=*)\s*\Z")


def authenticate(headers: Headers, tenants: Tenants) -> Tenant:
    """The tenant whose key the request carries.

    Every configured digest is compared, in constant time and without an early end, so the time
    taken tells nothing about how many or which of them came near.

    Raises:
        UnauthenticatedError: No key, a malformed one, or one that nobody has.
    """
    if tenants.open:
        return ANONYMOUS
    match = _BEARER.match(headers.get("authorization") or "")
    if match is None:
        raise UnauthenticatedError(
            "this service needs a key; send it as 'Authorization: Bearer <key>'"
        )
    presented = hashlib.sha256(match[1].encode()).hexdigest()
    found: Tenant | None = None
    for tenant in tenants.members:
        for digest in tenant.key_digests:
            if hmac.compare_digest(digest, presented):
                found = tenant
    if found is None:
        raise UnauthenticatedError("the key is not known here; check it for typing errors")
    return found


def require_scope(tenant: Tenant, scope: str) -> None:
    """Return when `tenant` may act in `scope`.

    Raises:
        AccessDeniedError: It may not.
    """
    if scope not in tenant.scopes:
        raise AccessDeniedError(f"tenant {tenant.name!r} lacks the scope {scope!r} for this")

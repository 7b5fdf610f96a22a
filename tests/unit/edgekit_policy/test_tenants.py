import hashlib
import json

import pytest

from edgekit.errors import AccessDeniedError, UnauthenticatedError
from edgekit.http import Headers
from edgekit.policy.auth import authenticate, require_scope
from edgekit.policy.configuration import ConfigurationError, Faults
from edgekit.policy.tenants import ANONYMOUS, Limits, Tenant, Tenants, parse_tenants


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _faults(value: object) -> tuple[str, ...]:
    text = value if isinstance(value, str) else json.dumps(value)
    with pytest.raises(ConfigurationError) as caught:
        parse_tenants(text)
    return caught.value.faults


CONFIG = json.dumps(
    {
        "acme": {"keys": [_digest("k1"), _digest("k2")], "scopes": ["infer", "admin"]},
        "beta": {"keys": [_digest("k3")]},
    }
)


@pytest.mark.parametrize("text", ["", "  ", "{}"])
def test_tenants_none_configured_is_an_open_system(text: str) -> None:
    assert parse_tenants(text).open


def test_tenants_every_limit_is_read() -> None:
    config = {
        "acme": {
            "keys": [_digest("k")],
            "rate_per_s": 0.5,
            "burst": 3,
            "concurrency": 2,
            "daily_requests": 10,
            "daily_tokens": 100,
            "daily_cost": 1.25,
        }
    }
    [tenant] = parse_tenants(json.dumps(config)).members
    assert tenant.limits == Limits(0.5, 3, 2, 10, 100, 1_250_000)
    assert tenant.limits.any


@pytest.mark.parametrize(("rate", "burst"), [(0.1, 1), (2.5, 2), (50, 50)])
def test_tenants_burst_defaults_to_one_second_of_the_rate(rate: float, burst: int) -> None:
    config = {"acme": {"keys": [_digest("k")], "rate_per_s": rate}}
    [tenant] = parse_tenants(json.dumps(config)).members
    assert tenant.limits.burst == burst


def test_tenants_without_limits_need_no_ledger() -> None:
    assert not Limits().any


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("[1]", "api_keys: must be a JSON object"),
        ("{", "api_keys: not JSON"),
        ({"a": 1}, "api_keys.a: must be an object"),
        ({"A B": {"keys": [_digest("k")]}}, "api_keys.A B: a tenant's name is"),
        ({"anonymous": {"keys": [_digest("k")]}}, "not 'anonymous'"),
        ({"a": {}}, "api_keys.a.keys: must list at least one"),
        ({"a": {"keys": []}}, "api_keys.a.keys: must list at least one"),
        ({"a": {"keys": ["secret-key"]}}, "api_keys.a.keys[0]: must be 64 lower-case hex"),
        ({"a": {"keys": [_digest("k")], "burts": 1}}, "did you mean 'burst'?"),
        ({"a": {"keys": [_digest("k")], "zzz": 1}}, "unknown; known are keys, scopes"),
        ({"a": {"keys": [_digest("k")], "scopes": ["root"]}}, "out of admin, infer"),
        ({"a": {"keys": [_digest("k")], "scopes": "infer"}}, "out of admin, infer"),
        ({"a": {"keys": [_digest("k")], "rate_per_s": 0}}, "0 is not a number of at least 0.001"),
        ({"a": {"keys": [_digest("k")], "rate_per_s": True}}, "True is not a number"),
        ({"a": {"keys": [_digest("k")], "concurrency": 1.5}}, "1.5 is not an integer"),
        ({"a": {"keys": [_digest("k")], "daily_cost": "5"}}, "'5' is not a number"),
        ({"a": {"keys": [_digest("k")], "burst": 5}}, "api_keys.a.burst: needs rate_per_s"),
        (
            {"a": {"keys": [_digest("k")]}, "b": {"keys": [_digest("k")]}},
            "api_keys.b: shares a key with 'a'",
        ),
    ],
)
def test_tenants_fault_names_its_place_and_remedy(config: object, fault: str) -> None:
    assert any(fault in found for found in _faults(config)), _faults(config)


def test_tenants_all_faults_are_reported_together() -> None:
    faults = _faults({"a": {"keys": ["x"], "rate": 1}, "b": 7})
    assert len(faults) == 3


def test_tenants_fault_never_shows_what_may_be_a_key() -> None:
    assert "hunter2" not in str(_faults({"a": {"keys": ["hunter2"]}}))


def test_faults_none_noted_raises_nothing() -> None:
    Faults().raise_any()


@pytest.mark.parametrize("field", ["Bearer k2", "bearer  k2", "BEARER k2 "])
def test_authenticate_known_key_gives_its_tenant(field: str) -> None:
    tenant = authenticate(Headers([("authorization", field)]), parse_tenants(CONFIG))
    assert tenant.name == "acme"


@pytest.mark.parametrize(
    "field",
    [None, "", "Bearer", "Bearer ", "Basic azE=", "k1", "Bearer k1 k3", "Bearer kö", "Bearer nope"],
)
def test_authenticate_anything_else_is_refused(field: str | None) -> None:
    headers = Headers([] if field is None else [("authorization", field)])
    with pytest.raises(UnauthenticatedError):
        authenticate(headers, parse_tenants(CONFIG))


def test_authenticate_two_fields_are_refused() -> None:
    headers = Headers([("authorization", "Bearer k1"), ("authorization", "Bearer k3")])
    with pytest.raises(UnauthenticatedError):
        authenticate(headers, parse_tenants(CONFIG))


def test_authenticate_the_digest_itself_is_no_key() -> None:
    headers = Headers([("authorization", f"Bearer {_digest('k1')}")])
    with pytest.raises(UnauthenticatedError):
        authenticate(headers, parse_tenants(CONFIG))


def test_authenticate_compares_every_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[object] = []

    def compare(one: str, other: str) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr("edgekit.policy.auth.hmac.compare_digest", compare)
    authenticate(Headers([("authorization", "Bearer k1")]), parse_tenants(CONFIG))
    assert len(compared) == 3


def test_authenticate_open_system_knows_everybody_as_anonymous() -> None:
    assert authenticate(Headers([("authorization", "Bearer x")]), Tenants()) is ANONYMOUS


def test_require_scope_missing_is_denied() -> None:
    require_scope(Tenant("a", scopes=frozenset({"admin"})), "admin")
    with pytest.raises(AccessDeniedError, match="lacks the scope 'admin'"):
        require_scope(ANONYMOUS, "admin")

"""The case table of policy in the component `predict`: limits, cache, placement, edge models.

As the table beside it: one for every way of running the component.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping

from fakes.inference_backend import FakeBackend, FakeModel, Fault
from wasm.cases.predict import HEAD, lit
from wasm.cases.table import Call, Case, Expected, Step

__all__ = ["CASES", "VARIABLES"]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


VARIABLES = {
    "api_keys": json.dumps(
        {
            "acme": {
                "keys": [_digest("acme-key")],
                "scopes": ["infer", "admin"],
                "rate_per_s": 1000,
                "burst": 1000,
                "concurrency": 8,
                "daily_tokens": 1000000,
            },
            "beta": {"keys": [_digest("beta-key")]},
            "poor": {"keys": [_digest("poor-key")], "daily_requests": 1},
        }
    ),
    "cors_origins": "https://app.test",
    "retry_attempts": "1",
    "records_enabled": "false",
    "classify_cascade": "false",
}
"""What every case runs with; the backend's URL comes from the test."""

ACME = {"authorization": "Bearer acme-key"}
BETA = {"authorization": "Bearer beta-key"}
POOR = {"authorization": "Bearer poor-key"}
RAW = {"content-type": "application/octet-stream"}


def picture(
    index: int = 3,
    auth: Mapping[str, str] = ACME,
    model: str = "pixels",
    **headers: str,
) -> Call:
    """One picture of 8 × 8 pixels of which one is lit."""
    fields = {**RAW, **auth, **{name.replace("_", "-"): text for name, text in headers.items()}}
    return Call("POST", f"/v1/classify/{model}?width=8&height=8", fields, lit(index))


def answered(cache: str, placement: str, **headers: str) -> Expected:
    fields = {
        "cache-status": f"edge;{cache}.*",
        "inference-placement": f"{placement}.*",
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    return Expected(200, headers=fields)


def refused(status: int, code: str, **headers: str) -> Expected:
    fields = {name.replace("_", "-"): text for name, text in headers.items()}
    return Expected(status, json={"code": code}, headers=fields)


def asked(times: int) -> Callable[[FakeBackend], None]:
    """The backend was asked for that many inferences."""

    def seen(backend: FakeBackend) -> None:
        assert len(backend.infer_calls()) == times

    return seen


def down(backend: FakeBackend) -> None:
    backend.fault = Fault.RESET


def with_digits(backend: FakeBackend) -> None:
    backend.models["digits"] = FakeModel(name="digits")


MISS = answered("fwd=miss;fwd-status=200;ttl=300;stored", "cluster;reason=preferred")
HIT = answered("hit;ttl=", "edge;reason=cache-hit", age=r"\d+", etag='W/".*"')

CACHE = [
    Case("second request is a hit", (Step(picture(), MISS), Step(picture(), HIT)), asked(1)),
    Case("tenants share nothing", (Step(picture(), MISS), Step(picture(auth=BETA), MISS)),
         asked(2)),
    Case("no-cache asks again", (
        Step(picture(), MISS),
        Step(picture(cache_control="no-cache"),
             answered("fwd=request;fwd-status=200", "cluster;reason=preferred")),
    ), asked(2)),
    Case("no-store leaves nothing behind", (
        Step(picture(cache_control="no-store"), Expected(200, headers={"cache-control": "no-store"},
                                                         absent=("etag",))),
        Step(picture(), MISS),
    )),
    Case("only-if-cached asks nobody",
         (Step(picture(cache_control="only-if-cached"), refused(504, "not_cached")),), asked(0)),
    Case("any tag is matched by a star", (
        Step(picture(), MISS),
        Step(picture(if_none_match="*"), Expected(304, body=b"", headers={"etag": 'W/".*"'})),
    ), asked(1)),
    Case("a purged model is asked again", (
        Step(picture(), MISS),
        Step(Call("POST", "/v1/cache/purge", ACME, b'{"model": "pixels"}'), Expected(200)),
        Step(picture(), MISS),
    ), asked(2)),
]  # fmt: skip

WHO = [
    Case("no key", (Step(picture(auth={}), refused(401, "unauthenticated",
                                                   www_authenticate="Bearer")),), asked(0)),
    Case("wrong key", (Step(picture(auth={"authorization": "Bearer nope"}),
                            refused(401, "unauthenticated")),), asked(0)),
    Case("scope that is missing",
         (Step(Call("POST", "/v1/cache/purge", BETA, b'{"all": true}'),
               refused(403, "access_denied")),)),
    Case("day's budget is used up by hits too", (
        Step(picture(auth=POOR), Expected(200)),
        Step(picture(auth=POOR), refused(429, "rate_limited", retry_after=r"\d+",
                                         ratelimit='"daily-requests";r=0;t=.*')),
    ), asked(1)),
    Case("limits are told", (Step(picture(), Expected(200, headers={
        "ratelimit-policy": '"rate";q=1000;w=1, "concurrency";q=8;qu="concurrent-requests", '
                            '"daily-tokens";q=1000000;qu="tokens";w=86400',
        "ratelimit": '"rate";r=999;t=1, "concurrency";r=7, "daily-tokens";r=1000000;t=.*',
    })),)),
    Case("health is open to everybody",
         (Step(Call("GET", "/v2/health/ready"), Expected(200)),)),
    Case("metadata is not", (Step(Call("GET", "/v2/models/pixels"),
                                  refused(401, "unauthenticated")),)),
    Case("preflight of an allowed page", (Step(
        Call("OPTIONS", "/v1/classify/pixels",
             {"origin": "https://app.test", "access-control-request-method": "POST"}),
        Expected(204, headers={"access-control-allow-origin": "https://app.test"})),)),
    Case("answer to an allowed page", (Step(
        picture(origin="https://app.test"),
        Expected(200, headers={"access-control-allow-origin": "https://app.test",
                               "vary": ".*Origin.*"})),)),
]  # fmt: skip

PLACED = [
    Case("deadline without sense",
         (Step(picture(inference_deadline_ms="soon"), refused(400, "invalid_input")),)),
    Case("residency without sense",
         (Step(picture(inference_residency="mars"), refused(400, "invalid_input")),)),
    Case("data that may not leave, and no model here",
         (Step(picture(inference_residency="edge"), refused(403, "access_denied")),), asked(0)),
    Case("data that may not leave, and a model here", (
        Step(picture(model="digits", inference_residency="edge"), Expected(
            200,
            json={"model": "digits", "runtime": "edge"},
            headers={"inference-placement": "edge;reason=residency.*",
                     "inference-model": 'digits;version="1";digest="sha256:[0-9a-f]{64}"'
                                        ';provider="edge"'})),
    ), asked(0)),
    Case("backend away, model here",
         (Step(picture(model="digits"), answered("fwd=miss", "edge;reason=fallback-edge"), down),)),
    Case("backend away, answer stored", (
        Step(picture(), MISS),
        Step(picture(cache_control="no-cache, stale-if-error=60"),
             answered("fwd=request;ttl=.*detail=stale-if-error", "edge;reason=fallback-stale"),
             down),
    )),
    Case("backend away, nothing left",
         (Step(picture(), refused(503, "exhausted", retry_after=r"\d+"), down),)),
    Case("cluster has the model of the same name", (
        Step(picture(model="digits"), answered("fwd=miss", "cluster;reason=preferred"),
             with_digits),
    ), asked(1)),
]  # fmt: skip

TENSOR = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8]}
AS_JSON = json.dumps(
    {"inputs": [{**TENSOR, "data": list(lit(3))}], "outputs": [{"name": "logits"}], "id": "a"}
).encode()
INFER = "/v2/models/pixels/infer"

TENSORS = [
    Case("json and binary share an entry", (
        Step(Call("POST", INFER, ACME, AS_JSON), Expected(
            200, json={"id": "a"}, headers={"cache-status": "edge;fwd=miss.*stored.*"})),
        Step(Call("POST", INFER, {**ACME, "inference-header-content-length": str(len(HEAD))},
                  HEAD + lit(3)),
             Expected(200, headers={"cache-status": "edge;hit.*"})),
    ), asked(1)),
]  # fmt: skip

SAMPLES = struct.pack("<2048f", *(((n * 7919) % 1000) / 1000 - 0.5 for n in range(2048)))

VIBRATION = [
    Case("raw samples", (Step(
        Call("POST", "/v1/detect/vibration?sample_rate_hz=12000", {**RAW, **ACME}, SAMPLES),
        Expected(200, json={"model": "vibration", "runtime": "edge"},
                 headers={"inference-placement": "edge;reason=.*"})),)),
    Case("json samples", (Step(
        Call("POST", "/v1/detect/vibration", {"content-type": "application/json", **ACME},
             json.dumps({"samples": [((n * 7919) % 1000) / 1000 for n in range(2048)],
                         "sample_rate_hz": 25600}).encode()),
        Expected(200, json={"model": "vibration"})),)),
    Case("samples of a sensor that is not connected", (Step(
        Call("POST", "/v1/detect/vibration?sample_rate_hz=12000", {**RAW, **ACME}, bytes(8192)),
        refused(400, "invalid_input")),)),
    Case("too few samples", (Step(
        Call("POST", "/v1/detect/vibration?sample_rate_hz=12000", {**RAW, **ACME}, SAMPLES[:400]),
        refused(400, "invalid_input")),)),
]  # fmt: skip

CASES = [*CACHE, *WHO, *PLACED, *TENSORS, *VIBRATION]

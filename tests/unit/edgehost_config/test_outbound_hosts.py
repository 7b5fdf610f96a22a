"""What a component may connect to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.allowed_host import AllowedHost, AllowedHostError, convert_allowed_http_hosts
from edgehost.outbound_hosts import (
    AllowedHosts,
    resolve_allowed_hosts,
    service_chaining_target,
)
from edgehost.strict_toml import Report
from edgehost.variables import MaskedDict, Variables


def variables(secrets: frozenset[str] = frozenset(), **values: str) -> Variables:
    """Variables set from outside, without defaults."""
    return Variables(MaskedDict(values, secrets), secrets, {})


def resolve(
    *hosts: str, given: Variables | None = None, components: tuple[str, ...] = ()
) -> tuple[AllowedHosts, Report]:
    report = Report()
    policy = resolve_allowed_hosts(
        hosts, given or variables(), components, "spin.toml", "hosts", report
    )
    return policy, report


def policy_for(*hosts: str) -> AllowedHosts:
    policy, report = resolve(*hosts)
    assert report.faults == []
    return policy


@pytest.mark.parametrize(
    ("entry", "allowed", "denied"),
    [
        ("http://example.com", ["http://example.com", "http://example.com:80"],
         ["https://example.com", "http://example.com:81", "http://www.example.com",
          "http://example.com.", "http://example.org"]),
        ("https://example.com/", ["https://example.com", "https://example.com:443"],
         ["http://example.com:443"]),
        ("http://EXAMPLE.com", ["http://example.com", "http://Example.COM"], []),
        ("HTTP://example.com:80", [], ["http://example.com"]),
        ("*://example.com:80", ["http://example.com", "https://example.com:80", "x://example.com:80"],
         ["https://example.com"]),
        ("http://example.com:*", ["http://example.com", "http://example.com:1"],
         ["https://example.com:1"]),
        ("http://example.com:8000..8003",
         ["http://example.com:8000", "http://example.com:8002"],
         ["http://example.com:8003", "http://example.com:7999", "http://example.com"]),
        ("http://example.com:9..1", [], ["http://example.com:5"]),
        ("http://*", ["http://anything", "http://1.2.3.4", "http://[::1]"],
         ["http://anything:81", "https://anything"]),
        ("*://*:*", ["http://a", "https://[::1]:9", "redis://b", "http://"], []),
        ("http://*.example.com",
         ["http://a.example.com", "http://a.b.example.com", "http://A.EXAMPLE.com"],
         ["http://example.com", "http://aexample.com", "http://a.example.com:81",
          "http://example.com.evil.org"]),
        ("http://self", ["http://", "http://self.alt", "http://self.alt:80"],
         ["http://self", "http://127.0.0.1", "http://localhost"]),
        ("https://self.alt", ["http://"], ["http://self"]),
        ("redis://self", [], ["http://"]),
        ("redis://db", ["redis://db", "redis://db:6379"], ["redis://db:6380", "http://db:6379"]),
        ("http://127.0.0.1:8080",
         ["http://127.0.0.1:8080", "http://2130706433:8080", "http://0x7f.1:8080",
          "http://0177.0.0.1:8080", "http://127.0.0.1.:8080"],
         ["http://127.0.0.2:8080", "http://localhost:8080", "http://127.0.0.1"]),
        ("http://127.1:8080", ["http://127.0.0.1:8080"], []),
        ("http://10.0.0.0/8", ["http://10.0.0.1", "http://10.255.255.255:80"],
         ["http://11.0.0.1", "http://10.0.0.1:81", "http://ten.example"]),
        ("*://10.1.2.3/8:8080", ["http://10.9.9.9:8080"], ["http://10.9.9.9"]),
        ("http://[::1]", ["http://[::1]", "http://[0:0::0:1]:80"], ["http://[::2]", "http://[::1]:81"]),
        ("http://[::1]:8000..9000", ["http://[::1]:8000"], ["http://[::1]"]),
        ("http://[2001:DB8::1]:443", ["http://[2001:db8::1]:443"], []),
        ("http://2001:db8::/32", ["http://[2001:db8:1::9]"], ["http://[2001:db9::9]", "http://1.2.3.4"]),
        ("http://2001:db8::/32:443", ["http://[2001:db8::1]:443"], ["http://[2001:db8::1]"]),
        ("http://bücher.example", ["http://xn--bcher-kva.example"], ["http://bucher.example"]),
        ("http://ex%61mple.com", ["http://example.com"], []),
        (" http://example.com ", ["http://example.com"], []),
    ],
)  # fmt: skip
def test_entry_allows_exactly_these(entry: str, allowed: list[str], denied: list[str]) -> None:
    policy = policy_for(entry)
    verdicts = {url: policy.check(*url.split("://")) for url in [*allowed, *denied]}
    assert [url for url in allowed if verdicts[url] is not None] == []
    assert [url for url in denied if verdicts[url] is None] == []


@pytest.mark.parametrize(
    "entry",
    [
        "", "*", ":", "?", "example.com", "example.com:80", "[::1]:80", "localhost",
        "http://", "http://:80", "http://user:secret@example.com", "http://example.com/path", "http://example.com//",
        "http://self//", "http://[::1]//", "http://[::1]/path", "http://10.0.0.0/8/path",
        "http://10.0.0.0/33:80", "http://ff00::/129:80", "http://fe80::1%25eth0/64",
        "http://example.com:port", "http://example.com:80:90", "http://example.com:65536",
        "http://example.com:1..65536", "http://example.com:..80", "http://example.com:80..",
        "http://example.com:-1", "http://example.com:٣", "http://[::1", "http://[::1]junk",
        "http://[::1]::80", "http://[v1.x]", "http://[1.2.3.4]", "http://*.", "http://*.:80",
        "http://*.1.2.3.4", "http://*.[::1]", "http://a*.com", "http://*a.com", "http://**",
        "http://example%.com", "http://example%GG.com", "http://exa[mple.com", "http://exa\\mple.com",
        "http://256.1.1.1", "http://1.2.3.4.5", "http://0x100000000", "http://09.1.1.1",
        "ftp://example.com", "*://example.com", "h2://example.com:1", "a b://example.com:1",
        "{http}://example.com", "http://{a}:1", "http://a:{1}", "insecure:allow-all",
    ],
)  # fmt: skip
def test_entry_is_refused(entry: str) -> None:
    with pytest.raises(AllowedHostError):
        AllowedHost.parse(entry)


def test_denial_has_the_text_of_spin() -> None:
    policy = policy_for("http://example.com")
    assert policy.check("https", "example.org:8443") == (
        "A component tried to make an outbound network connection to disallowed destination "
        "'https://example.org:8443'.\n"
        "To allow this request, add 'allowed_outbound_hosts = [\"https://example.org:8443\"]' to "
        "the manifest component section."
    )


def test_denial_of_the_app_itself_has_the_text_of_spin() -> None:
    assert policy_for().check("https", "") == (
        "A component tried to make an HTTP request to its own app but it does not have "
        "permission.\n"
        "To allow this request, add 'allowed_outbound_hosts = [\"http://self\"]' to the manifest "
        "component section."
    )


@pytest.mark.parametrize(
    ("authority", "shown"),
    [
        ("Example.ORG:443", "https://example.org"),
        ("user:secret@example.org", "https://example.org"),
        ("[::1]:8080", "https://[::1]:8080"),
        ("0x7f.1", "https://127.0.0.1"),
    ],
)
def test_denial_shows_what_the_manifest_should_have(authority: str, shown: str) -> None:
    denial = policy_for().check("https", authority)
    assert denial is not None
    assert f'allowed_outbound_hosts = ["{shown}"]' in denial
    assert "secret" not in denial
    assert policy_for(shown).check("https", authority) is None


@pytest.mark.parametrize(
    "authority", ["a b", "exa<mple", "a:99999", "a:b", "[::1", "1.2.3.4.5", "%"]
)
def test_authority_that_is_none_is_denied_as_unparsable(authority: str) -> None:
    denial = policy_for("*://*:*").check("http", authority)
    assert denial == (
        f"A component tried to make a request to a url that could not be parsed: http://{authority}"
    )


def test_userinfo_does_not_choose_the_host() -> None:
    policy = policy_for("http://example.com")
    assert policy.check("http", "example.com@evil.org") is not None
    assert policy.check("http", "evil.org@example.com") is None


def test_no_entry_denies_everything() -> None:
    assert policy_for().check("http", "example.com") is not None


def test_decisions_are_remembered_within_a_bound() -> None:
    policy = policy_for("http://a1")
    for number in range(5_000):
        assert (policy.check("http", f"a{number}") is None) == (number == 1)
    assert len(policy._decisions) <= 1_024
    assert policy.check("http", "a1") is None


# Templates


def test_template_is_resolved_with_values_from_outside() -> None:
    given_values = variables(host="example.com", port="8080")
    policy, report = resolve("http://{{ host }}:{{port}}", given=given_values)
    assert policy.check("http", "example.com:8080") is None
    assert (report.faults, report.warnings) == ([], [])


@pytest.mark.parametrize("value", ["", "nonsense", "http://", "http://a b"])
def test_value_that_makes_no_entry_denies_everything_with_a_warning(value: str) -> None:
    policy, report = resolve("{{ url }}", "https://*", given=variables(url=value))
    assert report.faults == []
    assert report.warnings[0].startswith('spin.toml: hosts[0]: "{{ url }}" with the value of its')
    assert report.warnings[0].endswith("; the component may connect to nothing")
    for authority in ("example.com", ""):
        denial = policy.check("https", authority)
        assert denial is not None
        assert "its allowed_outbound_hosts are invalid" in denial


def test_secret_value_never_shows() -> None:
    given_values = variables(frozenset({"url"}), url="s3cret value")
    policy, report = resolve("{{ url }}", given=given_values)
    denial = policy.check("http", "example.com")
    assert denial is not None
    assert "s3cret" not in denial + report.warnings[0]


def test_default_that_makes_no_entry_is_a_fault() -> None:
    values = MaskedDict({"url": "http://from-outside"}, ())
    report = Report()
    resolve_allowed_hosts(
        ["{{ url }}"], Variables(values, frozenset(), {"url": ""}), (), "spin.toml", "h", report
    )
    assert len(report.faults) == 1
    assert report.faults[0].endswith('"{{ url }}" with the default of its variables is empty')


# Service chaining


def test_wildcard_of_the_app_allows_its_components_only() -> None:
    policy, _ = resolve("http://*.spin.internal", components=("first", "second"))
    assert policy.check("http", "first.spin.internal") is None
    assert policy.check("http", "second.spin.internal:80") is None
    assert policy.check("http", "third.spin.internal") is not None
    assert policy.check("http", "a.first.spin.internal") is not None
    assert policy.check("https", "first.spin.internal") is not None


@pytest.mark.parametrize(
    ("authority", "target"),
    [
        ("predict.spin.internal", "predict"),
        ("predict.spin.internal:80", "predict"),
        ("a.b.spin.internal", None),
        ("spin.internal", None),
        ("example.com", None),
        ("", None),
        ("[::1]:80", None),
    ],
)
def test_service_chaining_target(authority: str, target: str | None) -> None:
    assert service_chaining_target(authority) == target


# The deprecated field


@pytest.mark.parametrize(
    ("host", "converted"),
    [
        ("example.com", ["http://example.com", "https://example.com"]),
        ("http://example.com/", ["http://example.com", "https://example.com"]),
        ("example.com:8080", ["http://example.com:8080", "https://example.com:8080"]),
        ("example.com:80", ["http://example.com", "https://example.com"]),
        ("https://example.com:443", ["http://example.com", "https://example.com"]),
        ("[::1]:8001", ["http://[::1]:8001", "https://[::1]:8001"]),
        ("self", ["http://self"]),
        ("insecure:allow-all", ["http://*:*", "https://*:*", "http://self"]),
    ],
)
def test_allowed_http_host_is_converted(host: str, converted: list[str]) -> None:
    assert convert_allowed_http_hosts([host]) == converted
    for entry in converted:
        AllowedHost.parse(entry)


@pytest.mark.parametrize("host", ["", "ftp://example.com", "http://example.com/a", "a b", "a:b"])
def test_allowed_http_host_is_refused(host: str) -> None:
    with pytest.raises(AllowedHostError):
        convert_allowed_http_hosts([host])


@given(st.text(max_size=40))
def test_any_authority_gets_a_verdict(authority: str) -> None:
    verdict = policy_for("http://example.com").check("http", authority)
    assert verdict is None or verdict.startswith("A component tried to make")


@given(st.text(max_size=40))
def test_any_text_is_an_entry_or_refused_with_a_reason(text: str) -> None:
    entry = f"http://{text}"
    try:
        AllowedHost.parse(entry)
    except AllowedHostError as exc:
        reason = str(exc)
    else:
        reason = "none needed"
    assert reason

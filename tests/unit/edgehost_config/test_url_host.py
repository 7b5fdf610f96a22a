"""Hosts of URLs, in their one form."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.url_host import Host, HostError, parse_host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com."),
        ("ex%41mple", "example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("b%C3%BCcher.example", "xn--bcher-kva.example"),
        ("a_b-c", "a_b-c"),
        ("1.2.3.4", IPv4Address("1.2.3.4")),
        ("1.2.3.4.", IPv4Address("1.2.3.4")),
        ("16909060", IPv4Address("1.2.3.4")),
        ("1.131844", IPv4Address("1.2.3.4")),
        ("1.2.772", IPv4Address("1.2.3.4")),
        ("0x1.0X2.03.04", IPv4Address("1.2.3.4")),
        ("0x", IPv4Address("0.0.0.0")),
        ("1.2.3.0x", IPv4Address("1.2.3.0")),
        ("0", IPv4Address("0.0.0.0")),
        ("[::1]", IPv6Address("::1")),
        ("[2001:DB8::A]", IPv6Address("2001:db8::a")),
        ("[::ffff:1.2.3.4]", IPv6Address("::ffff:1.2.3.4")),
        ("1.2.3.com", "1.2.3.com"),
        ("a.0b", "a.0b"),
    ],
)
def test_host_has_one_form(text: str, host: Host) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    ["", "%", "a%zz", "%ff", "a b", "a/b", "a:1", "a@b", "a#b", "a?b", "a<b", "a\\b", "a^b", "a|b",
     "a\0b", "a\x7fb", "[", "[]", "[::1", "[::1]x", "[::1%25lo]", "[1.2.3.4]", "256.0.0.1",
     "1.2.3.4.5", "1..2", "4294967296", "0x100000000", "08", "a.1", ".1"],
)  # fmt: skip
def test_text_is_no_host(text: str) -> None:
    with pytest.raises(HostError):
        parse_host(text)


@given(st.ip_addresses(v=4))
def test_every_spelling_of_an_address_is_that_address(address: IPv4Address) -> None:
    number = int(address)
    first, rest = number >> 24, number & 0xFFFFFF
    for text in (
        str(number),
        hex(number),
        f"{first}.{rest}",
        f"{first:#o}.{rest}".replace("o", ""),
    ):
        assert parse_host(text) == address


@given(st.text())
def test_any_text_is_a_host_or_refused(text: str) -> None:
    try:
        host = parse_host(text)
    except HostError:
        return
    if isinstance(host, str):
        assert parse_host(host) == host

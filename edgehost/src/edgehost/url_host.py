"""Hosts as URLs know them: a domain, an IPv4 or an IPv6 address.

Two spellings of one host must compare equal, or a policy could be walked around with
``http://2130706433`` for ``http://127.0.0.1``. Source: WHATWG URL, sections 3.5 (host parsing).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote_to_bytes

__all__ = ["Host", "HostError", "parse_host"]

Host = str | IPv4Address | IPv6Address
"""A domain in lower-case ASCII, or an address."""

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f#%/:<>?@\[\\\]^|]")
_OCTAL = re.compile(r"0[0-7]+\Z")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]*\Z")
_DECIMAL = re.compile(r"(?:0|[1-9][0-9]*)\Z")


class HostError(ValueError):
    """A text that is no host."""


def parse_host(text: str) -> Host:
    """The host written as `text`; IPv6 addresses are in brackets.

    Raises:
        HostError: It is no host of a URL.
    """
    if text.startswith("["):
        if not text.endswith("]"):
            raise HostError("invalid IPv6 address")
        return _ipv6(text[1:-1])
    domain = _to_ascii(text)
    if not domain:
        raise HostError("empty host")
    if _FORBIDDEN.search(domain):
        raise HostError("invalid domain character")
    return _ipv4(domain) if _ends_in_a_number(domain) else domain


def _ipv6(text: str) -> IPv6Address:
    try:
        if "%" in text:  # a zone is Python's extension, not a URL's
            raise ValueError
        return IPv6Address(text)
    except ValueError:
        raise HostError("invalid IPv6 address") from None


def _to_ascii(text: str) -> str:
    try:
        decoded = unquote_to_bytes(text).decode("utf-8")
        if decoded.isascii():
            return decoded.lower()
        return decoded.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise HostError("invalid international domain name") from None


def _ends_in_a_number(domain: str) -> bool:
    last = domain.removesuffix(".").rpartition(".")[2]
    return (last.isascii() and last.isdigit()) or _HEXADECIMAL.match(last) is not None


def _ipv4(domain: str) -> IPv4Address:
    parts = domain.removesuffix(".").split(".")
    numbers = [_ipv4_number(part) for part in parts]
    *leading, last = numbers
    if len(parts) > 4 or any(n > 255 for n in leading) or last >= 256 ** (5 - len(parts)):
        raise HostError("invalid IPv4 address")
    # The last number fills all the bytes that the leading ones leave.
    return IPv4Address(last + sum(n << (8 * (3 - i)) for i, n in enumerate(leading)))


def _ipv4_number(part: str) -> int:
    if _HEXADECIMAL.match(part):
        return int(part[2:] or "0", 16)
    if _OCTAL.match(part):
        return int(part, 8)
    if _DECIMAL.match(part) and len(part) <= 10:
        return int(part)
    raise HostError("invalid IPv4 address")

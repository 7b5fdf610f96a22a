"""Personal data taken out of prompts before they leave the edge, by patterns.

Patterns find what has a shape, and check digits tell a card from another number. Names and
addresses have no shape: this is a safety net for accidents, not anonymisation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["BUILT_IN", "Redactor", "redact"]


@dataclass(frozen=True, slots=True)
class Redactor:
    """One kind of personal data.

    Attributes:
        name: Stands in the text instead, as `[NAME]`, and in the report.
        pattern: What it looks like.
        accepts: Whether what the pattern found is really one.
        needs: A character without which there is none, to save the search.
    """

    name: str
    pattern: re.Pattern[str]
    accepts: Callable[[str], bool] = lambda _text: True
    needs: str = ""


def redact(text: str, redactors: Iterable[Redactor], counts: dict[str, int]) -> str:
    """`text` without what `redactors` find; each find is counted under its name."""
    for redactor in redactors:
        if redactor.needs and redactor.needs not in text:
            continue

        def replace(found: re.Match[str], redactor: Redactor = redactor) -> str:
            if not redactor.accepts(found[0]):
                return found[0]
            counts[redactor.name] = counts.get(redactor.name, 0) + 1
            return f"[{redactor.name.upper()}]"

        text = redactor.pattern.sub(replace, text)
    return text


def _luhn(text: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _mod_97(text: str) -> bool:
    """ISO 7064, MOD 97-10: the check digits of an IBAN."""
    plain = text.replace(" ", "")
    digits = "".join(str(int(char, 36)) for char in plain[4:] + plain[:4])
    return int(digits) % 97 == 1


def _octets(text: str) -> bool:
    return all(int(part) < 256 for part in text.split("."))


BUILT_IN: Mapping[str, Redactor] = {
    redactor.name: redactor
    for redactor in (
        # Longer ones first: parts of them look like shorter ones.
        Redactor(
            "email",
            re.compile(r"[\w.%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"),
            needs="@",
        ),
        Redactor(
            "iban",
            re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", re.ASCII),
            _mod_97,
        ),
        Redactor("card", re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])", re.ASCII), _luhn),
        Redactor(
            "ssn",
            re.compile(r"\b(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}\b", re.ASCII),
            needs="-",
        ),
        Redactor(
            "phone",
            re.compile(
                r"(?<!\w)\+\d{1,3}(?:[ ()./-]{0,2}\d){6,13}(?!\w)"
                r"|(?<!\w)\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\w)",
                re.ASCII,
            ),
        ),
        Redactor(
            "ipv4",
            re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)", re.ASCII),
            _octets,
            needs=".",
        ),
    )
}
"""What is known without configuration, in the order in which it is looked for."""

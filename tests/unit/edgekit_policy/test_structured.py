import pytest

from edgekit.policy.structured import BareItem, Token, serialize_item, serialize_list


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "?1"),
        (False, "?0"),
        (0, "0"),
        (-42, "-42"),
        (999_999_999_999_999, "999999999999999"),
        (1.5, "1.5"),
        (2.0, "2.0"),
        (0.12345, "0.123"),
        (-0.25, "-0.25"),
        ("plain", '"plain"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        (Token("fwd-miss*/:"), "fwd-miss*/:"),
    ],
)
def test_bare_item_is_written_as_the_grammar_says(value: BareItem, text: str) -> None:
    assert serialize_item(value, {}) == text


@pytest.mark.parametrize(
    "value",
    [10**15, -(10**15), 1e12, float("nan"), float("inf"), "tab\t", "é", Token("1x"), Token("")],
)
def test_bare_item_without_representation_is_refused(value: BareItem) -> None:
    with pytest.raises(ValueError, match=r"structured field"):
        serialize_item(value, {})


def test_item_true_parameter_is_written_without_value() -> None:
    assert serialize_item(Token("edge"), {"hit": True, "ttl": -3}) == "edge;hit;ttl=-3"


def test_item_bad_parameter_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'Hit' is no structured field key"):
        serialize_item(Token("edge"), {"Hit": True})


def test_list_members_are_separated_by_comma_and_space() -> None:
    assert serialize_list([("a", {"q": 1}), ("b", {"q": 2})]) == '"a";q=1, "b";q=2'

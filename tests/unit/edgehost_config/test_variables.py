"""Templates, and where values come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.manifest import Component, Variable, lower_snake_fault
from edgehost.strict_toml import Report
from edgehost.variables import (
    EnvironmentProvider,
    MaskedDict,
    StaticProvider,
    Template,
    TemplateError,
    VariableProvider,
    name_fault,
    resolve_variables,
)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{{ a }}", "1"),
        ("{{a}}", "1"),
        ("{{\t a \n}}", "1"),
        ("{{ a }}{{ b }}", "12"),
        ("x{{ a }}y{{ b }}z", "x1y2z"),
        ("{ a }", "{ a }"),
        ("}} {{ a }} }}", "}} 1 }}"),
        ("{{ a }}}", "1}"),
        ("$a {a} %(a)s", "$a {a} %(a)s"),
    ],
)
def test_template_resolves(text: str, resolved: str) -> None:
    template = Template.parse(text)
    assert template.resolve({"a": "1", "b": "2"}) == resolved
    assert template.is_literal == ("{{" not in text)


def test_template_value_is_not_a_template() -> None:
    assert Template.parse("{{ a }}").resolve({"a": "{{ b }}", "b": "no"}) == "{{ b }}"


@pytest.mark.parametrize("text", ["{{", "{{ a", "{{ a }} {{ b", "{{ a }", "x {{ } }"])
def test_template_with_open_expression_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match="unmatched"):
        Template.parse(text)


@pytest.mark.parametrize(("text", "name"), [("{{ c }}", "c"), ("{{}}", ""), ("{{ a b }}", "a b"),
                                            ("{{ {{ a }}", "{{ a")])  # fmt: skip
def test_template_with_unknown_variable_is_refused(text: str, name: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse(text).resolve({"a": "1"})
    assert str(caught.value) == f'unknown variable "{name}"'


@given(st.text())
def test_template_of_any_text_resolves_or_is_refused(text: str) -> None:
    try:
        resolved = Template.parse(text).resolve({})
    except TemplateError:
        assert "{{" in text
        return
    assert resolved == text


@pytest.mark.parametrize("name", ["a", "abc", "a1b2", "a_1", "a_1_b_3"])
def test_name_a_guest_may_ask_for(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "must not be empty"),
        ("aX", "invalid character 'X'"),
        ("a-b", "invalid character '-'"),
        ("é", "invalid character 'é'"),
        ("1a", "must start with a lowercase ASCII letter"),
        ("_a", "must start with a lowercase ASCII letter"),
        ("a_", "must end with a lowercase ASCII letter or digit"),
        ("a__b", "must not contain multiple consecutive underscores"),
    ],
)
def test_name_no_variable_can_have(name: str, reason: str) -> None:
    fault = name_fault(name)
    assert fault is not None
    assert fault.startswith(f'"{name}": {reason}')


@given(st.from_regex(r"[a-z0-9_A-Z-]{0,6}", fullmatch=True))
def test_every_name_a_manifest_may_declare_can_be_asked_for(name: str) -> None:
    if lower_snake_fault(name) is None:
        assert name_fault(name) is None


# Providers


def declared(**defaults: str | None) -> dict[str, Variable]:
    return {name: Variable(name, default) for name, default in defaults.items()}


def test_first_provider_that_knows_a_variable_wins() -> None:
    report = Report()
    providers: list[VariableProvider] = [
        StaticProvider({"a": "flag"}),
        StaticProvider({"a": "file", "b": "file"}),
        EnvironmentProvider({"SPIN_VARIABLE_A": "env", "SPIN_VARIABLE_C": "env"},
                            {"SPIN_VARIABLE_C": "dotenv", "SPIN_VARIABLE_D": "dotenv"}),
    ]  # fmt: skip
    defaults = dict.fromkeys("abcde", "default")
    resolved = resolve_variables(declared(**defaults), providers, "spin.toml", report)
    assert resolved.values == {"a": "flag", "b": "file", "c": "env", "d": "dotenv", "e": "default"}
    assert resolved.defaults == defaults
    assert report.faults == []


def test_empty_value_is_a_value() -> None:
    report = Report()
    environment = EnvironmentProvider({"SPIN_VARIABLE_A": ""})
    resolved = resolve_variables(declared(a="default"), [environment], "spin.toml", report)
    assert resolved.values == {"a": ""}


def test_required_variables_without_value_are_all_reported() -> None:
    report = Report()
    resolve_variables(declared(a=None, b="x", c=None), [], "spin.toml", report)
    assert [fault.split(": ")[1] for fault in report.faults] == ["variables.a", "variables.c"]


def test_environment_prefix_is_joined_by_an_underscore() -> None:
    environment = {"MY_APP_KEY": "1", "_KEY": "2"}
    assert EnvironmentProvider(environment, prefix="MY_APP").get("key") == "1"
    assert EnvironmentProvider(environment, prefix="").get("key") == "2"
    assert EnvironmentProvider(environment).get("key") is None


# Components and secrets


def test_component_sees_only_its_own_variables() -> None:
    report = Report()
    resolved = resolve_variables(declared(host="h", key="k"), [], "spin.toml", report)
    component = Component("c", "component.c", "a.wasm", variables={"url": "http://{{ host }}/"})
    assert resolved.for_component(component, "spin.toml", report) == {"url": "http://h/"}


def test_secrets_and_what_is_made_of_them_are_masked() -> None:
    report = Report()
    variables = {
        "key": Variable("key", secret=True, default="s3cret"),
        "host": Variable("host", "h"),
    }
    resolved = resolve_variables(variables, [StaticProvider({"key": "t0p"})], "spin.toml", report)
    component = Component(
        "c",
        "component.c",
        "a.wasm",
        variables={"auth": "Bearer {{ key }}", "host": "{{ host }}"},
    )
    values = resolved.for_component(component, "spin.toml", report)
    assert values["auth"] == "Bearer t0p"
    for shown in (repr(values), str(values), repr(resolved), f"{resolved}"):
        assert "t0p" not in shown
        assert "s3cret" not in shown
        assert "********" in shown
    assert repr(values) == "{'auth': '********', 'host': 'h'}"


def test_providers_never_show_their_values() -> None:
    assert "s3cret" not in repr(StaticProvider({"key": "s3cret"}))
    assert "s3cret" not in repr(EnvironmentProvider({"K": "s3cret"}, {"K": "s3cret"}))


def test_masked_dict_is_a_dict() -> None:
    values = MaskedDict({"a": "1", "b": "2"}, {"a"})
    assert values == {"a": "1", "b": "2"}
    assert list(values.items()) == [("a", "1"), ("b", "2")]

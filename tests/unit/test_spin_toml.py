"""spin.toml: what `spin build && spin up` needs with no further file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from build_components import ROOT, discover
from edgekit.chat.prompts import PromptRules
from edgekit.chat.settings import read_chat_settings
from edgekit.policy.settings import read_policy_settings
from edgekit.settings import read_settings
from edgekit.variables import VariableReader

MANIFEST: dict[str, Any] = tomllib.loads((ROOT / "spin.toml").read_text(encoding="utf-8"))


def settings_of(component: str) -> str:
    template: str = MANIFEST["component"][component]["variables"]["settings"]
    return re.sub(
        r"\{\{ (\w+) \}\}", lambda match: MANIFEST["variables"][match[1]]["default"], template
    )


class Defaults:
    """Variables as the component `predict` sees them when nobody sets any."""

    def __init__(self, component: str = "predict") -> None:
        entries = settings_of(component).split("\x1e")
        self.values = dict(entry.strip().split("=", 1) for entry in entries if entry.strip())

    def get(self, name: str) -> str:
        return self.values[name]


def test_spin_toml_each_component_gets_variables_by_their_own_names() -> None:
    for name in MANIFEST["component"]:
        template = MANIFEST["component"][name]["variables"]["settings"]
        bound = re.findall(r"^(\w+)=\{\{ (\w+) \}\}\x1e$", template, re.MULTILINE)
        assert len(bound) == len(template.strip("\n").split("\n"))
        assert all(own == application for own, application in bound)
        assert len(dict(bound)) == len(bound)


def test_spin_toml_every_variable_has_a_default_and_is_used() -> None:
    text = (ROOT / "spin.toml").read_text(encoding="utf-8")
    for name, variable in MANIFEST["variables"].items():
        assert variable.keys() <= {"default", "description", "secret"}
        assert isinstance(variable["default"], str)
        assert f"{{{{ {name} }}}}" in text, f"no component uses {name}"


def test_spin_toml_defaults_are_valid_settings() -> None:
    settings = read_settings(Defaults())
    assert settings.backend_url == "http://127.0.0.1:8080"
    assert settings.max_body_bytes == 10 * 1024 * 1024


def test_spin_toml_policy_defaults_are_those_of_the_code() -> None:
    class Nothing:
        def get(self, name: str) -> str:
            return ""

    assert read_settings(Defaults()).policy == read_policy_settings(VariableReader(Nothing()))
    assert read_settings(Defaults("chat")).policy == read_settings(Defaults()).policy


def test_spin_toml_chat_defaults_are_valid_and_those_of_the_code() -> None:
    settings = read_chat_settings(Defaults("chat"))
    assert settings.engine.url == "http://127.0.0.1:8080"
    assert settings.prompts == PromptRules()


def test_spin_toml_outbound_hosts_are_the_upstreams_alone() -> None:
    hosts = MANIFEST["component"]["predict"]["allowed_outbound_hosts"]
    assert hosts == ["{{ backend_url }}", "{{ cloud_url }}"]
    assert MANIFEST["variables"]["cloud_url"]["default"].endswith(".invalid")


def test_spin_toml_uses_the_default_store_alone() -> None:
    for component in MANIFEST["component"].values():
        assert component.get("key_value_stores", []) in ([], ["default"])


@pytest.mark.parametrize("name", sorted(MANIFEST["component"]))
def test_spin_toml_component_is_built_by_the_script_where_it_is_looked_for(name: str) -> None:
    component = MANIFEST["component"][name]
    built = {item.name: item.wasm for item in discover()}
    assert ROOT / component["source"] == built[name]
    assert component["build"]["command"] == f"python3 scripts/build_components.py {name}"
    # Vocabularies are there once `make models` has fetched models; nothing else is optional.
    watched = [item for item in component["build"]["watch"] if not item.startswith(".models/")]
    for pattern in watched:
        assert list(Path(ROOT).glob(pattern)), f"watch pattern {pattern} matches nothing"


def test_spin_toml_every_route_has_a_component() -> None:
    routes = [trigger["route"] for trigger in MANIFEST["trigger"]["http"]]
    assert len(routes) == len(set(routes))
    for trigger in MANIFEST["trigger"]["http"]:
        assert trigger["component"] in MANIFEST["component"]

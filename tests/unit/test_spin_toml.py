"""spin.toml: what `spin build && spin up` needs with no further file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from build_components import ROOT, discover
from edgekit.policy.settings import read_policy_settings
from edgekit.settings import read_settings
from edgekit.variables import VariableReader

MANIFEST: dict[str, Any] = tomllib.loads((ROOT / "spin.toml").read_text(encoding="utf-8"))


class Defaults:
    """Variables as the component `predict` sees them when nobody sets any."""

    def get(self, name: str) -> str:
        template: str = MANIFEST["component"]["predict"]["variables"][name]
        return re.sub(
            r"\{\{ (\w+) \}\}", lambda match: MANIFEST["variables"][match[1]]["default"], template
        )


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

"""What a manifest may say; what it may not is in the golden texts."""

from __future__ import annotations

import pytest

from edgehost.errors import ConfigError
from edgehost.manifest import (
    Build,
    HttpTrigger,
    StaticResponse,
    Variable,
    kebab_fault,
    label_fault,
    lower_snake_fault,
    parse_manifest,
)

# Every field Spin's schema has, in every form that this host takes.
MAXIMAL = """
spin_manifest_version = 2

[application]
name = "maximal"
version = "1.2.3"
description = "Everything"
authors = ["a@example.com", "b@example.com"]
targets = ["spin-up:3.3", { url = "https://example.com/t.toml" }, { path = "t.toml" }]

[application.trigger.http]
[application.trigger.other]
option = 1
[application.tool.lint]
level = "high"

[variables]
with_default = { default = "x", description = "Has one" }
needed = { required = true, secret = true }
empty = { default = "" }

[[trigger.http]]
route = "/a/:id/..."
component = "first"
executor = { type = "http" }

[[trigger.http]]
id = "named"
route = { private = true }
component = "first"
executor = { type = "spin" }

[[trigger.http]]
route = "/inline"
component = { source = "inline.wasm", key_value_stores = ["default"] }

[[trigger.http]]
id = "teapot"
route = "/static"
static_response = { status_code = 418, headers = { x-a = "b" }, body = "short" }

[[trigger.http]]
route = "/redirect"
static_response = { status_code = 302, headers = { location = "/a" } }

[component.first]
source = "first.wasm"
description = "The first"
environment = { KEY = "value" }
files = []
exclude_files = ["secret"]
allowed_outbound_hosts = ["https://example.com", "{{ with_default }}"]
allowed_http_hosts = []
key_value_stores = ["default", "snake_case", "kebab-case", "UPPER_case"]
sqlite_databases = []
ai_models = []
targets = ["spin-up:3.3"]
variables = { own = "{{ with_default }}-{{ needed }}" }
dependencies_inherit_configuration = false
dependencies = {}

[component.first.build]
command = ["one", "two"]
workdir = "here"
watch = ["**/*.py"]

[component.first.tool.clean]
command = "rm"

[component.first.profile.debug]
source = "debug.wasm"
environment = { DEBUG = "1" }
build.command = "debug"

[component.UPPER-case2]
source = "second.wasm"
build = { command = "make" }
"""


def test_every_field_of_the_schema_is_read() -> None:
    manifest = parse_manifest(MAXIMAL)
    assert manifest.application.name == "maximal"
    assert manifest.application.authors == ("a@example.com", "b@example.com")
    assert manifest.variables == {
        "with_default": Variable("with_default", "x", description="Has one"),
        "needed": Variable("needed", None, secret=True),
        "empty": Variable("empty", ""),
    }
    first = manifest.components["first"]
    assert first.source == "first.wasm"
    assert first.environment == {"KEY": "value"}
    assert first.key_value_stores == ("default", "snake_case", "kebab-case", "UPPER_case")
    assert first.allowed_outbound_hosts == ("https://example.com", "{{ with_default }}")
    assert first.variables == {"own": "{{ with_default }}-{{ needed }}"}
    assert first.build == Build(("one", "two"), "here")
    assert manifest.components["UPPER-case2"].build == Build(("make",))


def test_triggers_and_inline_components_get_the_ids_spin_gives_them() -> None:
    manifest = parse_manifest(MAXIMAL)
    assert manifest.triggers == (
        HttpTrigger("first-http-trigger", "trigger.http[0]", "/a/:id/...", "first"),
        HttpTrigger("named", "trigger.http[1]", None, "first"),
        HttpTrigger("http-trigger1", "trigger.http[2]", "/inline", "http-trigger1-component"),
        HttpTrigger(
            "teapot",
            "trigger.http[3]",
            "/static",
            static_response=StaticResponse(418, {"x-a": "b"}, b"short"),
        ),
        HttpTrigger(
            "http-trigger2",
            "trigger.http[4]",
            "/redirect",
            static_response=StaticResponse(302, {"location": "/a"}),
        ),
    )
    assert set(manifest.components) == {"first", "UPPER-case2", "http-trigger1-component"}
    assert manifest.components["http-trigger1-component"].key == "trigger.http[2].component"


def test_inline_component_whose_natural_id_is_taken_gets_a_number() -> None:
    manifest = parse_manifest(
        """
spin_manifest_version = 2
application.name = "x"
[[trigger.http]]
id = "t"
route = "/"
component = { source = "a.wasm" }
[[trigger.http]]
id = "under_score"
route = "/b"
component = { source = "b.wasm" }
[component.t-component]
source = "c.wasm"
"""
    )
    assert [trigger.component for trigger in manifest.triggers] == [
        "inline-component1",
        "inline-component2",
    ]
    assert manifest.components["inline-component2"].source == "b.wasm"


def test_two_triggers_of_one_component_get_distinct_ids() -> None:
    manifest = parse_manifest(
        """
spin_manifest_version = 2
application.name = "x"
[[trigger.http]]
route = "/a"
component = "c"
[[trigger.http]]
route = "/b"
component = "c"
[component.c]
source = "c.wasm"
"""
    )
    assert [trigger.id for trigger in manifest.triggers] == ["c-http-trigger", "http-trigger1"]


def test_faults_of_the_whole_file_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_manifest(
            """
spin_manifest_version = 2
application.nam = "x"
[[trigger.http]]
route = "/"
component = "b"
[component.a]
sourc = "a.wasm"
""",
            file="app/spin.toml",
        )
    assert [fault.removeprefix("app/spin.toml: ") for fault in caught.value.faults] == [
        'application: missing field "name"',
        'application.nam: unknown field; did you mean "name"?',
        'trigger.http[0].component: there is no component "b"; this manifest has: a',
        'component.a: missing field "source"',
        'component.a.sourc: unknown field; did you mean "source"?',
    ]


@pytest.mark.parametrize("name", ["a", "abc", "a-b", "A-b", "ABC-d2", "a1-b22"])
def test_component_id_may_be(name: str) -> None:
    assert kebab_fault(name) is None


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "a--b", "a_b", "1a", "a-1", "Ab", "aB", "a.b", "é", "a é", "☃"]
)
def test_component_id_may_not_be(name: str) -> None:
    assert kebab_fault(name)


@pytest.mark.parametrize("name", ["a", "a_b", "a1_b22"])
def test_variable_name_may_be(name: str) -> None:
    assert lower_snake_fault(name) is None


@pytest.mark.parametrize("name", ["A_b", "a-b", "a_1", "_a", "a_", ""])
def test_variable_name_may_not_be(name: str) -> None:
    assert lower_snake_fault(name)


@pytest.mark.parametrize("label", ["default", "a-b", "a_b", "MIX_ed"])
def test_store_label_may_be(label: str) -> None:
    assert label_fault(label) is None


@pytest.mark.parametrize("label", ["a-b_c", "b@d", ""])
def test_store_label_may_not_be(label: str) -> None:
    assert label_fault(label)

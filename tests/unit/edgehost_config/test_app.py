"""Manifest, flags, runtime config and environment, put together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgehost.app import App
from edgehost.errors import ConfigError, StoreError
from edgehost.ports import InstanceLimits

MANIFEST = """
spin_manifest_version = 2

[application]
name = "shop"
version = "1.0.0"

[variables]
greeting = { default = "hello" }
backend = { default = "http://127.0.0.1:8080" }

[[trigger.http]]
route = "/shop/..."
component = "shop"

[[trigger.http]]
route = { private = true }
component = "hidden"

[[trigger.http]]
route = "/about"
static_response = { body = "A shop." }

[component.shop]
source = "wasm/shop.wasm"
description = "Sells"
environment = { KEPT = "manifest", CHANGED = "manifest" }
key_value_stores = ["default"]
allowed_outbound_hosts = ["{{ backend }}", "http://hidden.spin.internal"]
variables = { greeting = "{{ greeting }}!" }

[component.hidden]
source = "wasm/hidden.wasm"
"""


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "app"
    (directory / "wasm").mkdir(parents=True)
    for name in ("shop", "hidden"):
        (directory / "wasm" / f"{name}.wasm").touch()
    (directory / "spin.toml").write_text(MANIFEST)
    return directory


def test_app_has_all_that_the_server_needs(app_dir: Path) -> None:
    app = App.load(app_dir / "spin.toml", env={}, working_dir=app_dir)
    assert (app.name, app.version, app.warnings) == ("shop", "1.0.0", ())
    assert [route.target for route in app.routes.routes] == ["http-trigger1", "shop"]
    shop = app.components["shop"]
    assert shop.source == app_dir / "wasm" / "shop.wasm"
    assert shop.variables == {"greeting": "hello!"}
    assert shop.key_value_stores == {"default"}
    assert app.descriptions == {"shop": "Sells"}
    assert app.state_dir == app_dir / ".spin"


def test_private_component_is_defined_and_not_routed(app_dir: Path) -> None:
    app = App.load(app_dir, env={}, working_dir=app_dir)
    assert "hidden" in app.components
    assert app.routes.match("/hidden") is None


def test_static_response_is_routed(app_dir: Path) -> None:
    app = App.load(app_dir, env={}, working_dir=app_dir)
    found = app.routes.match("/about")
    assert found is not None
    assert found.route.component is None
    assert found.route.static_response is not None
    assert found.route.static_response.body == b"A shop."


def test_manifest_may_be_given_by_its_directory_and_relative(app_dir: Path) -> None:
    app = App.load(Path("app"), env={}, working_dir=app_dir.parent)
    assert app.manifest_path == app_dir / "spin.toml"


def test_app_cannot_be_changed(app_dir: Path) -> None:
    app = App.load(app_dir, env={}, working_dir=app_dir)
    with pytest.raises(dataclasses.FrozenInstanceError):
        app.name = "other"  # type: ignore[misc]


def test_variables_come_from_the_nearest_source(app_dir: Path) -> None:
    def greeting(**given: object) -> str:
        app = App.load(app_dir, working_dir=app_dir, **given)  # type: ignore[arg-type]
        return app.components["shop"].variables["greeting"]

    environment = {"SPIN_VARIABLE_GREETING": "environment"}
    config = app_dir / "runtime-config.toml"
    config.write_text('variables_provider = [{ type = "static", values = { greeting = "file" } }]')
    assert greeting(env={}) == "hello!"
    (app_dir / ".env").write_text("SPIN_VARIABLE_GREETING=dotenv")
    assert greeting(env={}) == "dotenv!"
    assert greeting(env=environment) == "environment!"
    assert greeting(env=environment, runtime_config=config) == "file!"
    flags = {"greeting": "flag"}
    assert greeting(env=environment, runtime_config=config, variables=flags) == "flag!"


def test_process_environment_is_read_when_none_is_given(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIN_VARIABLE_GREETING", "process")
    app = App.load(app_dir, working_dir=app_dir)
    assert app.components["shop"].variables == {"greeting": "process!"}


def test_dotenv_beside_the_manifest_is_not_read_from_elsewhere(app_dir: Path) -> None:
    (app_dir / ".env").write_text("SPIN_VARIABLE_GREETING=dotenv")
    app = App.load(app_dir, env={}, working_dir=app_dir.parent)
    assert app.components["shop"].variables == {"greeting": "hello!"}
    assert app.warnings == (
        f"{app_dir / '.env'}: is not read: only the current directory's .env is",
    )


def test_flag_for_an_unknown_variable_is_a_warning(app_dir: Path) -> None:
    app = App.load(app_dir, env={}, working_dir=app_dir, variables={"greting": "x"})
    assert app.warnings == (
        '--variable: greting: the app has no such variable; did you mean "greeting"?',
    )


def test_component_environment_is_extended_by_flags(app_dir: Path) -> None:
    extra = {"CHANGED": "flag", "NEW": "flag"}
    app = App.load(app_dir, env={"NEVER": "seen"}, working_dir=app_dir, component_env=extra)
    assert app.components["shop"].environment == {
        "KEPT": "manifest",
        "CHANGED": "flag",
        "NEW": "flag",
    }
    assert app.components["hidden"].environment == extra


def test_outbound_policy_follows_variables(app_dir: Path) -> None:
    app = App.load(app_dir, env={}, working_dir=app_dir, variables={"backend": "http://b:1"})
    policy = app.components["shop"].outbound
    assert policy is not None
    assert policy.check("http", "b:1") is None
    assert policy.check("http", "127.0.0.1:8080") is not None
    assert policy.check("http", "hidden.spin.internal") is None


def test_limits_of_the_runtime_config_fill_those_that_are_not_given(app_dir: Path) -> None:
    config = app_dir / "runtime-config.toml"
    config.write_text("max_instance_memory = 1_000_000")

    def memory_bytes(limits: InstanceLimits) -> int | None:
        app = App.load(app_dir, env={}, working_dir=app_dir, runtime_config=config, limits=limits)
        assert app.components["shop"].limits.request_timeout_s == limits.request_timeout_s
        return app.components["shop"].limits.memory_bytes

    assert memory_bytes(InstanceLimits(request_timeout_s=3.0)) == 1_000_000
    assert memory_bytes(InstanceLimits(memory_bytes=2_000_000)) == 2_000_000


# State and stores


def test_state_dir_comes_from_flag_then_file_then_default(app_dir: Path) -> None:
    config = app_dir / "runtime-config.toml"
    config.write_text('state_dir = "from-file"\nlog_dir = "logs"')

    def load(**given: object) -> App:
        return App.load(app_dir, env={}, working_dir=app_dir, **given)  # type: ignore[arg-type]

    assert load().state_dir == app_dir / ".spin"
    assert load().log_dir is None
    assert load(runtime_config=config).state_dir == app_dir / "from-file"
    assert load(runtime_config=config).log_dir == Path("logs")
    assert load(runtime_config=config, state_dir="flag").state_dir == app_dir / "flag"
    assert load(runtime_config=config, state_dir="").state_dir is None


def test_default_store_is_a_file_in_the_state_dir(app_dir: Path) -> None:
    app = App.load(app_dir, env={}, working_dir=app_dir)
    assert not (app_dir / ".spin").exists(), "nothing is made before a guest needs it"
    stores = app.components["shop"].stores
    assert stores is not None
    stores.open("default").set("key", b"value")
    app.close()
    assert (app_dir / ".spin" / "sqlite_key_value.db").is_file()
    again = App.load(app_dir, env={}, working_dir=app_dir)
    assert again.stores.open("default").get("key") == b"value"
    again.close()


def test_store_without_state_dir_leaves_nothing(app_dir: Path) -> None:
    app = App.load(app_dir, env={}, working_dir=app_dir, state_dir="")
    app.stores.open("default").set("key", b"value")
    assert app.stores.open("default").get("key") == b"value"
    app.close()
    assert not (app_dir / ".spin").exists()


def test_component_opens_only_stores_it_lists(app_dir: Path) -> None:
    app = App.load(app_dir, env={}, working_dir=app_dir, state_dir="")
    hidden = app.components["hidden"].stores
    assert hidden is not None
    with pytest.raises(StoreError, match="add it to key_value_stores") as caught:
        hidden.open("default")
    assert caught.value.case == "access-denied"
    with pytest.raises(StoreError) as caught:
        app.stores.open("nowhere")
    assert caught.value.case == "no-such-store"


def test_stores_of_the_runtime_config_are_opened_by_label(app_dir: Path) -> None:
    config = app_dir / "runtime-config.toml"
    config.write_text(
        """
        key_value_store.one = { type = "spin", path = "shared.db" }
        key_value_store.two = { type = "spin", path = "shared.db" }
        key_value_store.memory = { type = "spin" }
        key_value_store.redis = { type = "redis", url = "redis://:s3cret@cache:6379" }
        """
    )
    app = App.load(app_dir, env={}, working_dir=app_dir, runtime_config=config)
    assert app.stores.labels == {"default", "one", "two", "memory", "redis"}
    app.stores.open("one").set("key", b"1")
    assert app.stores.open("two").get("key") is None, "labels in one file are apart"
    assert app.stores.open("one") is app.stores.open("one")
    assert (app_dir / "shared.db").is_file()
    described = {label: app.stores.describe(label) for label in app.stores.labels}
    assert described["memory"] == "a temporary in-memory store"
    assert described["one"] == f'"{app_dir / "shared.db"}"'
    assert described["redis"] == "Redis at cache:6379"
    assert app.stores.open("redis") is not None
    app.close()


def test_redis_without_its_client_is_a_fault(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgehost.app.redis_fault", lambda: "needs the Redis client")
    config = app_dir / "runtime-config.toml"
    config.write_text('key_value_store.r = { type = "redis", url = "redis://localhost" }')
    with pytest.raises(ConfigError, match=r"key_value_store\.r: needs the Redis client"):
        App.load(app_dir, env={}, working_dir=app_dir, runtime_config=config)


# Faults


def test_faults_of_every_input_come_together(app_dir: Path) -> None:
    (app_dir / "spin.toml").write_text(MANIFEST.replace("wasm/hidden", "wasm/missing"))
    (app_dir / "runtime-config.toml").write_text("unknown = 1")
    (app_dir / ".env").write_text("not an assignment")
    with pytest.raises(ConfigError) as caught:
        App.load(
            Path("spin.toml"),
            env={},
            working_dir=app_dir,
            runtime_config=Path("runtime-config.toml"),
        )
    assert sorted(fault.split(": ")[0] for fault in caught.value.faults) == [
        ".env",
        "runtime-config.toml",
        "spin.toml",
    ]


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        App.load(Path("nowhere/spin.toml"), env={}, working_dir=tmp_path)
    assert caught.value.faults == ("nowhere/spin.toml: no such file",)


def test_directory_without_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        App.load(Path(), env={}, working_dir=tmp_path)
    assert caught.value.faults == ("spin.toml: no such file",)


def test_secrets_never_show_in_the_app(app_dir: Path) -> None:
    manifest = MANIFEST.replace('default = "hello"', "required = true, secret = true")
    (app_dir / "spin.toml").write_text(manifest)
    app = App.load(app_dir, working_dir=app_dir, env={}, variables={"greeting": "s3cret"})
    assert app.components["shop"].variables["greeting"] == "s3cret!"
    assert "s3cret" not in repr(app)

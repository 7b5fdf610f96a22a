"""Settings: flags, environment, and every fault at once."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from gpu_backend.errors import ConfigError
from gpu_backend.execution.providers import PROVIDERS
from gpu_backend.settings import Listen, Settings, parser, read_settings


def test_defaults_hold_without_flags_and_environment() -> None:
    assert read_settings({}) == Settings()


def test_environment_is_read() -> None:
    settings = read_settings(
        {
            "BACKEND_LISTEN": "[::1]:0",
            "BACKEND_MODELS": "/a:/b",
            "BACKEND_EXECUTION_PROVIDER": "CPU",
            "BACKEND_REQUIRE_PROVIDER": "on",
            "BACKEND_MAX_WAIT_S": "1.5",
        }
    )
    assert settings.listen == Listen("::1", 0)
    assert str(settings.listen) == "[::1]:0"
    assert settings.models == (Path("/a"), Path("/b"))
    assert settings.execution_provider == "cpu"
    assert settings.require_provider is True
    assert settings.max_wait_s == 1.5


def test_flag_beats_environment() -> None:
    flags = {"listen": "0.0.0.0:1", "models": ["/x", "/y"], "log_level": None}
    settings = read_settings({"BACKEND_LISTEN": "127.0.0.1:2"}, flags)
    assert settings.listen == Listen("0.0.0.0", 1)
    assert settings.models == (Path("/x"), Path("/y"))


def test_every_fault_is_reported_with_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(
            {
                "BACKEND_LISTN": "x",
                "BACKEND_QQQ": "x",
                "BACKEND_LISTEN": "8080",
                "BACKEND_MAX_BODY_BYTES": "many",
                "BACKEND_MAX_QUEUE": "0",
                "BACKEND_MAX_WAIT_S": "soon",
                "BACKEND_TRACING": "perhaps",
                "BACKEND_MODELS": "",
            },
            {"execution_provider": "cudaa"},
        )
    assert caught.value.faults == (
        "BACKEND_LISTN: unknown setting; did you mean BACKEND_LISTEN?",
        "BACKEND_QQQ: unknown setting; `python -m gpu_backend --help` lists them",
        "BACKEND_LISTEN: expected host:port, as 127.0.0.1:8080, got '8080'",
        "BACKEND_MODELS: expected one folder or more, separated by ':', got ''",
        "--execution-provider: expected one of "
        + ", ".join(["auto", *PROVIDERS])
        + "; did you mean 'cuda'?, got 'cudaa'",
        "BACKEND_MAX_BODY_BYTES: expected a whole number, got 'many'",
        "BACKEND_MAX_QUEUE: expected 1 to 1000000, got '0'",
        "BACKEND_MAX_WAIT_S: expected a number, got 'soon'",
        "BACKEND_TRACING: expected true or false, got 'perhaps'",
    )


@pytest.mark.parametrize(
    "key",
    [
        "BACKEND_SERVICE_HOST",
        "BACKEND_SERVICE_PORT_HTTP",
        "BACKEND_PORT",
        "BACKEND_PORT_8080_TCP_ADDR",
        "BACKEND_CANARY_SERVICE_HOST",
    ],
)
def test_service_links_of_kubernetes_are_not_settings(key: str) -> None:
    assert read_settings({key: "x", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == Settings()
    with pytest.raises(ConfigError):
        read_settings({key: "x"})


def test_other_variables_are_left_alone() -> None:
    assert read_settings({"GPU_BACKEND_SERVICE_HOST": "x", "PATH": "/bin"}) == Settings()


def test_every_setting_has_a_flag_with_its_reason() -> None:
    text = parser(
        argparse.ArgumentParser(formatter_class=argparse.RawTextHelpFormatter)
    ).format_help()
    for field in dataclasses.fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in text
        assert field.metadata["reason"] in text
        assert f"[BACKEND_{field.name.upper()}]" in text


def test_repeated_models_flag_names_several_repositories() -> None:
    options = parser(argparse.ArgumentParser()).parse_args(["--models", "/a", "--models", "/b"])
    assert read_settings({}, vars(options)).models == (Path("/a"), Path("/b"))

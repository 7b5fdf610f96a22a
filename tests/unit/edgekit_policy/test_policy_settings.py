import pytest

from edgekit.errors import InternalError
from edgekit.policy.settings import PolicySettings, read_policy_settings
from edgekit.variables import VariableReader


class Given:
    """Variables as a test sets them; everything else is not declared."""

    def __init__(self, **values: str) -> None:
        self._values = values

    def get(self, name: str) -> str:
        return self._values.get(name, "")


def read(**values: str) -> PolicySettings:
    reader = VariableReader(Given(**values))
    settings = read_policy_settings(reader)
    reader.raise_any()
    return settings


def test_settings_nothing_declared_gives_the_defaults() -> None:
    settings = read()
    assert settings.tenants.open
    assert settings.cloud_url is None
    assert settings.routes["classify"].cache.ttl_s == 300
    assert settings.records.sample_rate == 0


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://cloud.invalid", None),
        ("https://cloud.test", "https://cloud.test"),
        ("https://cloud.test:8443/", "https://cloud.test:8443"),
    ],
)
def test_settings_cloud_is_off_for_a_host_that_cannot_exist(url: str, found: str | None) -> None:
    assert read(cloud_url=url).cloud_url == found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cloud_url", "not a url"),
        ("classify_cache_ttl_s", "long"),
        ("classify_cascade", "perhaps"),
        ("limits_fail_open", "1"),
        ("records_sample_percent", "101"),
        ("retry_attempts", "0"),
        ("api_keys", "{"),
    ],
)
def test_settings_fault_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(InternalError, match=name):
        read(**{name: value})


def test_settings_every_fault_is_told_at_once() -> None:
    with pytest.raises(InternalError) as caught:
        read(api_keys='{"a": {"keys": []}, "b": 1}', retry_attempts="x")
    for place in ("api_keys.a.keys", "api_keys.b", "retry_attempts"):
        assert place in caught.value.message

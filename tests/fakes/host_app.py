"""A small app for tests of the embedded host: the probe and traffic guests, and a static route."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.guest_builder import GUEST_ENVIRONMENT, build_guest

__all__ = ["require_guests", "write_app"]

_MANIFEST = """\
spin_manifest_version = 2

[application]
name = "host-tests"
version = "1.2.3"

[variables]
greeting = {{ default = "hi" }}

[[trigger.http]]
route = "/users/:user_id/..."
component = "traffic"

[[trigger.http]]
route = "/t/..."
component = "traffic"

[[trigger.http]]
id = "teapot"
route = "/teapot"
[trigger.http.static_response]
status_code = 418
headers = {{ "X-Kind" = "static" }}
body = "short and stout"

[[trigger.http]]
route = {{ private = true }}
component = "hidden"

[[trigger.http]]
route = "/..."
component = "probe"

[component.probe]
source = "{probe}"
description = "Does what tests ask"
allowed_outbound_hosts = ["http://127.0.0.1:*", "http://*.spin.internal", "http://self"]
key_value_stores = ["default"]
[component.probe.variables]
greeting = "{{{{ greeting }}}}"

[component.traffic]
source = "{traffic}"
allowed_outbound_hosts = ["http://127.0.0.1:*", "http://*.spin.internal"]

[component.hidden]
source = "{traffic}"
"""


def require_guests() -> dict[str, Path]:
    """The guests' components by name; skips the test where they cannot be built."""
    if not (GUEST_ENVIRONMENT / "bin" / "componentize-py").exists():
        pytest.skip("no .venv-guest: run `make build` first")
    return {name: build_guest(name) for name in ("probe", "traffic")}


def write_app(directory: Path) -> Path:
    """Write the spin.toml into `directory`; its path."""
    manifest = directory / "spin.toml"
    manifest.write_text(_MANIFEST.format(**require_guests()))
    return manifest

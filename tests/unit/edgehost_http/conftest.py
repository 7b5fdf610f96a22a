"""A certificate for localhost, made once per session."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tls_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `cert.pem` and `key.pem`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="session")
def tls_certificate(tls_directory: Path) -> str:
    """Path of the certificate, to trust it."""
    return str(tls_directory / "cert.pem")


@pytest.fixture(scope="session")
def tls_server_context(tls_directory: Path) -> ssl.SSLContext:
    """A server's TLS context with the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_directory / "cert.pem", tls_directory / "key.pem")
    return context

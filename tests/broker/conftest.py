"""Certificates and passwords of the tests' own, made by the real tools."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PasswordFile = Callable[..., Path]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority (ca.pem), and pairs signed by it: server.pem for 127.0.0.1, client.pem."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in ("ca", "stranger"):
        openssl("req", "-x509", *key, "-keyout", f"{authority}.key", "-out", f"{authority}.pem", "-days", "2",
                "-subj", f"/CN={authority}", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext")  # fmt: skip
    return folder


@pytest.fixture
def password_file(tmp_path: Path) -> PasswordFile:
    """Makes a password file: `password_file(pi="secret", …)`."""

    def make(**passwords: str) -> Path:
        path = tmp_path / "passwords"
        path.touch(mode=0o600)
        for user, password in passwords.items():
            tool = shutil.which("mosquitto_passwd")
            assert tool is not None, "comes with the package mosquitto"
            subprocess.run([tool, "-b", str(path), user, password], check=True, capture_output=True)
        return path

    return make

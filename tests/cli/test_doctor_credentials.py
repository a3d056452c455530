"""`popexd doctor` outside a unit: the secrets that systemd would hand to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.process import free_port
from popexd.cli.doctor import files
from tests.broker.site import Site


def test_what_systemd_hands_to_the_unit_is_found_outside_it(
    examine: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's password, authority, certificate and key from the credential store, for who may read it."""
    home, store = site.folder.path / "clients" / "pi", tmp_path / "credstore"
    store.mkdir(mode=0o700)
    monkeypatch.setattr(files, "CREDENTIALS", store)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    given = {
        "password": home / "password",
        "ca": site.folder.path / "authority.pem",
        "cert": home / "certificate.pem",
        "key": home / "key.pem",
    }
    for part, path in given.items():
        (store / f"popexd-agent.mqtt_{part}").write_bytes(path.read_bytes())
        (store / f"popexd-agent.mqtt_{part}").chmod(0o600)
    config = tmp_path / "agent.toml"
    config.write_text(f'[mqtt]\nhost = "localhost"\nport = {site.port}\nusername = "pi"\ndevice = "pi"\n')
    config.chmod(0o600)
    found = examine("--config", config)
    assert all(name in found.the("credentials")["says"] for name in ("mqtt_password", "mqtt_ca", "mqtt_key"))
    assert found.the("broker")["level"] == "ok"

    (store / "popexd-agent.mqtt_password").unlink()
    assert examine("--config", config).the("broker")["level"] == "fail"


def test_a_store_that_is_closed_to_us_is_told(examine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account without a password, as whoever may not look: who may, stands beside it."""
    monkeypatch.setattr(files, "CREDENTIALS", tmp_path)
    monkeypatch.setattr(files.os, "access", lambda path, mode: Path(path) != tmp_path and path.exists())
    config = tmp_path / "agent.toml"
    config.write_text(f'[mqtt]\nport = {free_port()}\nusername = "pi"\n')
    told = examine("--config", config).the("credentials")
    assert told["level"] == "warn"
    assert told["do"] == f"sudo popexd doctor --config {config}"

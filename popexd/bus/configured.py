"""From a broker's table in the configuration to the transport's settings."""

from __future__ import annotations

import hashlib

from popexd.bus.mqtt import MqttSettings
from popexd.bus.queued import QueueLimits
from popexd.config import Broker

_ROUNDS = 20_000


def mqtt_settings(
    broker: Broker, client_id: str = "", limits: QueueLimits | None = None, session_seconds: int = 0
) -> MqttSettings:
    """Return the transport's settings; the password is read from its file now.

    Raises:
        ConfigurationError: the password cannot be read.

    """
    password = broker.password()
    return MqttSettings(
        host=broker.host,
        port=broker.port,
        client_id=_unguessable(client_id, password) if client_id and password else client_id,
        username=broker.username,
        password=password,
        tls=broker.encrypted,
        ca_file=broker.ca_file if broker.encrypted else None,
        cert_file=broker.cert_file,
        key_file=broker.key_file,
        keepalive_seconds=broker.keepalive_seconds,
        session_seconds=session_seconds,
        limits=limits or QueueLimits(),
    )


def _unguessable(client_id: str, password: str) -> str:
    """Return the identifier with what only the password's owner can add, the same after every start.

    A broker throws out whoever is connected when another comes under the same identifier, whatever account it has.
    """
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), client_id.encode(), _ROUNDS, dklen=6)
    return f"{client_id}-{digest.hex()}"

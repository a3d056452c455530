"""From a broker's table in the configuration to the transport's settings."""

from __future__ import annotations

from popexd.bus.mqtt import MqttSettings
from popexd.bus.queued import QueueLimits
from popexd.config import Broker


def mqtt_settings(broker: Broker, client_id: str = "", limits: QueueLimits | None = None) -> MqttSettings:
    """Return the transport's settings; the password is read from its file now.

    Raises:
        ConfigurationError: the password cannot be read.

    """
    return MqttSettings(
        host=broker.host,
        port=broker.port,
        client_id=client_id,
        username=broker.username,
        password=broker.password(),
        tls=broker.encrypted,
        ca_file=broker.ca_file if broker.encrypted else None,
        cert_file=broker.cert_file,
        key_file=broker.key_file,
        keepalive_seconds=broker.keepalive_seconds,
        limits=limits or QueueLimits(),
    )

"""What the log says of a connection that ended, and of one that never came about."""

from __future__ import annotations

from structlog.testing import capture_logs

from broker.process import Broker, free_port
from popexd.bus.mqtt import MqttBus, MqttSettings
from tests.bus.waiting import PATIENCE_SECONDS, until


def test_what_never_was_cannot_be_lost() -> None:
    """A broker that is not there yet is `connection.failed`; one that went away is `connection.lost`."""
    port = free_port()
    bus = MqttBus(MqttSettings(port=port))
    with capture_logs() as lines:
        bus.start()
        until(lambda: bool(lines), "the first attempt")
        assert [(line["event"], line["log_level"]) for line in lines] == [("connection.failed", "warning")]
        with Broker(port=port):
            bus.wait_connected(PATIENCE_SECONDS)
        until(lambda: any(line["event"] == "connection.lost" for line in lines), "its being told")
        bus.stop()

"""The worker's thread: a fault of its own costs the message at hand, and nothing after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cloud_worker.engine import Engine, Outcome
from cloud_worker.worker import Worker
from popexd.bus import Message
from popexd.bus.memory import MemoryBroker, MemoryBus
from popexd.config import WorkerConfig
from popexd.protocol.messages import WorkerMetrics
from popexd.protocol.replies import ProbeReply, Reply, probe
from popexd.protocol.topics import SiteTopics
from tests.bus.waiting import until

from .messages import bundle, message

SITE = SiteTopics("lab")
TENSORS, PROBES = SITE.tensors("cloud", bundle().name), SITE.tensors("cloud", "probe")


class Fragile(Engine):
    """Comes to grief over messages of a certain length, as a bug would."""

    poison = b""

    def handle(self, payload: bytes, queue_seconds: float) -> Outcome:
        """Serve, or fail."""
        if payload == self.poison:
            raise RuntimeError("nobody has thought\nof this")
        return super().handle(payload, queue_seconds)


class Site:
    """A worker on a broker in memory, and a device that listens."""

    def __init__(self, folder: Path) -> None:
        self.broker = MemoryBroker()
        config = {"worker": {"name": "w1"}, "mqtt": {"site": "lab"}, "metrics": {"interval_seconds": 0.1}}
        runtime = {"threads": 1, "cache_folder": str(folder)}
        self.worker = Worker(
            WorkerConfig.model_validate({**config, "runtime": runtime}), lambda _config, will: self.broker.bus(will)
        )
        self.device: MemoryBus = self.broker.bus()
        self.heard: list[Message] = []
        self.device.subscribe(SITE.reply("box"), self.heard.append)
        self.device.subscribe(SITE.probe_reply("box"), self.heard.append)
        self.device.subscribe(SITE.worker("w1", "metrics"), self.heard.append)
        self.device.start()
        self.worker.start()

    def on(self, topic: str) -> list[bytes]:
        """What came on a topic."""
        return [each.payload for each in self.heard if each.topic == topic]

    def replies(self) -> dict[str, Reply]:
        """The answers, by frame."""
        found = [Reply.from_bytes(payload) for payload in self.on(SITE.reply("box"))]
        return {reply.frame_id: reply for reply in found}

    def metrics(self) -> WorkerMetrics:
        """The newest figures."""
        return WorkerMetrics.from_bytes(self.on(SITE.worker("w1", "metrics"))[-1])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A worker that serves."""
    one = Site(tmp_path_factory.mktemp("cache"))
    yield one
    assert one.worker.stop()
    one.device.stop()


def test_a_fault_while_serving_is_told_counted_and_survived(site: Site) -> None:
    """One line in the log, an error reply for the sender, one more in the books; the next tensor is answered."""
    engine = site.worker._engine
    fragile = Fragile(engine.runners, "w1", engine.tier, engine._limits, engine._frame_limits)
    fragile.poison = message(frame_id="boot-7", attempt=2).to_bytes()
    site.worker._engine = fragile
    with capture_logs() as lines:
        site.device.publish(TENSORS, fragile.poison, qos=1)
        site.device.publish(TENSORS, message(frame_id="boot-8").to_bytes(), qos=1)
        until(lambda: "boot-8" in site.replies(), "the next answer")

    told = site.replies()["boot-7"]
    assert (told.status, told.error, told.attempt) == ("error", "internal", 2)
    assert site.replies()["boot-8"].status == "ok"
    (line,) = [line for line in lines if line["event"] == "worker.failed"]
    assert line["log_level"] == "error"
    assert line["detail"].startswith("RuntimeError: nobody has thought of this (test_worker.py:")
    assert "exc_info" not in line
    until(lambda: site.metrics().tensors.rejected.get("internal") == 1, "the books")
    counts = site.metrics().tensors
    assert counts.received == counts.answered + sum(counts.rejected.values())


def test_a_fault_while_reporting_is_survived_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that fails us when metrics are due, and when a probe is answered."""

    def fails(*_arguments: object, **_named: object) -> None:
        raise OSError("no more of that")

    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(site.worker.bus, "retain", fails)
        patch.setattr(site.worker.bus, "publish", fails)
        site.device.publish(PROBES, probe(1, 100, "box"), qos=1)
        until(lambda: len([line for line in lines if line["event"] == "worker.failed"]) >= 2, "both being told")
    site.device.publish(PROBES, probe(2, 100, "box"), qos=1)
    until(lambda: site.on(SITE.probe_reply("box")), "the echo of the next")

    assert [ProbeReply.from_bytes(each).seq for each in site.on(SITE.probe_reply("box"))] == [2]
    until(lambda: site.metrics().tensors.rejected.get("probe-internal") == 1, "the books")

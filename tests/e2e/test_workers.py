"""Workers on a real broker: rubbish is counted, load is shared, an edge worker sends on to the cloud."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from popexd.bundle import Bundle, write
from popexd.plan import Tier
from popexd.protocol import codec
from popexd.protocol.messages import WorkerState
from popexd.protocol.replies import ProbeReply, Reply, probe
from popexd.protocol.tensors import Stage, TensorMessage
from tests.cloud_worker.messages import message, rest, whole

from .rig import BUSY, TENSORS, TOPICS, Rig, Watch, bundle, photo

TO_CLOUD = TOPICS.tensors("cloud", bundle().name)


@dataclass
class Pool:
    """A worker, and who plays the devices."""

    watch: Watch

    def publish(self, payload: bytes, topic: str = TO_CLOUD) -> None:
        """Hand the worker some bytes."""
        self.watch.bus.publish(topic, payload, qos=1)

    def replies(self, frame_id: str) -> list[Reply]:
        """What came back about a frame."""
        found = [Reply.from_bytes(each.payload) for each in self.watch.messages(TOPICS.reply(TOPICS.device))]
        return [reply for reply in found if reply.frame_id == frame_id]

    def reply(self, frame_id: str) -> Reply:
        """Wait for the one reply about a frame."""
        (found,) = self.watch.until(lambda: self.replies(frame_id), f"the reply to {frame_id}")
        return found

    def rejected(self, reason: str) -> int:
        """How many messages the worker has refused for a reason."""
        return self.watch.worker_metrics("w1").tensors.rejected.get(reason, 0)

    def alive(self, name: str) -> None:
        """See that the next message is answered, and its answer right."""
        self.publish(message(frame_id=name).to_bytes())
        reply = self.reply(name)
        assert reply.status == "ok"
        assert reply.class_index == int(whole().argmax())


@pytest.fixture(scope="module")
def pool(module_rig: Rig) -> Pool:
    """One worker in the cloud that takes messages of up to 600 kB."""
    rig = module_rig
    broker = rig.broker()
    watch = rig.watch(broker.port, "popexd/#", "popexd-data/+/+/reply", "popexd-data/+/+/probe-reply")
    rig.worker(rig.worker_tables(broker.port, limits={"tensor_bytes": 600_000}))
    watch.until(lambda: watch.worker_is("w1", "online"), "the worker")
    return Pool(watch)


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def bad_messages(trace: Path) -> dict[str, tuple[bytes, str]]:
    """Rubbish by name, with the reason for which it is refused."""
    good = message(frame_id="damaged").to_bytes()
    flipped = bytearray(good)
    flipped[-1] ^= 0xFF
    pickled = pickle.dumps(Payload(trace))
    return {
        "empty": (b"", "truncated"),
        "random": (np.random.default_rng(5).bytes(20_000), "header"),
        "truncated": (good[:-1000], "truncated"),
        "oversize": (good + bytes(600_000), "too-large"),
        "wrong checksum": (bytes(flipped), "crc"),
        "a pickle": (pickled, "header"),
        "a pickle as a tensor": (
            message(tensors={"pool2": codec.Encoded(pickled, "f32", "float32", (1, 64, 13, 13))}).to_bytes(),
            "length",
        ),
        "a pickle as a camera's frame": (
            message("input", "camera", tensors={"input": codec.image(pickled, "camera")}).to_bytes(),
            "frame",
        ),
        "text": (b'{"image": "no"}', "header"),
        "wrong route": (message(route=(Stage(Tier.EDGE, rest("pool2")),), frame_id="astray").to_bytes(), "route"),
        "unknown fingerprint": (message(fingerprint="f" * 64, frame_id="unknown").to_bytes(), "fingerprint"),
    }


@pytest.mark.parametrize("kind", bad_messages(Path("none")))
def test_a_bad_message_is_counted_and_the_worker_goes_on(pool: Pool, tmp_path: Path, kind: str) -> None:
    """Dropped, counted by reason, nothing executed; the next good one is answered."""
    trace = tmp_path / "executed"
    payload, reason = bad_messages(trace)[kind]
    before, received = pool.rejected(reason), pool.watch.worker_metrics("w1").tensors.received
    pool.publish(payload)

    pool.watch.until(lambda: pool.rejected(reason) == before + 1, f"a refusal for {reason}")
    pool.alive(f"after {kind}")
    counts = pool.watch.until(
        lambda: found if (found := pool.watch.worker_metrics("w1").tensors).received == received + 2 else None, "both"
    )
    refused = sum(count for reason, count in counts.rejected.items() if not reason.startswith("probe-"))
    assert counts.received == counts.answered + refused
    assert not trace.exists()


def test_a_sender_that_is_known_is_told(pool: Pool) -> None:
    """A refusal goes back about the very attempt where the envelope can be read."""
    pool.publish(message(fingerprint="e" * 64, frame_id="told", attempt=2).to_bytes())
    reply = pool.reply("told")

    assert (reply.status, reply.error, reply.attempt, reply.worker) == ("error", "fingerprint", 2, "w1")


@pytest.mark.parametrize("payload", [b"", b"\xff" * 3000, b"{}\n", b'{"schema": "popexd/probe/1", "seq": "x"}\n'])
def test_a_bad_probe_is_counted(pool: Pool, payload: bytes) -> None:
    """Never answered, never fatal."""

    def counted() -> int:
        counts = pool.watch.worker_metrics("w1").tensors.rejected
        return sum(count for reason, count in counts.items() if reason.startswith("probe-"))

    before = counted()
    pool.publish(payload, TOPICS.probe("cloud"))
    pool.watch.until(lambda: counted() == before + 1, "the refusal")


def test_a_probe_comes_back_with_its_size(pool: Pool) -> None:
    """To the device that sent it, with the time the worker held it."""
    pool.publish(probe(77, 10_000, TOPICS.device), TOPICS.probe("cloud"))
    (echo,) = pool.watch.until(lambda: pool.watch.payloads(TOPICS.probe_reply(TOPICS.device), ProbeReply), "the echo")

    assert (echo.seq, echo.size_bytes, echo.worker) == (77, 10_000, "w1")
    assert echo.seconds >= 0


def test_two_workers_split_the_load(rig: Rig) -> None:
    """Of one tier and model, each gets its share."""
    broker = rig.broker()
    watch = rig.watch(broker.port)
    for name in ("left", "right"):
        rig.worker(rig.worker_tables(broker.port, name))
    rig.agent(rig.agent_tables(broker.port))
    watch.until(lambda: len(watch.events("worker.found")) >= 2, "both workers")
    watch.cut_is("input")

    watch.at_rest(sum(watch.finished("cloud", f"f{index}", photo(index % 4))[1] for index in range(12)))

    def answered(name: str) -> int:
        return watch.worker_metrics(name).tensors.answered

    watch.until(lambda: answered("left") + answered("right") >= 12, "both workers' books")
    assert answered("left") > 0
    assert answered("right") > 0


def test_a_worker_that_leaves_drops_nothing(rig: Rig) -> None:
    """Stopped in turns and started again, among messages that never pause: each has its one reply."""
    broker = rig.broker()
    watch = rig.watch(broker.port, "popexd/#", "popexd-data/+/+/reply")
    tables = {name: rig.worker_tables(broker.port, name) for name in ("left", "right")}
    workers = {name: rig.program("worker", each) for name, each in tables.items()}
    pool, ship = Pool(watch), partial(message, "pool5", "q8+zstd")
    stopped, sent = threading.Event(), 0

    def replies() -> int:
        return len(watch.messages(TOPICS.reply(TOPICS.device)))

    def publish() -> None:
        nonlocal sent
        while not stopped.wait(0.001):
            if sent - replies() < 12:  # fewer than a broker sends unacknowledged: it has no queue for anybody
                pool.publish(ship(frame_id=f"m{sent}").to_bytes())
                sent += 1

    for name in workers:
        watch.until(partial(watch.worker_is, name, "online"), name)
    publisher = threading.Thread(target=publish)
    publisher.start()
    for name in ("left", "right") * 3:
        watch.until(partial(lambda least: replies() >= least, replies() + 50), "replies")
        assert workers[name].terminate() == 0
        workers[name] = rig.program("worker", tables[name])
        watch.until(partial(watch.worker_is, name, "online"), name)
    stopped.set()
    publisher.join()
    watch.until(lambda: replies() >= sent, "every reply")
    assert replies() == sent


def test_the_edge_sends_on_to_the_cloud(rig: Rig) -> None:
    """A route of two stages: the edge's worker forwards, the cloud's answers with the whole model's logits."""
    broker = rig.broker()
    watch = rig.watch(broker.port, "popexd/#", TOPICS.reply(TOPICS.device), TENSORS)
    rig.worker(rig.worker_tables(broker.port, "near", worker={"name": "near", "tier": "edge"}))
    rig.worker(rig.worker_tables(broker.port, "far"))
    watch.until(lambda: watch.worker_is("near", "online") and watch.worker_is("far", "online"), "the workers")
    route = (Stage(Tier.EDGE, ("conv3", "conv4"), "f32"), Stage(Tier.CLOUD, rest("conv4")))
    watch.bus.publish(TOPICS.tensors("edge", bundle().name), message("pool2", route=route).to_bytes(), qos=1)

    (reply,) = watch.until(lambda: watch.payloads(TOPICS.reply(TOPICS.device), Reply), "the reply")
    assert (reply.status, reply.worker, reply.tier, reply.exit) == ("ok", "far", "cloud", "final")
    np.testing.assert_array_equal(np.asarray(reply.logits, np.float32), whole())
    assert reply.seconds["edge"] > 0
    (forwarded,) = watch.messages(TENSORS)
    assert list(TensorMessage.from_bytes(forwarded.payload).tensors) == ["conv4"]
    watch.until(lambda: watch.worker_metrics("near").tensors.forwarded == 1, "the edge's books")
    watch.until(lambda: watch.worker_metrics("far").tensors.answered == 1, "the cloud's books")
    edge = watch.last(TOPICS.worker("near", "state"), WorkerState)
    assert edge is not None
    assert edge.tier == "edge"


def other_edition(folder: Path) -> Bundle:
    """The same model under the same name, trained another time: another fingerprint."""
    facts = {**bundle().facts, "training": {"epochs": 1}}
    facts.pop("fingerprint")
    files = {name: (bundle().folder / name).read_bytes() for name in _files(facts)}
    return write(folder, facts, files)


def test_a_worker_with_another_edition_of_the_model_costs_no_answer(rig: Rig, tmp_path: Path) -> None:
    """It shares our model's name and so our topic, says that it does not hold our fingerprint, and we finish here."""
    other = other_edition(tmp_path / "other")
    assert (other.name, other.fingerprint != bundle().fingerprint) == (bundle().name, True)
    broker = rig.broker()
    watch = rig.watch(broker.port)
    rig.worker(rig.worker_tables(broker.port, "mine"))
    rig.worker(rig.worker_tables(broker.port, "theirs", model={"bundle": str(other.folder)}))
    rig.agent(rig.agent_tables(broker.port))
    watch.cut_is("input")

    for index in range(8):
        watch.send("c0", photo(index % 4), f"f{index}")
        answer = watch.answer(f"f{index}")
        assert (answer.tier, answer.fallback) == ("cloud", None) or answer.fallback in ("worker-error", None, *BUSY)
        watch.planned("input")
    metrics = watch.at_rest(8)

    assert metrics.tiers["cloud"] > 0
    assert metrics.fallbacks["worker-error"] > 0
    assert {each["reason"] for each in watch.events("offload.failed")} - set(BUSY) == {"fingerprint"}
    watch.until(lambda: "fingerprint" in watch.worker_metrics("theirs").tensors.rejected, "the other one's books")
    (told,) = watch.events("worker.mismatched")
    assert (told["worker"], told["tier"]) == ("theirs", "cloud")
    assert told["models"] == {other.name: other.fingerprint}
    assert told["expected"] == {bundle().name: bundle().fingerprint}


def _files(facts: Mapping[str, Any]) -> list[str]:
    return [each["file"] for each in (*facts["segments"], *facts["exits"], facts["validation"])]

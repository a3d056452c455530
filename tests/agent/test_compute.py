"""The compute thread: orders carried out one after the other, tensors kept between them, faults told."""

from __future__ import annotations

import io
import queue
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from agent.compute import Compute
from popexd.coordinator.events import Forget, Run, RunDone, RunFailed
from popexd.protocol import codec
from popexd.runtime.frames import FrameLimits
from popexd.runtime.segments import SegmentRunner
from tests.cloud_worker.messages import bundle, frame, names, pixels, rest, runner, whole


@dataclass
class Bench:
    """A compute thread and what it has posted."""

    runner: SegmentRunner
    posted: queue.Queue[RunDone | RunFailed] = field(default_factory=queue.Queue)
    compute: Compute = field(init=False)

    def __post_init__(self) -> None:
        """Put them together."""
        self.compute = Compute(self.runner, FrameLimits(), None, self.posted.put)

    def carry_out(self, order: Run) -> RunDone | RunFailed:
        """Hand an order over and wait for its outcome."""
        self.compute.order(order)
        return self.posted.get(timeout=60)

    def done(self, order: Run) -> RunDone:
        """The same; it must succeed."""
        outcome = self.carry_out(order)
        assert isinstance(outcome, RunDone), outcome
        return outcome


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A thread with the default model."""
    made = Bench(SegmentRunner(bundle(), 1))
    made.compute.start()
    yield made
    made.compute.stop()


def test_a_frame_goes_from_bytes_to_an_answer(bench: Bench) -> None:
    """Decoded, run to the end, classified; each part's seconds are told, and those not spent are zero."""
    done = bench.done(Run(1, tuple(names()), "final", None, decode=True, payload=frame()))

    assert done.classified is not None
    assert done.classified.class_index == int(whole().argmax())
    assert done.classified.label == bundle().classes[done.classified.class_index]
    assert done.image_bytes == len(frame())
    assert done.shipment_bytes is None
    assert min(done.decode_seconds, done.device_seconds) > 0
    assert done.encode_seconds == 0


def test_it_goes_on_from_what_it_kept(bench: Bench) -> None:
    """Step by step, with a branch asked on the way: the end is the whole model's, and no segment ran twice."""
    bench.done(Run(1, ("pool1",), "b1", None, decode=True, payload=frame()))
    bench.done(Run(1, ("pool2", "conv3"), "b3", None))
    done = bench.done(Run(1, rest("conv3"), "final", None))

    assert done.classified is not None
    assert done.classified.class_index == int(whole().argmax())
    assert done.image_bytes is None
    assert {name: bench.runner.executions[name] for name in names()} == dict.fromkeys(names(), 1)


def test_nothing_runs_after_an_exit(bench: Bench) -> None:
    """An order ends with its exit; what comes later is never touched."""
    bench.done(Run(1, ("pool1",), "b1", None, decode=True, payload=frame()))

    assert bench.runner.executions == {"pool1": 1, "b1": 1}


def test_a_shipment_is_what_is_live_at_the_cut(bench: Bench) -> None:
    """Encoded tensors are handed over until the frame is forgotten; the device may still finish from what it kept."""
    done = bench.done(Run(1, ("pool1", "pool2"), None, "f32", decode=True, payload=frame()))
    shipment = bench.compute.shipment(1)

    assert list(shipment) == ["pool2"]
    assert done.shipment_bytes is not None
    assert done.shipment_bytes > shipment["pool2"].size_bytes
    expected = runner().run({"input": pixels()}, ["pool1", "pool2"])["pool2"]
    np.testing.assert_array_equal(codec.decode(shipment["pool2"]), expected)
    finished = bench.done(Run(1, rest("pool2"), "final", None))
    assert finished.classified is not None
    assert finished.classified.class_index == int(whole().argmax())

    bench.compute.order(Forget(1))
    bench.done(Run(2, (), None, "camera", payload=frame()))
    with pytest.raises(KeyError):
        bench.compute.shipment(1)


def test_the_cameras_bytes_are_sent_on_untouched(bench: Bench) -> None:
    """Not decoded, not run; and if it must, the device finishes from them later."""
    done = bench.done(Run(1, (), None, "camera", payload=frame()))

    assert bench.compute.shipment(1)["input"].data == frame()
    assert (done.decode_seconds, done.device_seconds) == (0, 0)
    assert not bench.runner.executions
    finished = bench.done(Run(1, tuple(names()), "final", None, decode=True))
    assert finished.classified is not None
    assert finished.classified.class_index == int(whole().argmax())


def test_a_frame_at_the_networks_size_is_sent_as_an_image(bench: Bench) -> None:
    """Decoded, resized and encoded again, smaller than it came."""
    bench.done(Run(1, (), None, "jpeg-75", decode=True, payload=frame()))
    sent = bench.compute.shipment(1)["input"]

    assert sent.codec == "jpeg-75"
    assert pixels(sent.data).shape == pixels().shape


def test_an_unusable_frame_is_told_with_its_reason(bench: Bench) -> None:
    """At the first look, or when it is decoded."""
    first = bench.carry_out(Run(1, (), None, "camera", payload=b"no image"))
    assert isinstance(first, RunFailed)
    assert (first.key, first.unusable, first.reason) == (1, True, "type")

    stream = io.BytesIO()
    Image.fromarray(pixels()[0]).save(stream, "PNG")
    half = stream.getvalue()[: len(stream.getvalue()) // 2]
    late = bench.carry_out(Run(2, tuple(names()), "final", None, decode=True, payload=half))
    assert isinstance(late, RunFailed)
    assert (late.key, late.unusable, late.reason) == (2, True, "truncated")


def test_a_segment_that_fails_is_no_fault_of_the_frame(bench: Bench) -> None:
    """The thread goes on with the next order."""
    for order in (Run(1, ("conv3",), None, None, decode=True, payload=frame()), Run(9, ("conv3",))):
        failed = bench.carry_out(order)
        assert isinstance(failed, RunFailed)
        assert (failed.unusable, failed.reason) == (False, "compute")

    bench.done(Run(2, tuple(names()), "final", None, decode=True, payload=frame()))

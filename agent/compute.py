"""The compute thread: opens and decodes frames, runs segments, encodes what leaves. It owns what it keeps per frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from popexd.coordinator.corrections import ENVELOPE_BYTES
from popexd.coordinator.events import Classified, Forget, Run, RunDone, RunFailed
from popexd.errors import FrameRejected, PopexdError
from popexd.logs import get_logger
from popexd.protocol import codec
from popexd.protocol.codec import Encoded
from popexd.runtime import frames
from popexd.runtime.background import MachineProfile
from popexd.runtime.segments import SegmentRunner
from popexd.validation import FINAL

log = get_logger("agent.compute")

_NOTHING = Forget(-1)


@dataclass
class _Work:
    """What is kept of one frame until it is answered."""

    payload: bytes
    image: bytes | None = None
    tensors: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    quality: str | None = None


class Compute:
    """Carries out one order after the other and posts each outcome.

    `shipment(key)` hands encoded tensors over: the thread writes them before it posts `RunDone` and does not touch them
    again before `Forget`, so they may be read from another thread in between.

    Arguments:
        runner: the model.
        limits: what a frame may be.
        pace: laboratory: the profile of a slower machine; every order takes what it would take there, and says so.
        post: takes the outcome; called on this thread.

    """

    def __init__(
        self,
        runner: SegmentRunner,
        limits: frames.Limits,
        pace: MachineProfile | None,
        post: Callable[[RunDone | RunFailed], None],
    ) -> None:
        self.runner = runner
        self.progress = 0
        self._limits = limits
        self._pace = pace
        self._post = post
        self._orders: SimpleQueue[Run | Forget | None] = SimpleQueue()
        self._works: dict[int, _Work] = {}
        self._shipments: dict[int, dict[str, Encoded]] = {}
        self._thread = threading.Thread(target=self._serve, name="compute", daemon=True)

    def start(self) -> None:
        """Begin to carry out orders."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the order at hand and end."""
        self._orders.put(None)
        self._thread.join(10)

    def order(self, what: Run | Forget) -> None:
        """Take an order; returns at once."""
        self._orders.put(what)

    def heartbeat(self) -> int:
        """Return how many orders were carried out; an idle thread is given one that changes nothing."""
        if self._orders.empty():
            self._orders.put(_NOTHING)
        return self.progress

    def shipment(self, key: int) -> dict[str, Encoded]:
        """Return the encoded tensors of a frame, after `RunDone` told of them."""
        return self._shipments[key]

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            if isinstance(order, Forget):
                self._works.pop(order.key, None)
                self._shipments.pop(order.key, None)
            else:
                self._post(self._outcome(order))
            self.progress += 1

    def _outcome(self, order: Run) -> RunDone | RunFailed:
        try:
            return self._carry_out(order)
        except FrameRejected as error:
            return RunFailed(order.key, True, error.reason, error.detail)
        except PopexdError as error:
            return RunFailed(order.key, False, "compute", str(error))
        except Exception as error:
            log.exception("order.failed", key=order.key)
            return RunFailed(order.key, False, "compute", f"{type(error).__name__}: {error}")

    def _carry_out(self, order: Run) -> RunDone:
        started = time.perf_counter()
        work = self._works.get(order.key)
        if work is None:
            assert order.payload is not None
            work = self._works[order.key] = _Work(order.payload)
        first = work.image is None
        if work.image is None:
            work.image = frames.sniff(work.payload, self._limits).data
            work.payload = b""
        if order.decode:
            size = self.runner.bundle.input
            pixels = frames.load_image(work.image, size.height, size.width, self._limits.frame_pixels)
            work.tensors = {"input": pixels}
            if self.runner.bundle.quality is not None:
                work.quality = self.runner.bundle.quality.classify(pixels)
        decoded = time.perf_counter()
        if order.segments:
            work.tensors = self.runner.run(work.tensors, order.segments)
        classified = self._classify(order, work)
        ran = time.perf_counter()
        shipment_bytes = self._encode(order, work)
        done = time.perf_counter()
        factor = self._brake(order, done - started)
        return RunDone(
            key=order.key,
            decode_seconds=factor * (decoded - started) if order.decode else 0.0,
            device_seconds=factor * (ran - decoded) if order.segments or order.exit is not None else 0.0,
            encode_seconds=factor * (done - ran) if order.codec is not None else 0.0,
            classified=classified,
            image_bytes=len(work.image) if first else None,
            shipment_bytes=shipment_bytes,
            quality=work.quality,
        )

    def _brake(self, order: Run, seconds: float) -> float:
        """Laboratory: sleep until the order took what the slower machine takes; return how much longer that was.

        What it takes is the profile's, not so many times what was measured just now: a hiccup is not to grow along.
        """
        if self._pace is None:
            return 1.0
        goal = self._pace_seconds(self._pace, order)
        time.sleep(max(0.0, goal - seconds))
        return max(1.0, goal / seconds)

    def _pace_seconds(self, pace: MachineProfile, order: Run) -> float:
        seconds = sum(pace.segments[name] for name in order.segments)
        if order.exit is not None and order.exit != FINAL:
            seconds += pace.exits[order.exit]
        if order.decode:
            seconds += pace.frame_seconds
        if order.codec is not None and order.codec != "camera":
            ran = order.segments[-1] if order.segments else "input"
            seconds += pace.encode.get(ran, {}).get(order.codec, 0.0)
        return seconds

    def _classify(self, order: Run, work: _Work) -> Classified | None:
        if order.exit is None:
            return None
        bundle = self.runner.bundle
        last = bundle.segments[-1].name
        after = last if order.exit == FINAL else next(spec.after for spec in bundle.exits if spec.name == order.exit)
        said = self.runner.classify(order.exit, work.tensors[after], work.quality)
        return Classified(said.class_index, bundle.classes[said.class_index], said.confidence, said.certainty)

    def _encode(self, order: Run, work: _Work) -> int | None:
        if order.codec is None:
            return None
        assert work.image is not None
        if order.codec == "camera":
            encoded = {"input": codec.image(work.image, "camera")}
        elif codec.is_image_codec(order.codec):
            pixels = work.tensors["input"]
            encoded = {"input": codec.image(frames.encode_image(pixels, order.codec), order.codec)}  # type: ignore[arg-type]
        else:
            encoded = {name: codec.encode(tensor, order.codec) for name, tensor in work.tensors.items()}
        self._shipments[order.key] = encoded
        return ENVELOPE_BYTES + sum(tensor.size_bytes for tensor in encoded.values())

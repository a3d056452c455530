"""What a worker does with one message: check it, run its stage, answer or send on. No bus, no thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from popexd.bundle import Bundle
from popexd.errors import FrameRejected, MessageRejected, PopexdError
from popexd.logs import fault, get_logger
from popexd.plan import Tier
from popexd.protocol import codec
from popexd.protocol.replies import Reply, Sender
from popexd.protocol.tensors import Stage, TensorLimits, TensorMessage, TensorRejected
from popexd.runtime import frames
from popexd.runtime.background import MachineProfile
from popexd.runtime.segments import Classification, InferenceError, SegmentRunner
from popexd.validation import FINAL

log = get_logger("worker")

INTERNAL = "internal"
"""The reason for which a message is refused that the worker could not serve for a fault of its own."""

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Answered:
    """The reply to send to a device."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The message to send to the next tier of its route, for the model of this name."""

    message: TensorMessage
    tier: Tier
    model: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a message cannot be used, and the error reply where a sender is known."""

    reason: str
    detail: str
    reply: Reply | None = None


Outcome = Answered | Forwarded | Refused


class Engine:
    """Serves one tier with any number of models; stateless from message to message.

    Arguments:
        runners: by fingerprint.
        worker: this worker's name.
        tier: edge or cloud.
        limits: what a tensor message may be.
        frame_limits: what a camera's frame inside one may be.
        paces: laboratory: by fingerprint, the profile of a slower machine; every message takes what it would take
            there, and says so.

    """

    def __init__(
        self,
        runners: Mapping[str, SegmentRunner],
        worker: str,
        tier: Tier,
        limits: TensorLimits,
        frame_limits: frames.Limits,
        paces: Mapping[str, MachineProfile] | None = None,
    ) -> None:
        self.runners = runners
        self.worker = worker
        self.tier = tier
        self._limits = limits
        self._frame_limits = frame_limits
        self._paces = paces or {}

    def handle(self, payload: bytes, queue_seconds: float) -> Outcome:
        """Carry out one message that waited `queue_seconds`; nothing that it holds can raise."""
        begun = time.perf_counter()
        try:
            message = TensorMessage.from_bytes(payload, self._limits)
        except TensorRejected as error:
            return self._refused(error.sender, error)
        except MessageRejected as error:
            return self._refused(None, error)
        except Exception as error:  # noqa: BLE001 a fault of ours costs one message
            log.error("message.failed", detail=fault(error))  # noqa: TRY400 one line
            return self._refused(None, MessageRejected(INTERNAL, type(error).__name__))
        try:
            return self._carry_out(message, len(payload), queue_seconds, begun)
        except MessageRejected as error:
            return self._refused(message.sender, error)
        except FrameRejected as error:
            return self._refused(message.sender, MessageRejected("frame", str(error)))
        except InferenceError as error:
            return self._refused(message.sender, MessageRejected("tensors", str(error)))
        except PopexdError as error:
            return self._refused(message.sender, MessageRejected("compute", str(error)))
        except Exception as error:  # noqa: BLE001 a fault of ours costs one message
            log.error("message.failed", detail=fault(error))  # noqa: TRY400 one line
            return self._refused(message.sender, MessageRejected(INTERNAL, type(error).__name__))

    def failed(self, payload: bytes) -> Refused:
        """Return what to tell of a message that could not be served, for no fault of its own."""
        try:
            sender = TensorMessage.from_bytes(payload, self._limits).sender
        except Exception:  # noqa: BLE001 then there is nobody to tell
            sender = None
        return self._refused(sender, MessageRejected(INTERNAL, "the worker failed"))

    def _refused(self, sender: Sender | None, error: MessageRejected) -> Refused:
        reply = None
        if sender is not None:
            reply = Reply.failure(sender, self.worker, self.tier.label, error.reason, error.detail)  # type: ignore[arg-type]
        return Refused(error.reason, error.detail, reply)

    def _carry_out(self, message: TensorMessage, size: int, queue_seconds: float, begun: float) -> Outcome:
        runner = self.runners.get(message.fingerprint)
        if runner is None:
            raise MessageRejected("fingerprint", f"{message.fingerprint[:16]} is not served here")
        stage = message.route[0]
        if stage.tier is not self.tier:
            raise MessageRejected("route", f"the next stage is the {stage.tier.label}, this is the {self.tier.label}")
        if queue_seconds > message.deadline_seconds:
            raise MessageRejected("late", f"waited {queue_seconds:.3f} s, {message.deadline_seconds:.3f} s were left")
        last = runner.bundle.segments[-1].name
        if len(message.route) == 1 and last not in stage.segments:
            raise MessageRejected("route", f"the route ends before {last!r}, the model's last segment")
        tensors = self._decoded(message, runner)
        decoded = time.perf_counter()
        tensors, left_at, said = self._run(stage, tensors, runner, message.quality)
        ran = time.perf_counter()
        seconds = {"decode": decoded - begun, "compute": ran - decoded}
        if (pace := self._paces.get(message.fingerprint)) is not None:
            seconds = _braked(seconds, pace, message, left_at, runner.bundle)
            time.sleep(max(0.0, sum(seconds.values()) - (ran - begun)))
        seconds["queue"] = queue_seconds
        if said is not None:
            return Answered(self._reply(message, size, {**message.seconds, **seconds}, left_at, said))
        return self._forward(message, stage, tensors, sum(seconds.values()), runner.bundle.name)

    def _decoded(self, message: TensorMessage, runner: SegmentRunner) -> Tensors:
        found: Tensors = {}
        for name, tensor in message.tensors.items():
            if codec.is_image_codec(tensor.codec):
                image = frames.sniff(tensor.data, self._frame_limits)
                size = runner.bundle.input
                found[name] = frames.load_image(image.data, size.height, size.width, self._frame_limits.frame_pixels)
            else:
                found[name] = codec.decode(tensor, self._limits.elements)
        return found

    def _run(
        self, stage: Stage, tensors: Tensors, runner: SegmentRunner, quality: str | None
    ) -> tuple[Tensors, str, Classification | None]:
        """Run a stage; branches of it are asked on the way, and the answer stands where one is sure."""
        after = {spec.after: spec.name for spec in runner.bundle.exits if spec.name in stage.exits}
        pending: list[str] = []
        last = runner.bundle.segments[-1].name
        order = [segment.name for segment in runner.bundle.segments if segment.name in stage.segments]
        if len(order) != len(stage.segments):
            raise MessageRejected("route", "names segments that the model does not have")
        for name in order:
            pending.append(name)
            branch = after.get(name)
            if branch is None:
                continue
            tensors = runner.run(tensors, pending)
            pending.clear()
            said = runner.classify(branch, tensors[name], quality)
            if said.certainty >= stage.exits[branch]:
                return tensors, branch, said
        tensors = runner.run(tensors, pending) if pending else tensors
        if last in order:
            return tensors, FINAL, runner.classify(FINAL, tensors[last])
        return tensors, FINAL, None

    def _reply(
        self, message: TensorMessage, size: int, seconds: Mapping[str, float], left_at: str, said: Classification
    ) -> Reply:
        bundle = self.runners[message.fingerprint].bundle
        return Reply(
            frame_id=message.frame_id,
            device=message.device,
            plan_id=message.plan_id,
            attempt=message.attempt,
            worker=self.worker,
            tier=self.tier.label,  # type: ignore[arg-type]
            status="ok",
            class_index=said.class_index,
            label=bundle.classes[said.class_index],
            confidence=said.confidence,
            exit=left_at,
            logits=_floats(said.logits),
            seconds=dict(seconds),
            bytes=size,
        )

    def _forward(self, message: TensorMessage, stage: Stage, tensors: Tensors, spent: float, model: str) -> Forwarded:
        if len(message.route) < 2:
            raise MessageRejected("route", "ends without an answer")
        begun = time.perf_counter()
        encoded = {name: codec.encode(tensor, stage.codec or "f32") for name, tensor in tensors.items()}
        spent += time.perf_counter() - begun
        onward = replace(
            message,
            route=message.route[1:],
            tensors=encoded,
            deadline_seconds=max(0.0, message.deadline_seconds - spent),
            seconds={**message.seconds, self.tier.label: spent},
        )
        return Forwarded(onward, onward.route[0].tier, model)


def _braked(
    seconds: Mapping[str, float], pace: MachineProfile, message: TensorMessage, left_at: str, bundle: Bundle
) -> dict[str, float]:
    """Return what decoding and computing take on the slower machine: the profile's word, not a hiccup times so much."""
    stage = message.route[0]
    after = {branch.name: branch.after for branch in bundle.exits}
    order = [segment.name for segment in bundle.segments]
    reached = order.index(after[left_at]) if left_at in after else len(order)
    ran = [name for name in stage.segments if order.index(name) <= reached]
    asked = [name for name in stage.exits if after.get(name) in ran]
    goals = {
        "decode": sum(pace.decode.get(cut, {}).get(tensor.codec, 0.0) for cut, tensor in message.tensors.items()),
        "compute": sum(pace.segments[name] for name in ran) + sum(pace.exits[name] for name in asked),
    }
    return {part: max(taken, goals[part]) for part, taken in seconds.items()}


def _floats(logits: Sequence[float] | NDArray[Any]) -> list[float]:
    return [float(value) for value in logits]

"""Messages in: what arrives on the agent's topics, turned into the brain's events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from popexd.bundle import Bundle
from popexd.bus.base import Message
from popexd.coordinator import events as ev
from popexd.errors import MessageRejected
from popexd.logs import get_logger
from popexd.plan import Tier
from popexd.protocol.messages import RequestPayload, WorkerProfile, WorkerState
from popexd.protocol.payload import parse_json
from popexd.protocol.replies import ProbeReply, Reply
from popexd.protocol.topics import REQUEST_VERBS, DeviceTopics
from popexd.runtime.background import MachineProfile
from popexd.validation import FINAL

from .mailbox import FrameArrived

log = get_logger("agent")

_LONGEST_FRAME_ID = 256
_LONGEST_TRANSACTION = 1024
_LONGEST_NAME = 128
_MOST_MODELS = 16
_RETAINED = "retained"
"""What the broker had stored comes again at each connect, however old it is; what is published now never says so."""
_CLIENT = "client"
"""The user property in which whoever sends a request may say who it is."""


def frame_key(boot: str, text: str) -> int:
    """Return the brain's key of a frame id of ours, `<boot>-<key>`.

    Raises:
        MessageRejected: it is not one of this start's.

    """
    prefix, _, number = text.rpartition("-")
    if prefix != boot or not number.isdecimal() or len(number) > 18:
        raise MessageRejected("stranger", f"{text[:80]!r} was not sent by this start of the agent")
    return int(number)


@dataclass
class Inlet:
    """Parses; what cannot be used becomes an event that says why."""

    topics: DeviceTopics
    boot: str
    bundle: Bundle
    _present: dict[str, WorkerState] = field(default_factory=dict)
    _profiles: dict[str, MachineProfile] = field(default_factory=dict)

    def frame(self, arrived: FrameArrived) -> list[ev.Event]:
        """Turn a frame message into events; its payload is not looked at here."""
        message = arrived.message
        try:
            camera = self.topics.camera_of(message.topic)
        except MessageRejected as error:
            return [ev.InputRejected(error.reason, error.detail)] * (1 + arrived.skipped)
        found: list[ev.Event] = [ev.FramesSkipped(camera, arrived.skipped)] if arrived.skipped else []
        if message.retain:
            return [*found, ev.InputRejected(_RETAINED, f"the broker kept a frame of {camera}: publish without retain")]
        frame_id = dict(message.user_properties).get("frame_id") or _text(message.correlation_data)
        if frame_id is not None and len(frame_id) > _LONGEST_FRAME_ID:
            frame_id = None
        receipt = message.receipt
        again = receipt is not None and receipt.again
        frame = ev.FrameReceived(camera, message.payload, frame_id, message.correlation_data, receipt, again)
        return [*found, frame]

    def reply(self, message: Message) -> list[ev.Event]:
        """Turn a worker's answer into an event."""
        if message.retain:
            return [ev.ReplyRejected(_RETAINED)]
        try:
            reply = Reply.from_bytes(message.payload)
            key = frame_key(self.boot, reply.frame_id)
            return [self._replied(key, reply)]
        except MessageRejected as error:
            return [ev.ReplyRejected(error.reason)]

    def probe_reply(self, message: Message) -> list[ev.Event]:
        """Turn a probe's echo into an event."""
        if message.retain:
            return [ev.ReplyRejected(_RETAINED)]
        try:
            reply = ProbeReply.from_bytes(message.payload)
        except MessageRejected as error:
            return [ev.ReplyRejected(error.reason)]
        return [ev.ProbeReturned(reply.seq, reply.seconds)]

    def request(self, message: Message) -> list[ev.Event]:
        """Turn a request into an event; a bad one keeps its transaction so that it can be answered."""
        verb = message.topic.rsplit("/", 1)[-1]
        if message.retain:  # asked once, long ago; nobody waits for an answer
            log.warning("request.rejected", verb=verb[:40], reason=_RETAINED)
            return [ev.RequestRejected(verb, _RETAINED)]
        transaction: Any = None
        try:
            fields = parse_json(message.payload) if message.payload else {}
            transaction = _transaction(fields.get("transaction"))
            RequestPayload.from_bytes(message.payload or b"{}")
            _check_verb(verb)
        except MessageRejected as error:
            asked = _asked(message, transaction)
            detail = error.detail[:200]
            log.warning("request.rejected", verb=verb[:40], reason=error.reason, detail=detail, **asked)
            return [ev.RequestRejected(verb, error.reason, detail, transaction)]
        known = {name: value for name, value in fields.items() if name not in ("schema", "transaction")}
        asked = _asked(message, transaction)
        note = log.debug if verb == "status" else log.info
        note("request.received", verb=verb, keys=", ".join(sorted(known))[:200], **asked)
        return [ev.RequestReceived(verb, transaction, known, asked["asked_by"])]

    def worker_state(self, message: Message) -> list[ev.Event]:
        """Turn a worker's presence into an event; one that does not hold our model is as good as absent."""
        worker = message.topic.split("/")[-2]
        try:
            state = WorkerState.from_bytes(message.payload) if message.payload else None
        except MessageRejected as error:
            return [ev.ReplyRejected(f"worker-{error.reason}")]
        if state is not None and state.tier == "device":
            return [ev.ReplyRejected("worker-tier")]
        known = self._present.pop(worker, None)
        if state is None or state.state == "offline" or self.bundle.fingerprint not in state.models.values():
            tier = known.tier if known is not None else "cloud" if state is None else state.tier
            return [ev.WorkerChanged(worker, Tier.of(tier), False, instead=self._instead(state))]
        self._present[worker] = state
        return [self._found(worker, state)]

    def worker_profile(self, message: Message) -> list[ev.Event]:
        """Turn a worker's profile into an event, if the worker is there; one we cannot plan with counts as none."""
        worker = message.topic.split("/")[-2]
        self._profiles.pop(worker, None)
        if not message.payload:
            return []
        try:
            said = WorkerProfile.from_bytes(message.payload).models.get(self.bundle.fingerprint)
            profile = None if said is None else MachineProfile.from_json(said)
        except MessageRejected as error:
            return [ev.ReplyRejected(f"worker-{error.reason}")]
        if profile is None:
            return []
        if not profile.covers(self.bundle):
            return [ev.ReplyRejected("worker-profile")]
        self._profiles[worker] = profile
        state = self._present.get(worker)
        return [] if state is None else [self._found(worker, state)]

    def _instead(self, state: WorkerState | None) -> dict[str, dict[str, str]] | None:
        """Say what a worker serves and what was expected of it, as name to fingerprint; None if it is not there."""
        if state is None or state.state == "offline":
            return None
        offered = list(state.models.items())[:_MOST_MODELS]
        models = {name[:_LONGEST_NAME]: fingerprint[:_LONGEST_NAME] for name, fingerprint in offered}
        return {"models": models, "expected": {self.bundle.name: self.bundle.fingerprint}}

    def _found(self, worker: str, state: WorkerState) -> ev.WorkerChanged:
        return ev.WorkerChanged(worker, Tier.of(state.tier), True, self._profiles.get(worker))

    def _replied(self, key: int, reply: Reply) -> ev.Replied:
        """Check an answer against our model: what a worker says goes out under our name."""
        said, left_at = None, reply.exit or FINAL
        if reply.tier == "device":
            raise MessageRejected("field", "tier: a worker is on the edge or in the cloud")
        if reply.status == "ok":
            if reply.class_index is None or reply.label is None or reply.confidence is None:
                raise MessageRejected("field", "an answer without class_index, label or confidence")
            if reply.label not in self.bundle.classes[reply.class_index : reply.class_index + 1]:
                raise MessageRejected("field", f"class {reply.class_index} is not called {reply.label[:40]!r}")
            if left_at not in (FINAL, *(branch.name for branch in self.bundle.exits)):
                raise MessageRejected("field", f"no exit {left_at[:40]!r}")
            said = ev.Classified(reply.class_index, reply.label, reply.confidence)
        seconds = {part: value for part, value in reply.seconds.items() if 0 <= value < 3600}
        tier = Tier.of(reply.tier)
        return ev.Replied(
            key,
            reply.attempt,
            reply.worker,
            tier,
            reply.bytes,
            seconds,
            said,
            left_at,
            reply.error,
            reply.plan_id,
        )


def _check_verb(verb: str) -> None:
    if verb not in REQUEST_VERBS:
        raise MessageRejected("verb", f"{verb[:40]!r}, expected one of {', '.join(REQUEST_VERBS)}")


def _transaction(said: object) -> str | int | None:
    if said is None or isinstance(said, bool) or not isinstance(said, str | int):
        return None
    if len(said) > _LONGEST_TRANSACTION if isinstance(said, str) else abs(said) >= 1 << 63:
        raise MessageRejected("transaction", f"expected at most {_LONGEST_TRANSACTION} characters, or 64 bits")
    return said


def _asked(message: Message, transaction: str | int | None) -> dict[str, Any]:
    """Say what is known of who asks: MQTT does not tell a subscriber, so it is what the sender says of itself."""
    said = dict(message.user_properties).get(_CLIENT, "")
    asked_by = said if said.isprintable() and 0 < len(said) <= _LONGEST_NAME else None
    return {"asked_by": asked_by, "transaction": transaction}


def _text(data: bytes | None) -> str | None:
    try:
        return data.decode() or None if data is not None else None
    except UnicodeDecodeError:
        return None

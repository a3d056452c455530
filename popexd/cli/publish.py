"""`popexd publish`: send images to an agent and print its answers."""

from __future__ import annotations

import json
import queue
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from popexd.bus.base import Bus, Delivery, Message
from popexd.cli import connection
from popexd.cli.sources import read_image
from popexd.cli.words import milliseconds, printable
from popexd.config import DeviceBroker
from popexd.errors import BusError, InputError, MessageRejected, PopexdError
from popexd.protocol.messages import AgentState, EventPayload, ResultPayload
from popexd.protocol.topics import DeviceTopics, checked_name

# The retained state comes before the acknowledgement; this long we wait for an agent that has only just come.
_STATE_SECONDS = 1.0
_UNHEARD = "delivered; this account may not read answers"
_ROW = "{:<28} {:<16} {:>10} {:<7} {:<7} {:>9} {:>9}"


class UnansweredError(PopexdError):
    """An image got no answer; the text says why."""


class Conversation:
    """One image at a time goes to the agent, which keeps only the newest of a camera; the next waits for the answer."""

    def __init__(self, topics: DeviceTopics, camera: str, has_account: bool = False) -> None:
        self._topics = topics
        self._camera = camera
        self._has_account = has_account
        self._inbox: queue.SimpleQueue[Message | Delivery] = queue.SimpleQueue()
        self._agent: AgentState | None = None

    def listen(self, bus: Bus) -> None:
        """Subscribe to whatever may tell what became of an image."""
        for topic in (self._topics.results(self._camera), self._topics.event, self._topics.state):
            bus.subscribe(topic, self._inbox.put)

    def ask(self, bus: Bus, image: bytes, timeout_seconds: float) -> ResultPayload | None:
        """Publish one image and wait for its answer; None: it was delivered, and our account hears of no answers.

        A broker does not say who may not read: it grants the subscription and is silent. So that is concluded from a
        frame that somebody takes while not even the agent's retained state is heard.

        Raises:
            UnansweredError: it was refused, nobody listens, or no answer came in time.

        """
        frame_id = f"{self._camera}-{secrets.token_hex(6)}"
        begun = time.monotonic()
        deadline = begun + timeout_seconds
        unheard = False
        topic = self._topics.frames(self._camera)
        # At QoS 1 the broker tells at once whether anyone listens.
        bus.publish_bulk(topic, image, qos=1, user_properties=[("frame_id", frame_id)], on_done=self._inbox.put)
        while (left := connection.remaining(deadline)) > 0:
            try:
                heard = self._inbox.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(heard, Delivery):
                self._check(heard)
                if self._has_account and self._agent is None:
                    unheard, deadline = True, min(deadline, time.monotonic() + _STATE_SECONDS)
            elif (answer := self._read(heard, frame_id)) is not None:
                return answer
            if unheard and self._agent is not None:
                unheard, deadline = False, begun + timeout_seconds
        if unheard:
            return None
        raise UnansweredError(self._absence() or f"no answer within {timeout_seconds:g} s")

    def _check(self, delivery: Delivery) -> None:
        if delivery is Delivery.NO_SUBSCRIBERS:
            raise UnansweredError(self._absence() or self._nobody())
        if delivery is not Delivery.DELIVERED:
            reason = "too large for the broker" if delivery is Delivery.TOO_LARGE else delivery.value
            raise UnansweredError(f"not delivered to the broker: {reason}")

    def _read(self, message: Message, frame_id: str) -> ResultPayload | None:
        try:
            if message.topic == self._topics.state:
                self._agent = AgentState.from_bytes(message.payload)
            elif message.topic == self._topics.event:
                event = EventPayload.from_bytes(message.payload)
                fields = event.model_extra or {}
                if fields.get("frame_id") == frame_id and event.event in {"input.rejected", "frame.dropped"}:
                    raise UnansweredError(printable(f"{event.event}: {fields.get('reason', 'no reason given')}"))
            else:
                result = ResultPayload.from_bytes(message.payload)
                return result if result.frame_id == frame_id else None
        except MessageRejected:
            return None  # someone else's mistake on our topics does not end the wait
        return None

    def _nobody(self) -> str:
        return f"no agent answers on {self._topics.site}/{self._topics.device}"

    def _absence(self) -> str | None:
        if self._agent is None:
            return self._nobody()
        if self._agent.state == "offline":
            why = f" ({printable(self._agent.reason)})" if self._agent.reason else ""
            return f"{self._nobody()}: it is offline{why}"
        return None


@connection.with_broker
def publish(
    broker: DeviceBroker,
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files, sent as they are")],
    camera: Annotated[str, typer.Option(help="the camera's name in topics")] = "publish",
    timeout_seconds: Annotated[float, typer.Option(help="for each image", min=0.1)] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="print each result as one line of JSON")] = False,
) -> None:
    """Publish images, print each answer as it comes; exit status 1 if one is missing.

    An account that may not read answers, such as a camera's, is told what was delivered.
    """
    checked_name(camera, "--camera")
    if missing := next((path for path in images if not path.is_file()), None):
        raise InputError(f"{missing}: no such file, expected an image")
    has_account = broker.username is not None or broker.cert_file is not None
    conversation = Conversation(connection.device_topics(broker), camera, has_account)
    unanswered: list[str] = []
    with connection.connected(broker, conversation.listen) as bus:
        show = _as_json if as_json else _row(len(images))
        for path in images:
            try:
                show(path, conversation.ask(bus, read_image(path), timeout_seconds))
            except UnansweredError as error:
                unanswered.append(f"{path.name}: {error}")
                show(path, error)
    if unanswered:
        raise BusError(f"{len(unanswered)} of {len(images)} unanswered; {unanswered[-1]}")


def _as_json(path: Path, answer: ResultPayload | UnansweredError | None) -> None:
    body: dict[str, Any] = {"delivered": True} if answer is None else {"error": str(answer)}
    if isinstance(answer, ResultPayload):
        body = answer.model_dump(mode="json", by_alias=True)
    print(json.dumps({"file": str(path), **body}), flush=True)


def _row(images: int) -> Callable[[Path, ResultPayload | UnansweredError | None], None]:
    print(_ROW.format("image", "label", "confidence", "exit", "tier", "ms", "bytes"), flush=images > 0)

    def show(path: Path, answer: ResultPayload | UnansweredError | None) -> None:
        if answer is None or isinstance(answer, UnansweredError):
            print(f"{printable(path.name):<28} {answer or _UNHEARD}", flush=True)
            return
        took = milliseconds(answer.seconds.total)
        confidence = f"{answer.confidence:.3f}"
        row = _ROW.format(
            printable(path.name),
            printable(answer.label),
            confidence,
            printable(answer.exit),
            answer.tier,
            took,
            answer.bytes_sent,
        )
        print(f"{row}  {printable(answer.fallback)}" if answer.fallback else row, flush=True)

    return show

"""Frames that the broker keeps for us until they are done with, so that our next start has them if we are killed."""

from __future__ import annotations

import json
from collections.abc import Callable

from popexd.bus.base import Bus, Message
from popexd.bus.receipt import Receipt
from popexd.coordinator import events as ev

from .diary import Diary

_MOST_TRIES = 3
_MOST_HELD = 128


class Owed:
    """Receipts of the frames in hand: waiting, taken, and answered but not handed to the connection yet.

    A broker sends only so many messages before one is acknowledged. Half of them may be ours to keep; frames beyond
    are acknowledged at once, for the newest must never wait behind the old ones.

    Arguments:
        bus: the site's, for its window.
        diary: what earlier starts noted, and where we do.
        publish: gives an answer: camera, payload, frame id, correlation data, what it acknowledges.

    """

    def __init__(
        self, bus: Bus, diary: Diary, publish: Callable[[str, bytes, str, bytes | None, Receipt | None], None]
    ) -> None:
        self._bus = bus
        self._diary = diary
        self._publish = publish
        self._held: set[Receipt] = set()

    def came(self, message: Message, events: list[ev.Event]) -> list[ev.Event]:
        """Take in a frame's message as the events it makes; returns those that are to be told."""
        receipt = message.receipt
        if receipt is None:
            return events
        frame = next((event for event in events if isinstance(event, ev.FrameReceived)), None)
        if frame is None:
            receipt.acknowledge()
            return events
        if receipt.again:
            known = self._diary.answer(receipt.mark)
            if known is not None:
                self._publish(frame.camera, known, json.loads(known)["frame_id"], frame.correlation, receipt)
                return [ev.FramesSkipped(frame.camera, 1, "answered")]
            if self._diary.tries(receipt.mark) >= _MOST_TRIES:
                receipt.acknowledge()
                return [ev.InputRejected("fatal", f"whoever took it died, {_MOST_TRIES} times: {frame.frame_id}")]
            if not self._diary.tried(receipt.mark):
                receipt.acknowledge()  # or it would come for ever, if it is the frame that kills us
        if len(self._held) >= min(_MOST_HELD, max(1, self._bus.window_messages // 2)):
            receipt.acknowledge()
        else:
            self._held.add(receipt)
        return events

    def answer(self, answer: ev.Answer, payload: bytes, frame_id: str) -> None:
        """Give an answer; the frame is acknowledged behind it."""
        receipt = self._spent(answer.ticket)
        if receipt is not None:
            self._diary.answered(receipt.mark, payload)
        self._publish(answer.camera, payload, frame_id, answer.correlation, receipt)

    def settled(self, settled: ev.Settled) -> None:
        """Take note that a frame was dropped or rejected."""
        receipt = self._spent(settled.ticket)
        if receipt is not None:
            receipt.acknowledge()

    def _spent(self, ticket: object) -> Receipt | None:
        if not isinstance(ticket, Receipt):
            return None
        self._held.discard(ticket)
        return ticket

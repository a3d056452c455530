"""What is on its way over the uplink, and how long each message itself took to cross."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

_SMALL_BYTES = 1024
_REMEMBERED = 64
_REMEMBERED_SECONDS = 30.0
_LOST_SECONDS = 2.0
"""A message that was given up and has not crossed after so long is taken to hold nothing up any more."""


@dataclass(slots=True)
class _Message:
    bytes: int
    sent_at: float
    started_at: float | None = None
    crossed: bool = False
    given_up: bool = False
    held_beyond: bool = False


class Transit:
    """The link serves one message after the other, so a message's own time starts when the one before it was through.

    Who gave a message up still has it in the pipe: it holds up what follows, and its late answer tells how slow the
    link has become. So messages are remembered until they are answered, or for a while.
    """

    def __init__(self) -> None:
        self._messages: dict[Hashable, _Message] = {}
        self._cleared_at = float("-inf")

    def clear(self) -> None:
        """Forget everything, as when the connection breaks."""
        self._messages.clear()

    def sent(self, key: Hashable, message_bytes: int, now: float) -> None:
        """Take in that a message left."""
        for old, message in list(self._messages.items()):
            if now - message.sent_at > _REMEMBERED_SECONDS or len(self._messages) >= _REMEMBERED:
                del self._messages[old]
        self._messages[key] = _Message(message_bytes, now)

    def abandoned(self, key: Hashable) -> None:
        """Take in that a message never left."""
        self._messages.pop(key, None)

    def crossed(self, key: Hashable, at: float) -> None:
        """Take in that a message, and so everything sent before it, had crossed the link by the instant `at`."""
        if key not in self._messages or self._messages[key].crossed:
            return  # when it was through is known: a late answer must not move that to now
        exact = True
        for other, message in self._messages.items():
            if not message.crossed:
                message.crossed = True
                message.started_at = max(message.sent_at, self._cleared_at) if exact else None
                exact = exact and message.bytes <= _SMALL_BYTES  # when a larger one was through, nobody knows
            if other == key:
                break
        self._cleared_at = max(self._cleared_at, at)

    def returned(self, key: Hashable, far_seconds: float, round_trip_seconds: float, now: float) -> float | None:
        """Take in the answer to a message; return the seconds it took by itself, None where they cannot be told."""
        self.crossed(key, now - far_seconds - round_trip_seconds)
        message = self._messages.pop(key, None)
        if message is None or message.started_at is None:
            return None
        return now - far_seconds - message.started_at

    def give_up(self, key: Hashable, now: float) -> float | None:
        """Take in that nobody waits for a message any more; None if that is known, or the message is not.

        Returns the seconds that it has been crossing by itself; 0 if it has crossed, or others are ahead of it.
        """
        message = self._messages.get(key)
        if message is None or message.given_up:
            return None
        message.given_up, message.held_beyond = True, message.crossed
        first = next((other for other in self._messages.values() if not other.crossed), None)
        return now - max(message.sent_at, self._cleared_at) if message is first else 0.0

    def has_crossed(self, key: Hashable) -> bool:
        """Whether a message is known to have crossed the link."""
        message = self._messages.get(key)
        return message is not None and message.crossed

    def held_beyond(self, key: Hashable) -> bool:
        """Whether a message had crossed when it was given up: what made it late is not the link."""
        message = self._messages.get(key)
        return message is not None and message.held_beyond

    def sent_of(self, key: Hashable) -> tuple[int, float] | None:
        """Return the size of a message that is remembered, and when it was sent."""
        message = self._messages.get(key)
        return None if message is None else (message.bytes, message.sent_at)

    def occupied(self, now: float) -> bool:
        """Whether something is crossing the link."""
        return any(
            not message.crossed and not (message.given_up and now - message.sent_at > _LOST_SECONDS)
            for message in self._messages.values()
        )

    def backlog_seconds(self, bits_per_second: float, now: float) -> float:
        """Return the seconds until what is on its way will have crossed."""
        crossing = [message for message in self._messages.values() if not message.crossed]
        if not crossing:
            return 0.0
        started_at = max(crossing[0].sent_at, self._cleared_at)
        ahead = sum(8.0 * message.bytes for message in crossing) / bits_per_second
        return max(0.0, ahead - max(0.0, now - started_at))

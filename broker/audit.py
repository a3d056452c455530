"""Mosquitto's log, read for what a person must know: who was refused what, and who sent a request.

Mosquitto writes a refusal at its most talkative level, among a line or more for every packet. So it is run that way,
and what is kept is its own news and its refusals; these become events, too, with the name that the broker verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from popexd.protocol.topics import CONTROL

from .access import User, readable

_STAMP = re.compile(r"^\d+: ")
# One line or more for each packet; none says anything that another line does not.
_PACKETS = ("Received ", "Sending ", "\t", "No will message", "Will message")
# What a client chose itself comes before what Mosquitto wrote, so the last match is Mosquitto's.
_CONNECTED = re.compile(r"New client connected from (?P<address>\S+) as (?P<client>.*) \(p\d.*, u'(?P<user>.*)'\)\.")
_ARRIVED = re.compile(r"New connection from (?P<address>\S+) on port (?P<port>\d+)\.")
_PUBLISH = re.compile(
    r"(?P<what>Received|Denied) PUBLISH from (?P<client>.*?) \(d\d, q\d, r\d, m\d+, '(?P<topic>.*)', \.\.\. \("
)
# Somebody who hangs up instead of shaking hands, as a port scanner or our own look whether it is up, is no news.
_HANDSHAKE = re.compile(r"Client connection from (?P<address>\S+) failed: error:.*:(?P<why>(?!unexpected eof)[^:]+)\.")
_HANDSHAKE_LATE = re.compile(r"OpenSSL Error\[\d+\]: error:.*:(?P<why>(?!unexpected eof)[^:]+)")
_SUBSCRIBE = "Received SUBSCRIBE from "
_FILTER = re.compile(r"\t(?P<filter>.*) \(QoS \d\)")
_REQUEST = re.compile(rf"{CONTROL}/[^/]+/[^/]+/request/.+")
_MOST_CLIENTS = 10_000


@dataclass(frozen=True, slots=True)
class Finding:
    """An event's name and fields; `refused` tells a refusal from news."""

    event: str
    fields: Mapping[str, str]
    refused: bool = True


@dataclass
class Audit:
    """Reads line by line; remembers which client is which user. Who comes from `ours` is no news: it is we."""

    users: Mapping[str, User] = field(default_factory=dict)
    site: str | None = None
    ours: str = ""
    _clients: dict[str, str] = field(default_factory=dict)
    _subscriber: str = ""
    _address: str = ""
    _asked: bool = False

    def read(self, line: str) -> tuple[str | None, Finding | None]:
        """Return the line if it is worth keeping as it is, and what it says that is worth an event."""
        text = _STAMP.sub("", line.rstrip("\n"))
        if self._is_ours(text):
            return None, None
        finding = self._finding(text)
        filtered = text.startswith(_PACKETS) or self._is_subscription(text)
        return (None if filtered else line.rstrip("\n")), finding

    def _is_ours(self, text: str) -> bool:
        """Whether a line is about our own asking; of refusals that is one for each time."""
        if self.ours and text.startswith(f"New connection from {self.ours}:"):
            self._asked = True
            return True
        if self._asked and text.endswith("disconnected, not authorised."):
            self._asked = False
            return True
        return False

    def _finding(self, text: str) -> Finding | None:
        if match := _CONNECTED.fullmatch(text):
            self._remember(match["client"], match["user"])
            return None
        if match := _ARRIVED.fullmatch(text):
            self._address = match["address"].rpartition(":")[0]
            return None
        if match := _PUBLISH.match(text):
            return self._published(match["what"] == "Denied", match["client"], match["topic"])
        if text.startswith(_SUBSCRIBE):
            self._subscriber = text.removeprefix(_SUBSCRIBE)
            return None
        if match := _FILTER.fullmatch(text):
            return self._subscribed(match["filter"])
        if text.endswith("disconnected, not authorised."):
            return Finding("login.refused", {"address": self._address, "why": "name or password"})
        # Whether Mosquitto takes a connection before or after the handshake is a matter of time.
        if match := _HANDSHAKE.fullmatch(text):
            return Finding("handshake.refused", {"address": match["address"], "why": match["why"]})
        if (match := _HANDSHAKE_LATE.fullmatch(text)) and self._address:
            return Finding("handshake.refused", {"address": self._address, "why": match["why"]})
        return None

    def _published(self, denied: bool, client: str, topic: str) -> Finding | None:
        known = {"user": self._clients.get(client, "?"), "client": client, "topic": topic}
        if denied:
            return Finding("publish.refused", known)
        return Finding("request.passed", known, refused=False) if _REQUEST.fullmatch(topic) else None

    def _subscribed(self, topic_filter: str) -> Finding | None:
        """Mosquitto grants any subscription and delivers what may be read; say so where that is nothing."""
        name = self._clients.get(self._subscriber, "?")
        user = self.users.get(name)
        plain = re.sub(r"^\$share/[^/]+/", "", topic_filter)
        if user is None or any(overlap(plain, each) for each in readable(user, self.site)):
            return None
        return Finding("subscription.refused", {"user": name, "client": self._subscriber, "filter": topic_filter})

    def _is_subscription(self, text: str) -> bool:
        return bool(self._subscriber) and re.match(re.escape(self._subscriber) + r" \d ", text) is not None

    def _remember(self, client: str, user: str) -> None:
        if len(self._clients) >= _MOST_CLIENTS:
            self._clients.pop(next(iter(self._clients)))
        self._clients[client] = user


def overlap(one: str, other: str) -> bool:
    """Tell whether some topic matches both filters."""
    if one[:1] != other[:1] and "$" in (one[:1], other[:1]):
        return False  # a wildcard at the first level stands for no topic of the broker's own
    return _levels_overlap(one.split("/"), other.split("/"))


def _levels_overlap(one: list[str], other: list[str]) -> bool:
    for left, right in zip(one, other, strict=False):
        if "#" in (left, right):
            return True
        if left != right and "+" not in (left, right):
            return False
    shorter, longer = sorted((one, other), key=len)
    return len(one) == len(other) or longer[len(shorter)] == "#"


def by_name(users: Iterable[User]) -> dict[str, User]:
    """Return users under their names."""
    return {user.name: user for user in users}

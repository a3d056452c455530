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
# What a client chose itself stands among what Mosquitto wrote: its identifier, topics and filters, in which anything
# may stand but control characters. Each kind of line begins with Mosquitto's own words. In it an account's name has no
# quote, an identifier that we trust neither space nor quote and a topic no quote, so there is one way to read it.
_CONNECTED = re.compile(
    r"New client connected from (?P<address>\S+) as (?P<client>.*) \(p\d, c\d, k\d+, u'(?P<user>[^']*)'\)\."
)
_CONNECTED_CUT = re.compile(r"New client connected from (?P<address>\S+) as (?P<client>.*)")
_ARRIVED = re.compile(r"New connection from (?P<address>\S+) on port (?P<port>\d+)\.")
_IDENTIFIER = re.compile(r"[^\s']+")
_PUBLISH = re.compile(
    r"(?P<what>Received|Denied) PUBLISH from (?P<client>[^\s']+) "
    r"\(d\d, q\d, r\d, m\d+, '(?P<topic>[^']*)', \.\.\. \(\d+ bytes\)\)"
)
_PUBLISHES = ("Received PUBLISH from ", "Denied PUBLISH from ")
_NOT_AUTHORISED = re.compile(r"Client .* disconnected, not authorised\.")
# Somebody who hangs up instead of shaking hands, as a port scanner or our own look whether it is up, is no news. How
# Mosquitto tells of the end of a client that calls itself "connection from ..." is no reason of OpenSSL's.
_WHY = r"error:[0-9A-F]{8}:[\w ]*:\w*:(?P<why>(?!unexpected eof)[^:]+)"
_HANDSHAKE = re.compile(
    rf"(?!.*(?:disconnect|closed its|closing old))Client connection from (?P<address>\S+) failed: {_WHY}\."
)
_HANDSHAKE_LATE = re.compile(rf"OpenSSL Error\[\d+\]: {_WHY}")
_SUBSCRIBE = "Received SUBSCRIBE from "
_FILTER = re.compile(r"\t(?P<filter>.*) \(QoS \d\)")
_REQUEST = re.compile(rf"{CONTROL}/[^/]+/[^/]+/request/.+")
_ANY_REQUEST = re.compile(rf"{CONTROL}/.*/request/")
_MOST_CLIENTS = 10_000
# Mosquitto cuts its lines at 999 bytes, and with them what it would have written after a long identifier.
_WHOLE_BYTES = 990
_SHOWN = 200


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
    _subscriber: str | None = None
    _address: str = ""
    _asked: bool = False

    def read(self, line: str) -> tuple[str | None, Finding | None]:
        """Return the line if it is worth keeping as it is, and what it says that is worth an event."""
        line = line.rstrip("\n")
        text = _STAMP.sub("", line)
        if self._is_ours(text):
            return None, None
        whole = len(line.encode(errors="replace")) < _WHOLE_BYTES
        finding = self._finding(text) if whole else self._cut(text)
        # The filters of a subscription follow it line by line.
        if not text.startswith(("\t", _SUBSCRIBE)):
            self._subscriber = None
        return (None if text.startswith(_PACKETS) else line), finding

    def _is_ours(self, text: str) -> bool:
        """Whether a line is about our own asking; of refusals that is one for each time."""
        if self.ours and text.startswith(f"New connection from {self.ours}:"):
            self._asked = True
            return True
        if self._asked and _NOT_AUTHORISED.fullmatch(text):
            self._asked = False
            return True
        return False

    def _finding(self, text: str) -> Finding | None:
        if match := _CONNECTED.fullmatch(text):
            return self._connected(match["client"], match["user"], match["address"])
        if match := _ARRIVED.fullmatch(text):
            self._address = match["address"].rpartition(":")[0]
            return None
        if text.startswith(_PUBLISHES):
            return self._published(text)
        if text.startswith(_SUBSCRIBE):
            self._subscriber = text.removeprefix(_SUBSCRIBE)
            return None
        if match := _FILTER.fullmatch(text):
            return self._subscribed(match["filter"])
        if _NOT_AUTHORISED.fullmatch(text):
            return Finding("login.refused", {"address": self._address, "why": "name or password"})
        # Whether Mosquitto takes a connection before or after the handshake is a matter of time.
        if match := _HANDSHAKE.fullmatch(text):
            return Finding("handshake.refused", {"address": match["address"], "why": match["why"]})
        if (match := _HANDSHAKE_LATE.fullmatch(text)) and self._address:
            return Finding("handshake.refused", {"address": self._address, "why": match["why"]})
        return None

    def _cut(self, text: str) -> Finding | None:
        """Tell of a line whose end Mosquitto did not write: no client of ours needs so long a name or topic."""
        self._subscriber = None
        if match := _CONNECTED_CUT.match(text):
            return _odd(match["client"], "?", match["address"])
        if text.startswith(_PUBLISHES):
            return _disguised(text)
        return None

    def _connected(self, client: str, user: str, address: str) -> Finding | None:
        self._clients.pop(client, None)
        if len(self._clients) >= _MOST_CLIENTS:
            self._clients.pop(next(iter(self._clients)))
        self._clients[client] = user
        return None if _IDENTIFIER.fullmatch(client) else _odd(client, user, address)

    def _published(self, text: str) -> Finding | None:
        match = _PUBLISH.fullmatch(text)
        if match is None:
            return _disguised(text) if text.startswith("Denied") or _ANY_REQUEST.search(text) else None
        client, topic = match["client"], match["topic"]
        known = {"user": self._clients.get(client, "?"), "client": client, "topic": topic}
        if match["what"] == "Denied":
            return Finding("publish.refused", known)
        return Finding("request.passed", known, refused=False) if _REQUEST.fullmatch(topic) else None

    def _subscribed(self, topic_filter: str) -> Finding | None:
        """Mosquitto grants any subscription and delivers what may be read; say so where that is nothing."""
        if self._subscriber is None:
            return None
        name = self._clients.get(self._subscriber, "?")
        user = self.users.get(name)
        plain = re.sub(r"^\$share/[^/]+/", "", topic_filter)
        if user is None or any(overlap(plain, each) for each in readable(user, self.site)):
            return None
        return Finding("subscription.refused", {"user": name, "client": self._subscriber, "filter": topic_filter})


def _odd(client: str, user: str, address: str) -> Finding:
    return Finding("client.disguised", {"user": user, "client": client[:_SHOWN], "address": address.rpartition(":")[0]})


def _disguised(text: str) -> Finding:
    what, _, rest = text.partition(" PUBLISH from ")
    return Finding("publish.disguised", {"user": "?", "what": what.lower(), "client": rest[:_SHOWN]})


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

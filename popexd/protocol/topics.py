"""The topic table: every topic popexd ever uses is built here, and the broker's ACL and the docs are rendered from it.

Two trees: the control tree is readable text (`mosquitto_sub -v -t 'popexd/#'`), the data tree is binary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from popexd.errors import InputError, MessageRejected

CONTROL = "popexd"
DATA = "popexd-data"

REQUEST_VERBS = ("probe", "replan", "set", "status")

# One level of a topic: no separator, wildcard, control character or leading $ can get through.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")


def valid_name(name: str) -> bool:
    """Tell whether `name` may be one level of a topic.

    That is 1 to 64 letters, digits, `.`, `_` or `-`, not starting with a sign.
    """
    return _NAME.fullmatch(name) is not None


def checked_name(name: str, what: str) -> str:
    """Return `name` if it may be one level of a topic.

    Raises:
        InputError: it may not; `what` names the key in the message.

    """
    if not valid_name(name):
        raise InputError(f"{what}: {name!r} cannot be part of a topic, expected 1-64 letters, digits, '.', '_' or '-'")
    return name


@dataclass(frozen=True, slots=True)
class TopicRule:
    """One row of the topic table.

    `pattern` uses `{site}`, `{device}`, `{worker}`, `{tier}`, `{model}`, `{camera}`, `{verb}` for levels. `writers` and
    `readers` name roles: agent, worker, camera (publishes frames), monitor (reads the control tree), operator (may
    send requests).
    """

    pattern: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    retained: bool
    qos: int
    payload: str


TABLE: tuple[TopicRule, ...] = (
    TopicRule(
        "popexd/{site}/{device}/state",
        ("agent",),
        ("agent", "monitor", "operator"),
        True,
        1,
        "online or offline; last will",
    ),
    TopicRule(
        "popexd/{site}/{device}/decision", ("agent",), ("agent", "monitor", "operator"), True, 1, "the plan in force"
    ),
    TopicRule("popexd/{site}/{device}/metrics", ("agent",), ("monitor", "operator"), True, 0, "windowed statistics"),
    TopicRule("popexd/{site}/{device}/event", ("agent",), ("monitor", "operator"), False, 1, "one notable thing"),
    TopicRule(
        "popexd/{site}/{device}/results/{camera}",
        ("agent",),
        ("monitor", "operator"),
        False,
        1,
        "the answer for one frame",
    ),
    TopicRule(
        "popexd/{site}/{device}/request/{verb}", ("operator",), ("agent",), False, 1, "probe, replan, set, status"
    ),
    TopicRule(
        "popexd/{site}/{device}/response/{verb}", ("agent",), ("operator", "monitor"), False, 1, "outcome of a request"
    ),
    TopicRule(
        "popexd/{site}/workers/{worker}/state",
        ("worker",),
        ("worker", "agent", "monitor", "operator"),
        True,
        1,
        "presence; last will",
    ),
    TopicRule(
        "popexd/{site}/workers/{worker}/profile",
        ("worker",),
        ("agent", "monitor", "operator"),
        True,
        1,
        "seconds per segment for each model",
    ),
    TopicRule(
        "popexd/{site}/workers/{worker}/metrics",
        ("worker",),
        ("agent", "monitor", "operator"),
        True,
        0,
        "queue, rate, counts",
    ),
    TopicRule(
        "popexd-data/{site}/{device}/frames/{camera}", ("camera", "operator"), ("agent",), False, 0, "a camera frame"
    ),
    TopicRule("popexd-data/{site}/tier/{tier}/{model}", ("agent", "worker"), ("worker",), False, 1, "a tensor message"),
    TopicRule(
        "popexd-data/{site}/tier/edge/{model}/tile",
        ("agent", "worker"),
        ("worker",),
        False,
        1,
        "a tile of convolutions",
    ),
    TopicRule("popexd-data/{site}/{device}/reply", ("worker",), ("agent",), False, 1, "a worker's answer"),
    TopicRule("popexd-data/{site}/tier/{tier}/probe", ("agent",), ("worker",), False, 1, "a sized payload"),
    TopicRule("popexd-data/{site}/{device}/probe-reply", ("worker",), ("agent",), False, 0, "what arrived of a probe"),
    TopicRule(
        "popexd-data/{site}/{device}/echo/{way}",
        ("agent", "operator"),
        ("agent", "operator"),
        False,
        1,
        "`popexd doctor` times the broker with it",
    ),
    TopicRule(
        "popexd-data/{site}/workers/{worker}/echo/{way}",
        ("worker",),
        ("worker",),
        False,
        1,
        "the same with a worker's account",
    ),
)


@dataclass(frozen=True, slots=True)
class SiteTopics:
    """Topics that belong to a site."""

    site: str

    def __post_init__(self) -> None:
        checked_name(self.site, "site")

    def worker(self, worker: str, leaf: str) -> str:
        """`leaf` is state, profile or metrics."""
        return f"{CONTROL}/{self.site}/workers/{worker}/{leaf}"

    def workers(self, leaf: str) -> str:
        """Return the filter that matches this leaf of every worker."""
        return f"{CONTROL}/{self.site}/workers/+/{leaf}"

    def worker_echo(self, worker: str, way: str) -> str:
        """Where a worker talks to itself, `out` and `back`, to time the broker."""
        return f"{DATA}/{self.site}/workers/{worker}/echo/{way}"

    def tensors(self, tier: str, model: str) -> str:
        """Where tensor messages for a tier go; `model` is the bundle's name."""
        return f"{DATA}/{self.site}/tier/{tier}/{model}"

    def shared_tensors(self, tier: str, model: str) -> str:
        """Return the shared subscription through which the workers of a tier split a model's load, or the probes."""
        return f"$share/popexd-{tier}/{self.tensors(tier, model)}"

    def probe(self, tier: str) -> str:
        """Where sized probe payloads for a tier go."""
        return f"{DATA}/{self.site}/tier/{tier}/probe"

    def reply(self, device: str) -> str:
        """Where a worker answers a device."""
        return f"{DATA}/{self.site}/{device}/reply"

    def probe_reply(self, device: str) -> str:
        """Where a worker answers a device's probe."""
        return f"{DATA}/{self.site}/{device}/probe-reply"


@dataclass(frozen=True, slots=True)
class DeviceTopics(SiteTopics):
    """Topics that belong to one device of a site."""

    device: str

    def __post_init__(self) -> None:
        checked_name(self.site, "site")
        checked_name(self.device, "device")
        if self.device in ("workers", "tier"):
            raise InputError(f"device: {self.device!r} is a reserved word of the topic tree, expected another name")

    @property
    def _control(self) -> str:
        return f"{CONTROL}/{self.site}/{self.device}"

    @property
    def state(self) -> str:
        """Presence of the agent."""
        return f"{self._control}/state"

    @property
    def decision(self) -> str:
        """Return the topic of the plan in force."""
        return f"{self._control}/decision"

    @property
    def metrics(self) -> str:
        """Windowed statistics."""
        return f"{self._control}/metrics"

    @property
    def event(self) -> str:
        """Notable things, one at a time."""
        return f"{self._control}/event"

    def results(self, camera: str) -> str:
        """Answers for the frames of one camera."""
        return f"{self._control}/results/{camera}"

    def response(self, verb: str) -> str:
        """Outcome of a request."""
        return f"{self._control}/response/{verb}"

    def request(self, verb: str) -> str:
        """Requests anyone allowed may send."""
        return f"{self._control}/request/{verb}"

    def frames(self, camera: str) -> str:
        """Frames of one camera."""
        return f"{DATA}/{self.site}/{self.device}/frames/{camera}"

    def echo(self, way: str) -> str:
        """Where whoever may speak for the device talks to itself, `out` and `back`, to time the broker."""
        return f"{DATA}/{self.site}/{self.device}/echo/{way}"

    def camera_of(self, topic: str) -> str:
        """Return the camera's name from a topic below `frames/`.

        Raises:
            MessageRejected: the name may not be part of a topic of ours, so it could not be answered.

        """
        camera = topic.removeprefix(self.frames(""))
        if not valid_name(camera):
            raise MessageRejected("camera", f"{camera[:80]!r} cannot be part of a topic")
        return camera

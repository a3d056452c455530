"""A broker: whether it is there, what it is, how fast it answers, and who is on it."""

from __future__ import annotations

import ipaddress
import queue
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from popexd.bundle import Bundle
from popexd.bus.base import Bus, Delivery, Message
from popexd.cli import connection
from popexd.cli.words import milliseconds, printable
from popexd.config import Broker
from popexd.errors import BusError, ConfigurationError, MessageRejected
from popexd.protocol.codec import is_image_codec
from popexd.protocol.messages import AgentState, DecisionPayload, QualityPlan, WorkerState
from popexd.protocol.tensors import ENVELOPE_BYTES
from popexd.protocol.topics import DeviceTopics, SiteTopics

from . import certificates
from .findings import Finding, fail, ok, sized, warn

_VERSION = "$SYS/broker/version"
_SETTLE_SECONDS = 1.0
_ROUNDS = 21
_ECHO_SECONDS = 3.0
# Nagle's algorithm against delayed acknowledgements: 40 ms of waiting on Linux, on one side or on both.
_WAITING_SECONDS = 0.025

_ADVICE = (
    ("closed before an answer", "see the broker's log: TLS on one side only, a missing or void certificate, no MQTT 5"),
    ("refuses us", "name, password or access list: popexd broker list on its machine"),
    ("Connection refused", "no broker there: systemctl status mosquitto; host and port"),
    ("expected a pair", "cert_file and key_file must belong together: bring both over again"),
    ("certificate", "ca_file must be that of the broker's authority, and host a name in its certificate"),
    ("MQTT 5", "install Mosquitto 2.0 or newer; with TLS on one side only it looks the same"),
)


@dataclass
class Heard:
    """What was on the broker when we came."""

    version: str = ""
    state: AgentState | None = None
    decision: DecisionPayload | None = None
    workers: dict[str, WorkerState] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        """Keep what we understand."""
        try:
            if message.topic == _VERSION:
                self.version = message.payload.decode(errors="replace")[:80]
            elif "/workers/" in message.topic:
                self.workers[message.topic.split("/")[-2]] = WorkerState.from_bytes(message.payload)
            elif message.topic.endswith("/decision"):
                self.decision = DecisionPayload.from_bytes(message.payload)
            else:
                self.state = AgentState.from_bytes(message.payload)
        except MessageRejected:
            return


@dataclass(frozen=True, slots=True)
class Place:
    """A connection to look at: its name in the configuration, how to reach it, and what to expect there.

    `device` is None for a worker's; its account may send `echo`, out and back, to itself; `frame_bytes` is 0 where no
    frames come this way, whereas `input_bytes` is what a frame may have wherever it came in.
    """

    name: str
    broker: Broker
    site: str
    device: str | None
    echo: tuple[str, str]
    bundles: tuple[Bundle, ...]
    frame_bytes: int
    has_workers: bool
    input_bytes: int = 0


def examine(place: Place) -> Iterator[Finding]:
    """Look at one broker; what can only be asked of one that answers comes after that it does."""
    broker, heard = place.broker, Heard()
    address = f"{broker.host}:{broker.port}"
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    out, back = place.echo

    def prepare(bus: Bus) -> None:
        filters = [_VERSION, SiteTopics(place.site).workers("state")]
        if place.device is not None:
            topics = DeviceTopics(place.site, place.device)
            filters += [topics.state, topics.decision]
        for each in (*filters, back):
            bus.subscribe(each, inbox.put)

    def prepare_other_end(bus: Bus) -> None:
        bus.subscribe(out, lambda asked: bus.publish(back, asked.payload, qos=asked.qos))

    began = time.monotonic()
    try:
        with connection.connected(broker, prepare) as bus:
            took = time.monotonic() - began
            yield ok("broker", f"{place.name}: {address} answers, connected in {milliseconds(took)} ms")
            with connection.connected(broker, prepare_other_end):
                seconds = _Rounds(bus, inbox, heard, place.echo).time()
            yield from _version(heard)
            yield _packets(bus, place, heard)
            yield _delay(seconds, "worker" if place.device is None else "device")
            yield from _people(place, heard, owns_name=bool(seconds))
    except (BusError, ConfigurationError) as error:
        text = str(error).removeprefix("cannot reach the broker: ")
        do = next((advice for sign, advice in _ADVICE if sign in text), "host, port, network")
        yield fail("broker", f"{place.name}: {text}", do)
    yield from _safety(place)


class _Rounds:
    """Times a question to ourselves and its answer, and takes in what else comes meanwhile.

    Two connections, as agent and worker have: with one alone the broker's acknowledgement and our own travel together,
    and nobody waits.
    """

    def __init__(self, bus: Bus, inbox: queue.SimpleQueue[Message], heard: Heard, echo: tuple[str, str]) -> None:
        self._bus, self._inbox, self._heard = bus, inbox, heard
        self._out, self._back = echo
        self._refused = False

    def time(self) -> dict[int, float]:
        """Return the fewest seconds by QoS, once settled; empty where the broker does not let us.

        A busy machine adds to a round now and then, Nagle's algorithm to every one.
        """
        found = {}
        for qos in (1, 0):  # the first message at QoS 0 may still wait for the last at QoS 1
            seconds = [self._once(qos) for _ in range(_ROUNDS) if not self._refused]
            if any(each is None for each in seconds) or self._refused:
                self._settle()
                return {}
            found[qos] = min(each for each in seconds[_ROUNDS // 2 :] if each is not None)
        return found

    def _once(self, qos: int) -> float | None:
        token = secrets.token_bytes(16)
        begun = time.monotonic()
        self._bus.publish(self._out, token, qos=qos, on_done=self._done)
        while (left := begun + _ECHO_SECONDS - time.monotonic()) > 0 and not self._refused:
            try:
                message = self._inbox.get(timeout=min(left, 0.1))
            except queue.Empty:
                continue
            if message.topic != self._back:
                self._heard.take(message)
            elif message.payload == token:
                return time.monotonic() - begun
        return None

    def _done(self, delivery: Delivery) -> None:
        self._refused = self._refused or delivery is Delivery.REFUSED

    def _settle(self) -> None:
        """Without an echo that comes last there is only waiting for what is retained."""
        give_up_at = time.monotonic() + _SETTLE_SECONDS
        while (left := give_up_at - time.monotonic()) > 0:
            try:
                self._heard.take(self._inbox.get(timeout=left))
            except queue.Empty:
                return


def _version(heard: Heard) -> Iterator[Finding]:
    match = re.search(r"mosquitto version (\d+)\.(\d+)", heard.version)
    if match is None:
        says = f"says it is {printable(heard.version)!r}" if heard.version else "does not say what it is"
        yield warn("version", f"the broker {says}", "popexd is tested with Mosquitto 2.0 and newer")
    elif int(match[1]) < 2:
        yield warn("version", printable(heard.version), "install Mosquitto 2.0 or newer")
    else:
        yield ok("version", printable(heard.version))


def _packets(bus: Bus, place: Place, heard: Heard) -> Finding:
    limit = bus.max_packet_bytes
    planned = [each for bundle in place.bundles for each in _planned(bundle, heard.decision, place.input_bytes)]
    usual = max((each for each, _ in planned), default=0.0)
    largest = max((most for _, most in planned), default=0.0)
    sends = f", the plan in force sends about {sized(usual)}, at most {sized(largest)}" if planned else ""
    if limit is None:
        return ok("packet limit", f"none{sends}")
    do = f"set max_packet_size in the broker's configuration, to {place.frame_bytes * 3 // 2 + 1024} for any frame"
    if usual > limit:
        return fail("packet limit", f"{sized(limit)}{sends}", do)
    if largest > limit:
        return warn("packet limit", f"{sized(limit)}{sends}: a larger one is answered by the device alone", do)
    if place.frame_bytes > limit:
        says = f"{sized(limit)}{sends}; a frame may have {sized(place.frame_bytes)}, a larger one is lost"
        return warn("packet limit", says, f"{do}, or lower limits.frame_bytes")
    return ok("packet limit", f"{sized(limit)}{sends}")


def _planned(bundle: Bundle, decision: DecisionPayload | None, input_bytes: int) -> Iterator[tuple[float, float]]:
    """Yield, for the plan in force and each quality class's, the bytes of the device's message: on average, at most.

    From the bundle's codec table. Compressed is at most as large as uncompressed, an image smaller than its values in
    float32, and a camera's own file may have `input_bytes`.
    """
    if decision is None:
        return
    plans: list[DecisionPayload | QualityPlan] = [decision, *decision.by_quality.values()]
    for plan in plans:
        codec, cuts = plan.codec, plan.cuts.get("device") or ([plan.cut] if isinstance(plan.cut, str) else plan.cut)
        tables = [bundle.codecs.get(cut, {}) for cut in cuts]
        if codec is None or not all(codec in table for table in tables):
            continue
        usual = sum(table[codec]["bytes"] for table in tables)
        whole = "f32" if is_image_codec(codec) else codec.removesuffix("+zstd")
        most = sum(max(table[each]["bytes"] for each in (codec, whole) if each in table) for table in tables)
        if codec == "camera":
            most = max(most, input_bytes)
        yield usual + ENVELOPE_BYTES * len(cuts), most + 2 * ENVELOPE_BYTES * len(cuts)


def _delay(seconds: dict[int, float], who: str) -> Finding:
    if len(seconds) < 2:
        do = f"its name must be the {who}'s; an access list by hand: popexd broker render has the line with echo"
        return warn("round trip", f"this account may not send to itself as this {who}", do)
    says = f"{milliseconds(seconds[1])} ms acknowledged, {milliseconds(seconds[0])} ms not"
    if seconds[1] - seconds[0] > _WAITING_SECONDS:
        return warn(
            "round trip",
            f"{says}: the broker waits for Nagle's algorithm",
            "set_tcp_nodelay true in mosquitto.conf; `popexd broker render` has it",
        )
    return ok("round trip", says)


def _people(place: Place, heard: Heard, owns_name: bool) -> Iterator[Finding]:
    """Look who is there: the agent itself, and the workers with the models they hold.

    A broker grants any subscription and is silent about what may not be read. Who `owns_name`, and may send to itself
    by it, may see both; of silence towards others nothing follows.
    """
    unseen = "or this account may not see it"
    elsewhere = "look with the device's own account"
    if place.device is not None and place.frame_bytes:
        if heard.state is not None and heard.state.state == "online":
            yield ok("agent", f"{place.site}/{place.device} is online with {printable(heard.state.model)}")
        elif heard.state is None and not owns_name:
            yield warn("agent", f"nothing is heard of {place.site}/{place.device}: not online, {unseen}", elsewhere)
        else:
            says = f"{place.site}/{place.device} is not online"
            yield warn("agent", says, "popexd agent run, or systemctl start popexd-agent")
    if not place.has_workers:
        return
    online = {name: state for name, state in heard.workers.items() if state.state == "online"}
    if not heard.workers and not owns_name:
        yield warn("workers", f"none is heard of at site {place.site}: none online, {unseen}", elsewhere)
    elif not online:
        says = f"none is online at site {place.site}"
        yield warn("workers", says, "popexd worker run; without one the device answers alone")
    for name, state in sorted(online.items()):
        yield _worker(printable(name), state, place.bundles)


def _worker(name: str, state: WorkerState, bundles: tuple[Bundle, ...]) -> Finding:
    for bundle in bundles:
        if bundle.fingerprint in state.models.values():
            return ok("workers", f"{name} ({state.tier}) serves {bundle.name} {bundle.fingerprint[:12]}")
    held = ", ".join(f"{printable(model)} {print_[:12]}" for model, print_ in sorted(state.models.items())) or "nothing"
    ours = ", ".join(f"{bundle.name} {bundle.fingerprint[:12]}" for bundle in bundles) or "none"
    return warn("workers", f"{name} ({state.tier}) serves {held}; ours is {ours}", "give both the same bundle")


def _safety(place: Place) -> Iterator[Finding]:
    """Look whether others could listen, or come in as they are."""
    broker = place.broker
    if broker.encrypted:
        shown = certificates.of_server(broker)
        if shown is not None:
            yield shown
    if is_this_machine(broker.host):
        return
    if not broker.encrypted:
        yield warn(
            "encryption", f"{place.name}: none to {broker.host}", "TLS: see docs/security.md, popexd broker init"
        )
    stranger = broker.model_copy(update={"username": None, "password_file": None})
    if broker.username is None and broker.cert_file is None:
        says = f"{place.name}: no name, no certificate; so it seems does anyone else need"
        yield warn("access", says, "give the broker accounts: popexd broker init")
        return
    try:
        with connection.connected(stranger):
            yield warn("access", f"{place.name}: lets in who gives no name", "allow_anonymous false")
    except BusError:
        yield ok("access", f"{place.name}: nobody without a name")


def is_this_machine(host: str) -> bool:
    """Tell whether a host is loopback, by name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

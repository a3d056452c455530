"""`popexd demo`: two brokers, a worker, an agent and a camera on this machine, over an emulated link that changes.

Everything is the real thing in a process of its own; only the link between the agent and the uplink's broker is
emulated, and the device is braked to the pace of a small one.
"""

from __future__ import annotations

import itertools
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from popexd.bus.base import Message
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.errors import InputError
from popexd.lab import conveyor
from popexd.lab.demo_parts import Part, agent_config, worker_config, worker_seconds
from popexd.lab.demo_report import Report, as_json, changed_line, show_live, show_summary
from popexd.lab.link import FOURTH_GENERATION, THIRD_GENERATION, WIFI, Link, Profile
from popexd.protocol.messages import AgentState, DecisionPayload, MetricsPayload, ResultPayload
from popexd.protocol.topics import DeviceTopics, SiteTopics

SITE, DEVICE, CAMERA, WORKER = "demo", "device", "belt", "cloud-1"
FRAME_SECONDS = 0.128
"""What the braked device takes for a frame that it finishes alone."""

PHASES: tuple[tuple[str, Profile | None, float], ...] = (
    ("Wi-Fi", WIFI, 0.22),
    ("4G", FOURTH_GENERATION, 0.2),
    ("3G", THIRD_GENERATION, 0.2),
    ("outage", None, 0.16),
    ("Wi-Fi again", WIFI, 0.22),
)


def demo(
    seconds: Annotated[float, typer.Option(help="Length of the whole demo.", min=5)] = 60.0,
    fps: Annotated[float, typer.Option(help="Frames a second.", min=0.5, max=50)] = 5.0,
    seed: Annotated[int, typer.Option(help="Which frames the generated camera takes.", min=0)] = 7,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live table.")] = False,
    as_json_: Annotated[bool, typer.Option("--json", help="Only the summary, for machines.")] = False,
) -> None:
    """Show an agent and a worker at work over a link that goes Wi-Fi, 4G, 3G, outage, Wi-Fi."""
    report = Report([name for name, _, _ in PHASES])
    quiet = as_json_
    live = not quiet and not plain and sys.stdout.isatty()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with ExitStack() as stack:
        play = _Play(stack, report, quiet or live)
        play.set_up()
        with show_live(report) if live else ExitStack():
            play.run(seconds, fps, seed)
        play.finish()
    if as_json_:
        typer.echo(json.dumps(as_json(report), indent=2))
    else:
        show_summary(report)
    if report.unanswered:
        raise typer.Exit(1)


def _leave(number: int, _frame: object) -> None:
    """End as after Ctrl-C: whatever was started is stopped on the way out."""
    raise SystemExit(128 + number)


class _Play:
    """The parts on the stage, and the play."""

    def __init__(self, stack: ExitStack, report: Report, quiet: bool) -> None:
        self._stack = stack
        self._report = report
        self._quiet = quiet
        self._topics = DeviceTopics(SITE, DEVICE)
        self._changed = threading.Condition()
        self._profile: bytes | None = None
        self._link: Link
        self._site: MqttBus
        self._agent: Part

    def _say(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)

    def set_up(self) -> None:
        """Start the parts in order, each once what it needs is there."""
        self._say("starting two Mosquitto brokers, a worker, an agent and a camera on this machine ...")
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="popexd-demo-")))
        site, uplink = self._broker(folder, "site"), self._broker(folder, "uplink")
        self._link = self._stack.enter_context(Link("127.0.0.1", uplink, WIFI))
        far = self._connect(uplink)
        far.subscribe(SiteTopics(SITE).worker(WORKER, "profile"), self._worker_profile)
        self._start(Part("worker", ["worker", "run", "--config", worker_config(folder, SITE, WORKER, uplink)], folder))
        alone = worker_seconds(self._waited_profile())
        slowdown = max(1.0, FRAME_SECONDS / alone)
        self._site = self._connect(site)
        for topic, taken in (
            (self._topics.results("+"), self._result),
            (self._topics.decision, self._decision),
            (self._topics.metrics, self._metrics),
            (self._topics.state, self._state),
        ):
            self._site.subscribe(topic, taken)
        config = agent_config(folder, SITE, DEVICE, site, self._link.port, slowdown)
        self._agent = self._start(Part("agent", ["agent", "run", "--config", config], folder))
        self._wait(lambda: self._report.online, "the agent does not come up", self._agent)
        self._wait(lambda: self._report.reaches_worker, "the agent does not reach the worker", self._agent)
        self._say(f"the device is braked {slowdown:.0f}-fold: alone it takes {1000 * FRAME_SECONDS:.0f} ms a frame")
        self._say(f"watch it:  mosquitto_sub -p {site} -v -t 'popexd/#'\n")

    def _broker(self, folder: Path, name: str) -> int:
        part = self._start(Part(f"{name} broker", ["broker", "run", "--port", "0", "--json"], folder, talks=True))
        return int(json.loads(part.first_line())["port"])

    def _start(self, part: Part) -> Part:
        self._stack.callback(part.stop)
        part.start()
        return part

    def _connect(self, port: int) -> MqttBus:
        bus = MqttBus(MqttSettings(port=port))
        bus.start()
        self._stack.callback(bus.stop)
        bus.wait_connected(10)
        return bus

    def _wait(self, there: Any, failure: str, part: Part, timeout_seconds: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while not self._changed.wait_for(there, 0.2):
                if part.ended or time.monotonic() > deadline:
                    raise InputError(f"demo: {failure}: {part.last_words()}")

    def _waited_profile(self) -> bytes:
        deadline = time.monotonic() + 60
        with self._changed:
            self._changed.wait_for(lambda: self._profile is not None, deadline - time.monotonic())
        if self._profile is None:
            raise InputError("demo: the worker does not come up within 60 s")
        return self._profile

    # ------------------------------------------------------------------------------------------ what is heard

    def _worker_profile(self, message: Message) -> None:
        with self._changed:
            self._profile = message.payload
            self._changed.notify_all()

    def _result(self, message: Message) -> None:
        with self._changed:
            first = self._report.result(ResultPayload.from_bytes(message.payload), time.monotonic())
            self._changed.notify_all()
        if first is not None:
            self._say(first)

    def _decision(self, message: Message) -> None:
        decision = DecisionPayload.from_bytes(message.payload)
        with self._changed:
            before = self._report.decision
            self._report.decided(decision)
            self._changed.notify_all()
        if before is None or before.plan_id != decision.plan_id:
            self._say(changed_line(decision))

    def _metrics(self, message: Message) -> None:
        with self._changed:
            self._report.metrics(MetricsPayload.from_bytes(message.payload))
            self._changed.notify_all()

    def _state(self, message: Message) -> None:
        with self._changed:
            self._report.online = AgentState.from_bytes(message.payload).state == "online"
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------ the play

    def run(self, seconds: float, fps: float, seed: int) -> None:
        """Publish frames while the link changes."""
        begun = time.monotonic()
        ends = list(itertools.accumulate(share * seconds for _, _, share in PHASES))
        shots: Iterator[conveyor.Shot] = conveyor.camera(seed)
        phase = -1
        for number, shot in enumerate(shots):
            at = number / fps
            if at >= ends[-1]:
                break
            time.sleep(max(0.0, begun + at - time.monotonic()))
            while phase < 0 or at >= ends[phase]:
                phase += 1
                self._enter(phase)
            frame_id = f"{CAMERA}-{number}"
            with self._changed:
                self._report.published(frame_id, shot.class_name, len(shot.jpeg), time.monotonic())
            self._site.publish(self._topics.frames(CAMERA), shot.jpeg, user_properties=(("frame_id", frame_id),))

    def _enter(self, phase: int) -> None:
        name, profile, _ = PHASES[phase]
        if profile is None:
            self._link.cut()
        else:
            self._link.set(profile)
            self._link.restore()
        with self._changed:
            self._report.enter(phase)
        rate = "nothing gets through" if profile is None else f"{profile.bits_per_second_up / 1e6:g} Mbit/s up"
        self._say(f"--- {name}: {rate}")

    def finish(self) -> None:
        """Let the agent drain, and read its last metrics."""
        self._agent.stop()
        deadline = time.monotonic() + 15
        with self._changed:
            self._changed.wait_for(lambda: not self._report.online, deadline - time.monotonic())
            self._changed.wait_for(self._report.complete, max(0.0, min(2.0, deadline - time.monotonic())))

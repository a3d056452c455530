"""The agent's living parts: started in order, stopped in reverse."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import popexd
from popexd import bundle as bundles
from popexd.bus.base import Bus, Message, Will
from popexd.bus.configured import mqtt_settings
from popexd.bus.mqtt import MqttBus
from popexd.config import AgentConfig, Broker
from popexd.coordinator import events as ev
from popexd.coordinator.brain import Coordinator, Settings
from popexd.fitting import bundle_of, planner_settings
from popexd.logs import get_logger
from popexd.plan import Tier
from popexd.profile import LayerGraph
from popexd.protocol.messages import AgentState
from popexd.protocol.topics import DeviceTopics
from popexd.runtime import background
from popexd.runtime.segments import SegmentRunner

from .compute import Compute
from .diary import Diary
from .inlet import Inlet
from .loop import Arrived, Buses, Loop
from .mailbox import Mailbox
from .probes import SpeedTest
from .schedule import Schedule

log = get_logger("agent")

_REPLAN_SECONDS = 2.0


class Agent:
    """The daemon, but for the process around it.

    `start` returns once frames can be answered: the model is loaded and measured, and a plan is in force. A broker or
    a worker that is not there is no reason to wait. `on_failure` is called when the loop fails: the agent can only end.

    Raises:
        ConfigurationError: from the constructor or `start`; nothing runs then.

    """

    def __init__(
        self,
        config: AgentConfig,
        buses: Callable[[AgentConfig, Will], Buses] | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.topics = DeviceTopics(config.mqtt.site, config.mqtt.device)
        self.boot = secrets.token_hex(4)
        self.bundle = bundle_of(config)
        self._since = datetime.now(UTC)
        self.buses = (buses or mqtt_buses)(config, Will(self.topics.state, self._state("offline", "connection lost")))
        self._on_failure = on_failure
        self._mailbox = Mailbox()
        self._parts: list[Any] = []
        self.loop: Loop
        self.schedule: Schedule
        self.compute: Compute

    def _state(self, state: str, reason: str | None = None) -> bytes:
        model = f"{self.bundle.name}@{self.bundle.fingerprint[:12]}"
        since = self._since if state == "online" else None
        return AgentState.model_validate(
            {"state": state, "version": popexd.__version__, "model": model, "since": since, "reason": reason}
        ).to_bytes()

    def start(self) -> None:
        """Load, measure, plan, connect."""
        config = self.config
        settings = brain_settings(config, self.bundle)
        runner = SegmentRunner(self.bundle, config.runtime.threads)
        slowdown = config.runtime.slowdown
        device = background.measured_once(runner, self.bundle, config.runtime.cache_folder, slowdown=slowdown)
        brain = Coordinator(lambda remote: self._graph(device, remote), settings, self.boot, time.perf_counter)
        inlet = Inlet(self.topics, self.boot, self.bundle)
        self.compute = Compute(runner, config.limits, device if slowdown > 1 else None, self._mailbox.post)
        model = (self.bundle.name, self.bundle.fingerprint)
        diary = Diary(_diary_path(config))
        self.loop = Loop(brain, self._mailbox, self.compute, self.buses, inlet, self.topics, self.boot, model, diary)
        self.loop.on_failure = self._on_failure
        self._subscribe(inlet)
        self.schedule, *others = self._schedule()
        for part in (self.compute, self.loop, *self.buses.each, *others, self.schedule):
            part.start()
            self._parts.append(part)
        for bus in self.buses.each:
            bus.retain(self.topics.state, self._state("online"))
        log.info("agent.started", site=self.topics.site, device=self.topics.device, model=self.bundle.name)

    def stop(self, timeout_seconds: float = 10.0) -> bool:
        """Drain: answer what is owed, say that we are offline, end; tell whether everything owed was answered.

        A second call does nothing.
        """
        parts, self._parts = self._parts[::-1], []
        if not parts:
            return True
        for part in parts:
            if isinstance(part, Schedule | SpeedTest):
                part.stop()
        answered = self.loop.drain(timeout_seconds)
        for bus in self.buses.each:
            bus.retain(self.topics.state, self._state("offline", "stopped"))
            bus.stop()
        self.compute.stop()
        log.info("agent.stopped", answered=answered)
        return answered

    def reconfigure(self, config: AgentConfig) -> None:
        """Go on with another configuration; only what `popexd.changes` calls live may differ. Any thread may.

        Raises:
            ConfigurationError: planning cannot go by it with this model; nothing has changed then.

        """
        chosen = brain_settings(config, self.bundle)
        if self.schedule in self._parts:
            self.schedule.change("probe", config.probe.interval_seconds)
            self.schedule.change("metrics", config.metrics.interval_seconds)
        self.config = config
        self._mailbox.post(ev.Reconfigured(chosen))

    def _graph(self, device: background.MachineProfile, remote: Mapping[Tier, Any]) -> LayerGraph:
        return background.graph(self.bundle, device, remote)

    def _subscribe(self, inlet: Inlet) -> None:
        site, uplink, topics = self.buses.site, self.buses.uplink, self.topics
        site.subscribe(topics.frames("+"), self._mailbox.post_frame, qos=1, held=True)
        site.subscribe(topics.request("+"), self._into(inlet.request), qos=1)
        uplink.subscribe(topics.workers("state"), self._into(inlet.worker_state), qos=1)
        uplink.subscribe(topics.workers("profile"), self._into(inlet.worker_profile), qos=1)
        uplink.subscribe(topics.reply(topics.device), self._into(inlet.reply), qos=0)
        uplink.subscribe(topics.probe_reply(topics.device), self._into(inlet.probe_reply), qos=0)
        uplink.on_connection(
            lambda connected, reason: self._mailbox.post(ev.UplinkChanged(connected, reason, uplink.max_packet_bytes))
        )

    def _into(self, parse: Callable[[Message], list[ev.Event]]) -> Callable[[Message], None]:
        return lambda message: self._mailbox.post_message(Arrived(parse, message), len(message.payload))

    def _schedule(self) -> list[Any]:
        """Return the schedule, then what it starts."""
        probe = self.config.probe
        jobs: dict[str, tuple[float, Callable[[], None]]] = {
            "probe": (probe.interval_seconds, lambda: self._mailbox.post(ev.Due("probe"))),
            "replan": (_REPLAN_SECONDS, lambda: self._mailbox.post(ev.Due("replan"))),
            "metrics": (self.config.metrics.interval_seconds, lambda: self._mailbox.post(ev.Due("metrics"))),
        }
        if not probe.speedtest:
            return [Schedule(jobs)]
        speedtest = SpeedTest(lambda rate: self._mailbox.post(ev.SpeedMeasured(rate)))
        jobs["speedtest"] = (max(3600.0, probe.interval_seconds), speedtest.start)
        return [Schedule(jobs), speedtest]


def brain_settings(config: AgentConfig, bundle: bundles.Bundle) -> Settings:
    """Return what of the configuration concerns the brain.

    Raises:
        ConfigurationError: planning cannot go by it with this model.

    """
    return Settings(
        planner_settings(config, bundle),
        probe_interval_seconds=config.probe.interval_seconds,
        probe_daily_bytes=config.probe.daily_bytes,
        metrics_window_seconds=config.metrics.window_seconds,
    )


def mqtt_buses(config: AgentConfig, will: Will) -> Buses:
    """Return the connections that the configuration names."""
    session = config.mqtt.session_seconds
    site = mqtt_bus(config.mqtt, f"popexd-{config.mqtt.site}-{config.mqtt.device}", will, session)
    if config.uplink is None:
        return Buses(site, site)
    return Buses(site, mqtt_bus(config.uplink, f"popexd-{config.mqtt.site}-{config.mqtt.device}-up", will))


def mqtt_bus(broker: Broker, client_id: str, will: Will, session_seconds: int = 0) -> Bus:
    """Return a connection to a configured broker."""
    return MqttBus(mqtt_settings(broker, client_id=client_id, session_seconds=session_seconds), will)


def _diary_path(config: AgentConfig) -> Path:
    """Return where notes outlive this process: systemd's folder in memory, else beside the measurements."""
    folder = Path(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or config.runtime.cache_folder)
    return folder / f"diary-{config.mqtt.site}+{config.mqtt.device}"

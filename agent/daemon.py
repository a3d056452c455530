"""The agent as the process around it sees it: signs of life, a line of status, settings read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from popexd import config as settings
from popexd import logs
from popexd.changes import changes, merged
from popexd.fitting import bundle_of, from_file, planner_settings
from popexd.logs import get_logger
from popexd.service import Pulse

from .runtime import Agent

log = get_logger("agent")

_LOOP_PATIENCE_SECONDS = 10.0
_COMPUTE_PATIENCE_SECONDS = 30.0
_SCHEDULE_PATIENCE_SECONDS = 30.0
_BUS_PATIENCE_SECONDS = 30.0
"""On top of the keepalive time, after which a connection that is not answered ends."""


class Daemon:
    """An agent and the file that it was configured from."""

    def __init__(self, agent: Agent, path: Path | None) -> None:
        self.agent = agent
        self._path = path

    def start(self) -> None:
        """Return once frames can be answered."""
        with from_file(self._path):
            self.agent.start()

    def stop(self) -> bool:
        """Answer what is owed and end; tell whether all of it was answered."""
        return self.agent.stop()

    def status(self) -> str:
        """Say which model, where it is cut, and where answers come from."""
        alone = "" if self.agent.buses.site.connected else "; no connection to the broker"
        return f"{self.agent.loop.status}{alone}"

    def pulses(self) -> Mapping[str, Pulse]:
        """Return the loop's, the compute thread's, the schedule's, and that of every connection."""
        agent, config = self.agent, self.agent.config
        found = {
            "loop": Pulse(lambda: agent.loop.progress, _LOOP_PATIENCE_SECONDS),
            "compute": Pulse(agent.compute.heartbeat, _COMPUTE_PATIENCE_SECONDS),
            "schedule": Pulse(lambda: agent.schedule.progress, _SCHEDULE_PATIENCE_SECONDS),
            "site": Pulse(agent.buses.site.heartbeat, config.mqtt.keepalive_seconds + _BUS_PATIENCE_SECONDS),
        }
        if config.uplink is not None:
            patience = config.uplink.keepalive_seconds + _BUS_PATIENCE_SECONDS
            found["uplink"] = Pulse(agent.buses.uplink.heartbeat, patience)
        return found

    def reload(self) -> str:
        """Read the file again and put in force what can change now; return what cannot.

        Raises:
            ConfigurationError: nothing has changed.

        """
        told = settings.load_agent(self._path)
        found = changes(self.agent.config, told)
        with from_file(self._path):
            if told.model != self.agent.config.model:
                planner_settings(told, bundle_of(told))  # the next start is to have no surprise
            self.agent.reconfigure(merged(self.agent.config, told))
        logs.configure(told.log.level, told.log.format)
        log.info("configuration.reloaded", changed=",".join(found.live), needs_restart=",".join(found.waiting))
        return found.note

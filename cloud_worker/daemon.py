"""The worker as the process around it sees it: signs of life, a line of status, settings read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from popexd import config as settings
from popexd import logs
from popexd.changes import changes, merged
from popexd.logs import get_logger
from popexd.service import Pulse

from .worker import Worker

log = get_logger("worker")

_SERVE_PATIENCE_SECONDS = 30.0
_BUS_PATIENCE_SECONDS = 30.0
"""On top of the keepalive time, after which a connection that is not answered ends."""


class Daemon:
    """A worker and the file that it was configured from."""

    def __init__(self, worker: Worker, path: Path | None) -> None:
        self.worker = worker
        self._path = path

    def start(self) -> None:
        """Return once tensors can be answered."""
        self.worker.start()

    def stop(self) -> bool:
        """Answer what is here and end; tell whether all of it was answered."""
        return self.worker.stop()

    def status(self) -> str:
        """Say which models are served, and how much was done since the start."""
        alone = "" if self.worker.bus.connected else "; no connection to the broker"
        return f"{self.worker.status}{alone}"

    def pulses(self) -> Mapping[str, Pulse]:
        """Return the serving thread's and the connection's."""
        worker = self.worker
        patience = worker.config.mqtt.keepalive_seconds + _BUS_PATIENCE_SECONDS
        return {
            "worker": Pulse(lambda: worker.progress, _SERVE_PATIENCE_SECONDS),
            "broker": Pulse(worker.bus.heartbeat, patience),
        }

    def reload(self) -> str:
        """Read the file again and put in force what can change now; return what cannot.

        Raises:
            ConfigurationError: nothing has changed.

        """
        told = settings.load_worker(self._path)
        found = changes(self.worker.config, told)
        self.worker.config = merged(self.worker.config, told)
        logs.configure(told.log.level, told.log.format)
        log.info("configuration.reloaded", changed=",".join(found.live), needs_restart=",".join(found.waiting))
        return found.note

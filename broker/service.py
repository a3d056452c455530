"""Mosquitto run from a broker's folder: follows its changes, and logs who was refused what."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from popexd.errors import ConfigurationError
from popexd.logs import get_logger

from .accounts import BrokerFolder
from .audit import Audit, by_name
from .config import BrokerSettings
from .heartbeat import Heartbeat
from .process import Broker

log = get_logger("broker")

_DAY_SECONDS = 86_400.0
_SOON = timedelta(days=30)


class Service:
    """The broker of a folder, between `start` and `stop`.

    Args:
        folder: where `popexd broker init` was done.
        port: instead of the folder's; 0 takes a free one.
        heartbeat: feeds a watchdog.
        max_packet_bytes: the largest packet accepted.

    """

    def __init__(
        self,
        folder: BrokerFolder,
        port: int | None = None,
        heartbeat: Heartbeat | None = None,
        max_packet_bytes: int = BrokerSettings().max_packet_bytes,
    ) -> None:
        self._folder = folder
        self._heartbeat = heartbeat or Heartbeat()
        register = folder.read()
        self._refresh()
        self._audit = Audit(by_name(register.users), register.site, str(self._heartbeat.path or ""))
        settings = replace(
            folder.settings(), audited=True, max_packet_bytes=max_packet_bytes, extra_lines=self._heartbeat.lines
        )
        self.broker = Broker(
            register.port if port is None else port, folder.path.absolute(), settings, reader=self._read
        )
        self._generation = folder.generation()
        self._unreadable: tuple[int, ...] = ()
        self._warn_at = 0.0

    def _refresh(self) -> None:
        """See to it that an upgrade's new topics are allowed to those who have an account already."""
        try:
            if self._folder.refresh():
                log.info("rights.renewed")
        except ConfigurationError as error:
            log.warning("rights.as_before", error=str(error))

    def start(self) -> None:
        """Run Mosquitto and wait until it accepts connections; see `Broker.start` for what is raised."""
        self.broker.start()

    def stop(self) -> None:
        """End it."""
        self.broker.stop()

    def look(self) -> None:
        """See whether the folder has changed, whether Mosquitto answers, and once a day what is about to expire."""
        self.follow()
        self._heartbeat.look()
        if time.monotonic() >= self._warn_at:
            self._warn_of_expiry()
            self._warn_at = time.monotonic() + _DAY_SECONDS

    def follow(self) -> None:
        """Let Mosquitto read its files again if they have changed."""
        generation = self._folder.generation()
        if generation == self._generation:
            return
        try:
            self._audit.users = by_name(self._folder.read().users)
        except ConfigurationError as error:
            if generation != self._unreadable:
                log.warning("accounts.unreadable", error=str(error))
            self._unreadable = generation
            return
        self._generation = generation
        self.broker.reload()
        log.info("accounts.reloaded", accounts=len(self._audit.users))

    def _read(self, line: str) -> str | None:
        kept, finding = self._audit.read(line)
        if finding is not None:
            (log.warning if finding.refused else log.info)(finding.event, **finding.fields)
        return kept

    def _warn_of_expiry(self) -> None:
        try:
            expiring = self._folder.expiring()
        except ConfigurationError as error:
            log.warning("certificates.unreadable", error=str(error))
            return
        for name, end in expiring.items():
            if end - datetime.now(UTC) < _SOON:
                log.warning("certificate.expires", account=name, at=end.isoformat(), do=f"popexd broker renew {name}")

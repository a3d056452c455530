"""Cameras that never send the next frame before the last one was answered: none of theirs may be missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import cycle

from popexd.bus.base import Delivery
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.lab.conveyor import scene
from popexd.protocol.topics import DeviceTopics

_PATIENCE_SECONDS = 90.0
# A frame that the broker may have forgotten is not waited for as long.
_FORGOTTEN_SECONDS = 30.0
_PICTURES = 8


class Witness:
    """Publishes at QoS 1, so that an agent that is killed owes its answers all the same.

    Arguments:
        port: the site's broker.
        topics: the device's.
        names: the cameras.
        answered: tells whether a frame has an answer.
        forgotten: a count that changes when the broker dies, and when everybody is back: what it had taken from us it
            may have forgotten, and who was not back yet has not heard what was said.

    """

    def __init__(
        self,
        port: int,
        topics: DeviceTopics,
        names: tuple[str, ...],
        answered: Callable[[str], bool],
        forgotten: Callable[[], int],
    ) -> None:
        self.published = 0
        self.excused = 0
        self.missing: list[str] = []
        self._topics = topics
        self._answered = answered
        self._forgotten = forgotten
        self._bus = MqttBus(MqttSettings(port=port))
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._publish, args=(name,), daemon=True) for name in names]

    def start(self) -> None:
        """Begin."""
        self._bus.start()
        self._bus.wait_connected(_PATIENCE_SECONDS)
        for thread in self._threads:
            thread.start()

    @property
    def connected(self) -> bool:
        """Whether the broker hears us."""
        return self._bus.connected

    def stop(self) -> None:
        """Publish no more, and wait for what is owed."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(_PATIENCE_SECONDS + 5)
        self._bus.stop()

    def _publish(self, camera: str) -> None:
        pictures = cycle([scene(index, 7, (160, 120)).jpeg() for index in range(_PICTURES)])
        number = 0
        while not self._stopped.wait(0.02):
            number += 1
            frame_id, forgotten = f"{camera}-{number}", self._forgotten()
            fate: list[Delivery] = []
            self._bus.publish(
                self._topics.frames(camera),
                next(pictures),
                qos=1,
                user_properties=[("frame_id", frame_id)],
                on_done=fate.append,
            )
            missing = not self._comes(frame_id, fate, lambda before=forgotten: self._forgotten() > before)  # type: ignore[misc]
            with self._lock:
                self.published += 1
                if missing and (Delivery.NO_SUBSCRIBERS in fate or self._forgotten() > forgotten):
                    self.excused += 1
                elif missing:
                    self.missing.append(frame_id)

    def _comes(self, frame_id: str, fate: list[Delivery], forgotten: Callable[[], bool]) -> bool:
        """Wait for the answer; a broker that was started anew and knows no agent yet says that there will be none."""
        begun, pause = time.monotonic(), threading.Event()
        while not self._answered(frame_id):
            patience = _FORGOTTEN_SECONDS if forgotten() else _PATIENCE_SECONDS
            if time.monotonic() > begun + patience or Delivery.NO_SUBSCRIBERS in fate:
                return False
            pause.wait(0.01)
        return True

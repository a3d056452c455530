"""The worker's living parts: presence and profile on the bus, one thread that serves."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import popexd
from popexd import bundle as bundles
from popexd.bus.base import Bus, Will
from popexd.bus.configured import mqtt_settings
from popexd.bus.mqtt import MqttBus
from popexd.config import WorkerConfig
from popexd.coordinator.statistics import percentile
from popexd.errors import ConfigurationError, MessageRejected
from popexd.logs import fault, get_logger
from popexd.plan import Tier
from popexd.protocol.messages import Percentiles, TensorCounts, WorkerMetrics, WorkerProfile, WorkerState
from popexd.protocol.replies import ProbeReply, parse_probe
from popexd.protocol.tensors import TensorLimits
from popexd.protocol.topics import SiteTopics, valid_name
from popexd.runtime import background
from popexd.runtime.segments import SegmentRunner

from .backlog import Backlog, Waiting
from .engine import INTERNAL, Answered, Engine, Forwarded, Outcome

log = get_logger("worker")

_PROBE = "probe"
_RETIRE_SECONDS = 2.0


class Worker:
    """A stateless worker of one tier; any number of them share the load.

    Raises:
        ConfigurationError, BundleError: from the constructor or `start`; nothing runs then.

    """

    def __init__(self, config: WorkerConfig, bus: Callable[[WorkerConfig, Will], Bus] | None = None) -> None:
        self.config = config
        self.name, self.tier = config.worker.name, Tier.of(config.worker.tier)
        self.topics = SiteTopics(config.mqtt.site)
        self.progress = 0
        self._bundles = [bundles.load(name) for name in config.model.names]
        names = Counter(bundle.name for bundle in self._bundles)
        for name, times in names.items():
            if times > 1 or not valid_name(name) or name == _PROBE:
                raise ConfigurationError(f"model.bundles: {name!r} cannot be served, expected different plain names")
        self._since = datetime.now(UTC)
        will = Will(self.topics.worker(self.name, "state"), self._state("offline", "connection lost"))
        self.bus = (bus or mqtt_bus)(config, will)
        self._backlog = Backlog()
        self._filters: list[str] = []
        self._undo: list[Callable[[], None]] = []
        self._counts = TensorCounts()
        self._rejected: Counter[str] = Counter()
        self._recent: deque[tuple[float, float]] = deque(maxlen=4096)
        self._thread = threading.Thread(target=self._serve, name="worker", daemon=True)
        self._engine: Engine

    def _state(self, state: str, reason: str | None = None) -> bytes:
        return WorkerState.model_validate(
            {
                "state": state,
                "worker": self.name,
                "tier": self.tier.label,
                "version": popexd.__version__,
                "models": {bundle.name: bundle.fingerprint for bundle in self._bundles},
                "since": self._since if state == "online" else None,
                "reason": reason,
            }
        ).to_bytes()

    def start(self) -> None:
        """Load and measure every model, then connect and serve."""
        runtime, limits = self.config.runtime, self.config.limits
        runners = {bundle.fingerprint: SegmentRunner(bundle, runtime.threads) for bundle in self._bundles}
        profiles = {
            fingerprint: background.measured_once(
                runner, runner.bundle, runtime.cache_folder, slowdown=runtime.slowdown
            )
            for fingerprint, runner in runners.items()
        }
        tensor_limits = TensorLimits(message_bytes=limits.tensor_bytes)
        paces = profiles if runtime.slowdown > 1 else {}
        self._engine = Engine(runners, self.name, self.tier, tensor_limits, limits, paces)
        tier = self.tier.label
        for model in [*(bundle.name for bundle in self._bundles), _PROBE]:
            self._filters.append(self.topics.shared_tensors(tier, model))
            self._undo.append(self.bus.subscribe(self._filters[-1], self._backlog.put, qos=1))
        self._thread.start()
        self.bus.start()
        said = {fingerprint: profile.to_json() for fingerprint, profile in profiles.items()}
        profile = WorkerProfile.model_validate({"worker": self.name, "tier": tier, "models": said})
        self.bus.retain(self.topics.worker(self.name, "profile"), profile.to_bytes())
        self.bus.retain(self.topics.worker(self.name, "state"), self._state("online"))
        log.info("worker.started", worker=self.name, tier=tier, models=[bundle.name for bundle in self._bundles])

    def stop(self, timeout_seconds: float = 10.0) -> bool:
        """Have nothing more sent, answer what was, say that we are offline; tell whether everything was answered."""
        give_up_at = time.monotonic() + timeout_seconds
        self._retire(give_up_at)
        for undo in self._undo:
            undo()
        self._backlog.close()
        self._thread.join(max(0.0, give_up_at - time.monotonic()))
        self.bus.retain(self.topics.worker(self.name, "state"), self._state("offline", "stopped"))
        self.bus.stop()
        log.info("worker.stopped", answered=not self._thread.is_alive())
        return not self._thread.is_alive()

    def _retire(self, give_up_at: float) -> None:
        """Take our share no more, and wait for what is on its way: until a whole round trip has brought nothing."""
        arrived = -1
        while arrived != self._backlog.arrived:
            arrived = self._backlog.arrived
            retired = threading.Semaphore(0)
            for topic_filter in self._filters:
                self.bus.retire(topic_filter, lambda done=retired: done.release())  # type: ignore[misc]
            for _ in self._filters:
                if not retired.acquire(timeout=max(0.0, min(_RETIRE_SECONDS, give_up_at - time.monotonic()))):
                    return

    @property
    def status(self) -> str:
        """The line that `systemctl status` shows."""
        models = ", ".join(bundle.name for bundle in self._bundles)
        rejected = sum(self._rejected.values())
        return f"{self.tier.label} worker of {models}; {self._counts.answered} answered, {rejected} rejected"

    # ------------------------------------------------------------------------------------------ the thread

    def _serve(self) -> None:
        due = time.monotonic()
        while not self._backlog.done:
            if time.monotonic() >= due:
                due = time.monotonic() + self.config.metrics.interval_seconds
                self._carefully(self._report)
            waiting = self._backlog.get(min(1.0, due - time.monotonic()))
            if waiting is not None and not self._carefully(partial(self._take, waiting)):
                self._carefully(partial(self._failed, waiting))
            self.progress += 1
        self._carefully(self._report)

    def _carefully(self, work: Callable[[], None]) -> bool:
        """Do some work; tell whether it came off. A fault of ours costs one message, never the thread."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 see above
            log.error("worker.failed", detail=fault(error))  # noqa: TRY400 one line
            return False
        return True

    def _take(self, waiting: Waiting) -> None:
        if waiting.message.topic.endswith(f"/{_PROBE}"):
            self._echo(waiting)
            return
        self._counts.received += 1
        queue_seconds = time.monotonic() - waiting.arrived_at
        self._publish(self._engine.handle(waiting.message.payload, queue_seconds))
        self._recent.append((time.monotonic(), time.monotonic() - waiting.arrived_at))

    def _failed(self, waiting: Waiting) -> None:
        """Count what could not be served, and tell its sender where that can be read."""
        if waiting.message.topic.endswith(f"/{_PROBE}"):
            self._rejected[f"probe-{INTERNAL}"] += 1
            return
        self._rejected[INTERNAL] += 1
        reply = self._engine.failed(waiting.message.payload).reply
        if reply is not None:
            self.bus.publish(self.topics.reply(reply.device), reply.to_bytes())

    def _publish(self, outcome: Outcome) -> None:
        """Send on what came of a message, then count it: what fails before is counted as that, and once."""
        if isinstance(outcome, Forwarded):
            topic = self.topics.tensors(outcome.tier.label, outcome.model)
            payload = outcome.message.to_bytes()
            # Whatever becomes of it, the agent's deadline covers it.
            self.bus.publish_bulk(
                topic, payload, on_done=lambda _: None, expiry_seconds=outcome.message.deadline_seconds
            )
            self._counts.forwarded += 1
            return
        if outcome.reply is not None:
            self.bus.publish(self.topics.reply(outcome.reply.device), outcome.reply.to_bytes())
        if isinstance(outcome, Answered):
            self._counts.answered += 1
        else:
            self._rejected[outcome.reason] += 1
            log.warning("tensor.rejected", reason=outcome.reason, detail=outcome.detail[:200])

    def _echo(self, waiting: Waiting) -> None:
        try:
            probe = parse_probe(waiting.message.payload)
        except MessageRejected as error:
            self._rejected[f"probe-{error.reason}"] += 1
            return
        if probe.device is None:
            return
        reply = ProbeReply(
            seq=probe.seq,
            size_bytes=len(waiting.message.payload),
            worker=self.name,
            seconds=time.monotonic() - waiting.arrived_at,
        )
        self.bus.publish(self.topics.probe_reply(probe.device), reply.to_bytes())

    def _report(self) -> None:
        now = time.monotonic()
        window = 60.0
        recent = [(at, seconds) for at, seconds in self._recent if now - at <= window]
        ordered = sorted(seconds for _, seconds in recent)
        rejected = Counter(self._rejected)
        received = self._counts.received + self._backlog.pushed_out
        if self._backlog.pushed_out:
            rejected["overload"] = self._backlog.pushed_out
        metrics = WorkerMetrics(
            at=datetime.now(UTC),
            worker=self.name,
            tier=self.tier.label,  # type: ignore[arg-type]
            queue_depth=len(self._backlog),
            tensors=self._counts.model_copy(update={"rejected": dict(rejected), "received": received}),
            rate_per_second=len(recent) / window,
            seconds=Percentiles(
                p50=percentile(ordered, 0.5),
                p95=percentile(ordered, 0.95),
                p99=percentile(ordered, 0.99),
                mean=sum(ordered) / len(ordered) if ordered else None,
            ),
        )
        self.bus.retain(self.topics.worker(self.name, "metrics"), metrics.to_bytes(), qos=0)


def mqtt_bus(config: WorkerConfig, will: Will) -> Bus:
    """Return the connection that the configuration names."""
    return MqttBus(mqtt_settings(config.mqtt, client_id=f"popexd-{config.mqtt.site}-worker-{config.worker.name}"), will)

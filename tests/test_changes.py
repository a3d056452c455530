"""What a configuration that is read again may change, and what has to wait."""

from __future__ import annotations

from pathlib import Path

from popexd.changes import LIVE, changes, merged
from popexd.config import AgentConfig, WorkerConfig


def agent(**tables: dict[str, object]) -> AgentConfig:
    """A configuration with these tables over the defaults."""
    return AgentConfig.model_validate({"mqtt": {"device": "box"}, **tables})


def test_planner_probe_metrics_and_log_change_live_the_rest_waits() -> None:
    """Each key is named as it is written in the file."""
    old = agent()
    new = agent(
        mqtt={"device": "box", "port": 1884},
        uplink={"host": "cloud"},
        planner={"thresholds": {"b1": 0.5}, "objective": "bytes"},
        probe={"daily_bytes": 1, "speedtest": True},
        log={"level": "debug"},
    )
    found = changes(old, new)

    assert found.live == ("planner.objective", "planner.thresholds", "probe.daily_bytes", "log.level")
    assert {"mqtt.port", "uplink.host", "probe.speedtest"} <= set(found.waiting)
    assert found.note.startswith("needs a restart: mqtt.port, uplink.")


def test_only_what_is_live_is_taken_over() -> None:
    """So that what is in force and what is reported never differ; a second reload names the rest again."""
    old, new = agent(), agent(mqtt={"device": "other"}, planner={"mode": "device"}, limits={"frame_bytes": 5})
    taken = merged(old, new)

    assert taken.planner.mode == "device"
    assert (taken.mqtt.device, taken.limits.frame_bytes) == ("box", old.limits.frame_bytes)
    assert changes(taken, new).waiting == ("mqtt.device", "limits.frame_bytes")
    assert changes(taken, new).live == ()


def test_nothing_new_is_nothing() -> None:
    """The same file again."""
    assert changes(agent(), agent()).note == ""


def test_a_worker_has_little_to_change(tmp_path: Path) -> None:
    """Its metrics' interval and its log."""
    old = WorkerConfig()
    new = WorkerConfig.model_validate({"metrics": {"interval_seconds": 1.0}, "runtime": {"cache_folder": tmp_path}})

    assert changes(old, new).live == ("metrics.interval_seconds",)
    assert changes(old, new).waiting == ("runtime.cache_folder",)


def test_every_live_key_exists() -> None:
    """A key that was renamed would silently need a restart."""
    for kind, sections in LIVE.items():
        for section, keys in sections.items():
            model = kind.model_fields[section].annotation
            assert model is not None
            assert keys <= set(model.model_fields)

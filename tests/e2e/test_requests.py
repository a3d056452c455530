"""What may be asked of a running agent, and what strangers may say to it without harm."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from popexd.bundle import Bundle
from popexd.protocol.messages import DecisionPayload, WorkerProfile, WorkerState
from popexd.protocol.replies import Reply

from .rig import TOPICS, bundle, photo
from .site import Site

# ------------------------------------------------------------------------------------------------- verbs


def test_status_tells_what_there_is(site: Site) -> None:
    """Settings, plan, workers, uplink and counts."""
    link = {"connected": True, "usable": True, "suspect": []}  # which a busy machine may cast a doubt on for a while
    said = site.watch.until(
        lambda: (told := site.watch.ask("status")).data is not None and told.data["uplink"] == link and told, "a link"
    )

    assert said.status == "ok"
    assert said.data is not None
    assert said.data["workers"] == {"w1": "cloud"}
    assert said.data["settings"]["mode"] in ("auto", "device", "edge", "cloud")
    assert set(said.data["frames"]) >= {"received", "taken", "dropped", "answered", "rejected"}


def test_probe_measures_the_link_anew(site: Site) -> None:
    """Bytes go out, and the estimate is as young as the request."""
    spent = site.metrics().probe_bytes
    said = site.watch.ask("probe")

    assert said.data == {"ordered": True, "workers": ["w1"]}
    site.watch.until(lambda: site.metrics().probe_bytes > spent, "a probe")


def test_replan_names_the_plan_in_force(site: Site) -> None:
    """The response carries the plan's id and cut."""
    said = site.watch.ask("replan")

    def told() -> list[dict[str, Any]]:
        made = site.watch.payloads(TOPICS.decision, DecisionPayload)
        return [{"plan_id": each.plan_id, "cut": each.cut} for each in made]

    site.watch.until(lambda: said.data in told(), "that decision")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mode", "device"),
        ("mode", "edge"),
        ("mode", "auto"),
        ("mode", "cloud"),
        ("solver", "brute-force"),
        ("solver", "shortest-path"),
        ("solver", "joint"),
        ("objective", "p95"),
        ("objective", "bytes"),
        ("objective", "device_seconds"),
        ("objective", "throughput"),
        ("objective", "seconds"),
        ("min_accuracy", 0.5),
        ("min_accuracy", None),
        ("min_agreement", 0.9),
        ("deadline_seconds", 3),
        ("dwell_seconds", 0.5),
        ("quantile", 0.5),
        ("thresholds", {"b1": 0.5}),
    ],
)
def test_every_key_of_the_planner_can_be_set(site: Site, key: str, value: Any) -> None:
    """The response shows the settings in force; frames are answered under them."""
    said = site.watch.ask("set", **{key: value})

    assert said.status == "ok", said.error
    assert said.data is not None
    expected = {**said.data["thresholds"], **value} if isinstance(value, dict) else value
    assert said.data[key] == expected
    status = site.watch.ask("status")
    assert status.data is not None
    assert status.data["settings"][key] == expected
    site.alive()


def test_thresholds_add_up_over_requests(site: Site) -> None:
    """One exit's threshold leaves the others as they were set."""
    site.watch.ask("set", thresholds={"b1": 0.7})
    said = site.watch.ask("set", thresholds={"b3": 0.6})

    assert said.data is not None
    assert said.data["thresholds"] == {"b1": 0.7, "b3": 0.6}


def test_the_mode_says_where_frames_are_finished(site: Site) -> None:
    """Pinned to the device, to the cloud, and back, frames follow at once."""
    for number, mode in enumerate(["device", "cloud", "device", "cloud"]):
        site.watch.ask("set", mode=mode)
        site.watch.finished(mode, f"pinned-{number}", photo(number))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"colour": "red"}, "colour"),
        ({"mode": "sideways"}, "mode"),
        ({"mode": None}, "mode"),
        ({"mode": ["cloud"]}, "mode"),
        ({"mode": {"cloud": 1}}, "mode"),
        ({"solver": "guess"}, "solver"),
        ({"objective": 5}, "objective"),
        ({"min_accuracy": 1.5}, "min_accuracy"),
        ({"min_accuracy": "high"}, "min_accuracy"),
        ({"min_agreement": None}, "min_agreement"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"deadline_seconds": True}, "deadline_seconds"),
        ({"deadline_seconds": 10**300}, "deadline_seconds"),
        ({"deadline_seconds": float("nan")}, "deadline_seconds"),
        ({"dwell_seconds": -1}, "dwell_seconds"),
        ({"thresholds": 0.5}, "thresholds"),
        ({"thresholds": {"b9": 0.5}}, "thresholds"),
        ({"thresholds": {"b1": "x"}}, "thresholds.b1"),
        ({"mode": "device", "min_accuracy": 7}, "min_accuracy"),
        ({"event": "x"}, "event"),
    ],
)
def test_a_wrong_setting_changes_nothing(site: Site, fields: dict[str, Any], word: str) -> None:
    """The error names the key; what was set before stands, the whole request or nothing."""
    before = site.watch.ask("status").data
    said = site.watch.ask("set", **fields)
    after = site.watch.ask("status").data

    assert said.status == "error"
    assert said.error is not None
    assert said.error.startswith(word)
    assert before is not None
    assert after is not None
    assert before["settings"] == after["settings"]


@pytest.mark.parametrize(
    ("verb", "payload", "reason"),
    [
        ("dance", b'{"transaction": "bad-1"}', "verb"),
        ("status", b'{"transaction": "bad-1", "schema": "popexd/request/2"}', "schema"),
        ("status", b'{"transaction": "bad-1", "schema": 7}', "schema"),
        ("dance", b'{"transaction": 4711}', "verb"),
    ],
)
def test_a_malformed_request_with_a_transaction_is_told(site: Site, verb: str, payload: bytes, reason: str) -> None:
    """An error response, and a count by reason."""
    before = site.count("requests", reason)
    site.publish(TOPICS.request(verb), payload)

    transaction = json.loads(payload)["transaction"]
    said = site.watch.response(verb, transaction)
    assert said.status == "error"
    assert said.error is not None
    assert reason in said.error
    site.counted("requests", reason, before)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\x00", "json"),
        (b"[1, 2]", "json"),
        (b'{"transaction": "half', "json"),
        (b"[" * 100_000, "json"),
        (b'{"transaction": {"a": 1}}', "field"),
        (b'{"transaction": 1e999}', "field"),
        (b'{"transaction": "' + b"x" * 5000 + b'"}', "transaction"),
        (b'{"transaction": "\\ud800"}', "json"),
        (b'{"transaction": "odd", "\\ud800": 1}', "json"),
        (b'{"x": "' + b"x" * 1_100_000 + b'"}', "too-large"),
        (b'{"mode": "sideways"}', "value"),
    ],
)
def test_a_malformed_request_without_a_transaction_is_counted(site: Site, payload: bytes, reason: str) -> None:
    """Nobody to tell; the agent goes on."""
    before, responses = site.count("requests", reason), len(site.watch.messages(TOPICS.response("+")))
    site.publish(TOPICS.request("set"), payload)

    site.counted("requests", reason, before)
    site.alive()
    assert len(site.watch.messages(TOPICS.response("+"))) == responses


def test_a_request_without_a_transaction_is_carried_out(site: Site) -> None:
    """It works, silently; an empty payload asks for nothing in particular."""
    responses = len(site.watch.messages(TOPICS.response("+")))
    site.publish(TOPICS.request("set"), b'{"mode": "device"}')
    site.publish(TOPICS.request("replan"), b"")
    site.watch.cut_is("output")
    site.publish(TOPICS.request("set"), b'{"mode": "cloud"}')
    site.watch.cut_is("input")

    assert len(site.watch.messages(TOPICS.response("+"))) == responses


# ------------------------------------------------------------------------------------------------- replies


def reply(**over: Any) -> bytes:
    """Make a worker's answer, well-formed but for what is said otherwise."""
    fields: dict[str, Any] = {
        "frame_id": "stranger-1",
        "device": TOPICS.device,
        "worker": "w9",
        "tier": "cloud",
        "status": "ok",
        "class_index": 0,
        "label": bundle().classes[0],
        "confidence": 0.5,
        "exit": "final",
    }
    return json.dumps({**fields, **over}).encode()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "json"),
        (b"\x00\x01", "json"),
        (b"{", "json"),
        (b"[]", "json"),
        (b'{"schema": "popexd/reply/2"}', "schema"),
        (b"{}", "field"),
        (reply(), "stranger"),
        (reply(frame_id=""), "stranger"),
        (reply(frame_id="BOOT-"), "stranger"),
        (reply(frame_id="BOOT-x"), "stranger"),
        (reply(frame_id="BOOT-²"), "stranger"),
        (reply(frame_id="BOOT-" + "9" * 100), "stranger"),
        (reply(frame_id="BOOT-1", tier="moon"), "field"),
        (reply(frame_id="BOOT-1", tier="device"), "field"),
        (reply(frame_id="BOOT-1", confidence=1.5), "field"),
        (reply(frame_id="BOOT-1", confidence=float("nan")), "field"),
        (reply(frame_id="BOOT-1", label=None), "field"),
        (reply(frame_id="BOOT-1", class_index=-1), "field"),
        (reply(frame_id="BOOT-1", class_index=len(bundle().classes)), "field"),
        (reply(frame_id="BOOT-1", label="something else"), "field"),
        (reply(frame_id="BOOT-1", exit="b9"), "field"),
        (reply(frame_id="BOOT-1", label="\ud800"), "json"),
        (reply(frame_id="BOOT-1", seconds={"compute": "long"}), "field"),
        (reply(frame_id="BOOT-1", detail="x" * 1_100_000), "too-large"),
    ],
)
def test_a_bad_reply_is_counted(site: Site, payload: bytes, reason: str) -> None:
    """By reason; nothing comes of it, and the agent goes on."""
    before, answers = site.count("replies", reason), site.watch.results()
    site.publish(TOPICS.reply(TOPICS.device), payload.replace(b"BOOT", site.boot.encode()))

    site.counted("replies", reason, before)
    assert site.watch.results() == answers
    site.alive()


def test_a_reply_to_a_frame_that_was_answered_changes_nothing(site: Site) -> None:
    """Late, twice, or made up: a frame has one answer."""
    site.alive()
    answers = site.watch.results()
    for key in range(1, 50):
        site.publish(TOPICS.reply(TOPICS.device), reply(frame_id=f"{site.boot}-{key}"))
    site.watch.ask("status")

    assert site.watch.results() == answers


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"", "json"), (b"\xff" * 100, "json"), (b'{"seq": "x", "size_bytes": 1}', "field"), (b'{"seq": 1}', "field")],
)
def test_a_bad_probe_reply_is_counted(site: Site, payload: bytes, reason: str) -> None:
    """As any other reply."""
    before = site.count("replies", reason)
    site.publish(TOPICS.probe_reply(TOPICS.device), payload)

    site.counted("replies", reason, before)


# ------------------------------------------------------------------------------------------------- workers


def state(model: Bundle, **over: Any) -> bytes:
    """Make the state of a worker that holds a model."""
    fields = {"state": "online", "worker": "w9", "tier": "cloud", "models": {model.name: model.fingerprint}}
    return WorkerState.model_validate({**fields, **over}).to_bytes()


def profile(model: Bundle, **over: Any) -> bytes:
    """Make the profile of a worker, whatever it says of the model."""
    return WorkerProfile(worker="w9", tier="cloud", models={model.fingerprint: over}).to_bytes()


SECONDS = {"segments": {}, "exits": {}, "frame_seconds": 0.1, "frame_bytes": 1000, "threads": 1, "machine": "m"}


@pytest.mark.parametrize(
    ("leaf", "payload", "reason"),
    [
        ("state", b"{", "worker-json"),
        ("state", b'{"state": "asleep"}', "worker-field"),
        ("state", state(bundle(), tier="device"), "worker-tier"),
        ("profile", b"{", "worker-json"),
        ("profile", b'{"worker": "w9", "tier": "cloud", "models": {"f": 5}}', "worker-field"),
        ("profile", profile(bundle()), "worker-profile"),
        ("profile", profile(bundle(), **{**SECONDS, "fingerprint": "f", "frame_seconds": -1}), "worker-profile"),
        ("profile", profile(bundle(), **{**SECONDS, "fingerprint": 7}), "worker-profile"),
        ("profile", profile(bundle(), **{**SECONDS, "fingerprint": "f", "segments": "many"}), "worker-profile"),
        ("profile", profile(bundle(), **SECONDS, fingerprint=bundle().fingerprint), "worker-profile"),
    ],
)
def test_a_bad_word_of_a_worker_is_counted(site: Site, leaf: str, payload: bytes, reason: str) -> None:
    """A worker that says nonsense of itself is not planned with; the agent goes on with the others."""
    before = site.count("replies", reason)
    if leaf == "profile":
        site.publish(TOPICS.worker("w9", "state"), state(bundle()), retain=True)
    site.publish(TOPICS.worker("w9", leaf), payload, retain=True)

    site.counted("replies", reason, before)
    site.alive()
    for each in ("profile", "state"):
        site.publish(TOPICS.worker("w9", each), b"", retain=True)
    status = site.watch.ask("status")
    assert status.data is not None
    assert status.data["workers"] == {"w1": "cloud"}


def test_noise_on_every_topic_is_survived(site: Site) -> None:
    """Three hundred seeded messages of noise: mangled JSON and bytes, on all that the agent listens to."""
    chance = random.Random(2026)
    samples = [reply(), state(bundle()), profile(bundle(), **SECONDS), b'{"transaction": "n", "mode": "auto"}']
    topics = [TOPICS.reply(TOPICS.device), TOPICS.probe_reply(TOPICS.device), TOPICS.request("set")]
    topics += [TOPICS.request("probe"), TOPICS.worker("w8", "state"), TOPICS.worker("w8", "profile")]
    for _ in range(300):
        mangled = bytearray(chance.choice(samples))
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(len(mangled))
            mangled[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        site.publish(chance.choice(topics), bytes(mangled))
    site.alive()
    said = site.watch.ask("set", mode="cloud", solver="joint", objective="seconds")
    assert said.status == "ok"


def test_replies_as_they_should_be_are_accepted() -> None:
    """The maker of these tests' replies makes nothing that is refused for its form."""
    assert Reply.from_bytes(reply()).status == "ok"

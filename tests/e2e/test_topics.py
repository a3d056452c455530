"""What is on the wire: the topics of the table, readable payloads, and each broker's part."""

from __future__ import annotations

import json
import re

import pytest

from popexd.bus import Message
from popexd.protocol.messages import (
    AgentState,
    DecisionPayload,
    EventPayload,
    MetricsPayload,
    RequestPayload,
    ResponsePayload,
    ResultPayload,
    WorkerMetrics,
    WorkerProfile,
    WorkerState,
)
from popexd.protocol.payload import Payload
from popexd.protocol.topics import TABLE, TopicRule

from .rig import TOPICS, Rig, Watch, photo

KINDS: dict[str, type[Payload]] = {
    "popexd/{site}/{device}/state": AgentState,
    "popexd/{site}/{device}/decision": DecisionPayload,
    "popexd/{site}/{device}/metrics": MetricsPayload,
    "popexd/{site}/{device}/event": EventPayload,
    "popexd/{site}/{device}/results/{camera}": ResultPayload,
    "popexd/{site}/{device}/request/{verb}": RequestPayload,
    "popexd/{site}/{device}/response/{verb}": ResponsePayload,
    "popexd/{site}/workers/{worker}/state": WorkerState,
    "popexd/{site}/workers/{worker}/profile": WorkerProfile,
    "popexd/{site}/workers/{worker}/metrics": WorkerMetrics,
}
# What a watcher must have heard on either broker, by the last level of the topic or the one before.
SITE = {"state", "decision", "metrics", "event", "results", "request", "response"}
UPLINK = {"state", "decision", "metrics", "workers"}


def rules(topic: str) -> list[TopicRule]:
    """The rows of the topic table that allow this topic; names win over placeholders."""
    found = [rule for rule in TABLE if re.fullmatch(re.sub(r"{\w+}", "[^/]+", rule.pattern), topic)]
    return sorted(found, key=lambda rule: rule.pattern.count("{"))


def parts(messages: list[Message]) -> set[str]:
    """Return which parts of the control tree were heard."""
    return {
        level
        for message in messages
        for level in message.topic.split("/")
        if level in SITE | UPLINK and (level != "state" or "/workers/" not in message.topic)
    }


@pytest.fixture(scope="module")
def heard(module_rig: Rig) -> tuple[Watch, Watch]:
    """Everything on the site's and on the uplink's broker while frames, requests and rubbish come in."""
    rig = module_rig
    site, uplink = rig.broker(), rig.broker()
    near, far = rig.watch(site.port, "#"), rig.watch(uplink.port, "#")
    rig.worker(rig.worker_tables(uplink.port))
    agent = rig.agent(rig.agent_tables(site.port, uplink.port))
    near.cut_is("input")
    for index in range(4):
        near.send(f"c{index}", photo(index), f"f{index}")
        near.answer(f"f{index}")
    near.send("c0", b"no picture")
    near.ask("status")
    near.ask("set", mode="device")
    near.ask("set", mode="sideways")
    near.ask("replan")
    near.ask("probe")
    near.at_rest(5)
    agent.stop()
    far.until(lambda: far.agent_is("offline"), "the farewell")
    return near, far


def test_the_control_tree_holds_the_table_and_nothing_else(heard: tuple[Watch, Watch]) -> None:
    """Every topic below popexd/ is one of the contract's, every payload is JSON of that topic's schema."""
    for watch in heard:
        messages = watch.messages("popexd/#")
        for message in messages:
            (rule, *_) = rules(message.topic)
            document = json.loads(message.payload)
            kind = KINDS[rule.pattern]
            kind.from_bytes(message.payload)
            assert "/request/" in message.topic or document["schema"] == kind.SCHEMA
            assert document.keys() >= {
                (field.alias or name) for name, field in kind.model_fields.items() if field.is_required()
            }


def test_each_broker_carries_its_part(heard: tuple[Watch, Watch]) -> None:
    """Frames and answers go through the site's broker, tensors and workers through the uplink's; both can watch."""
    near, far = heard

    assert parts(near.messages("popexd/#")) == SITE
    assert parts(far.messages("popexd/#")) == UPLINK
    assert {message.topic.split("/")[2] for message in near.messages("popexd-data/#")} == {TOPICS.device}
    assert {message.topic.rsplit("/", 1)[0] for message in near.messages("popexd-data/#")} == {
        TOPICS.frames("").rstrip("/")
    }
    leaves = {message.topic.removeprefix("popexd-data/lab/") for message in far.messages("popexd-data/#")}
    assert leaves == {"tier/cloud/conveyor-b-alexnet", "tier/cloud/probe", "box/reply", "box/probe-reply"}


def test_everything_else_stays_within_the_table_too(heard: tuple[Watch, Watch]) -> None:
    """No message of ours leaves the two trees, whatever the tree."""
    for watch in heard:
        assert all(rules(message.topic) for message in watch.messages("#"))


def test_what_is_to_be_retained_is(heard: tuple[Watch, Watch], module_rig: Rig) -> None:
    """Who comes late hears the state, the plan, the figures and the workers, and nothing that has passed."""
    for watch in heard:
        late = module_rig.watch(watch.bus.settings.port, "#")
        expected = {message.topic for message in watch.messages("#") if rules(message.topic)[0].retained}

        late.until(lambda late=late, expected=expected: {each.topic for each in late.messages("#")} >= expected, "it")  # type: ignore[misc]

        assert {message.topic for message in late.messages("#")} == expected
        # A worker goes on to tell its figures: what it says from now on comes live.
        first = {message.topic: message for message in reversed(late.messages("#"))}
        assert all(message.retain for message in first.values())


def test_figures_of_a_decision_are_the_contracts(heard: tuple[Watch, Watch]) -> None:
    """A decision says where, why, what it is expected to cost, and what the rivals would have."""
    near, far = heard
    by_plan = {each.plan_id: each for each in near.payloads(TOPICS.decision, DecisionPayload)}
    followed = [by_plan[near.results()[f"f{index}"][0].plan_id] for index in range(4)]
    made = next(each for each in followed if each.cut == "input")

    assert made.plan_id in {each.plan_id for each in far.payloads(TOPICS.decision, DecisionPayload)}
    assert made.codec == "camera"
    assert set(made.tiers.values()) == {"cloud"}
    assert made.predicted.seconds > 0
    assert made.predicted.accuracy is not None
    assert {alternative.strategy for alternative in made.alternatives} >= {"device-only"}
    assert made.network["device"].bits_per_second is not None

"""What is known of who asked for something, and what is done with it."""

from __future__ import annotations

import json

import pytest

from .rig import TOPICS, Rig, Watch


@pytest.fixture(scope="module")
def watch(module_rig: Rig) -> Watch:
    """An agent alone on a broker, and who listens to it."""
    broker = module_rig.broker()
    watching = module_rig.watch(broker.port)
    module_rig.agent(module_rig.agent_tables(broker.port))
    watching.cut_is("output")
    return watching


@pytest.mark.parametrize(("who", "said"), [("boss", [("client", "boss")]), (None, []), (None, [("client", "x" * 400)])])
def test_a_setting_is_published_with_who_asked_for_it(
    watch: Watch, who: str | None, said: list[tuple[str, str]]
) -> None:
    """The transaction, and the name the sender gave itself; what was not said is not made up."""
    seen = len(watch.events("settings.changed"))
    payload = json.dumps({"transaction": "t-asked", "dwell_seconds": 1.5 + seen}).encode()
    watch.bus.publish(TOPICS.request("set"), payload, qos=1, user_properties=said)
    watch.until(lambda: len(watch.events("settings.changed")) > seen, "settings.changed")

    event = watch.events("settings.changed")[-1]
    assert (event["transaction"], event["asked_by"], event["dwell_seconds"]) == ("t-asked", who, 1.5 + seen)


def test_a_transaction_that_nobody_could_remember_is_refused(watch: Watch) -> None:
    """Its response would be as large as the request."""
    before = watch.metrics().requests.by_reason.get("transaction", 0)
    payload = json.dumps({"transaction": "x" * 5_000}).encode()
    watch.bus.publish(TOPICS.request("status"), payload, qos=1)
    watch.until(lambda: watch.metrics().requests.by_reason.get("transaction", 0) > before, "its count")


def test_an_error_is_no_longer_than_a_line(watch: Watch) -> None:
    """Whatever was asked for."""
    said = watch.ask("set", "long", mode="x" * 100_000)

    assert said.status == "error"
    assert said.error is not None
    assert len(said.error) <= 500

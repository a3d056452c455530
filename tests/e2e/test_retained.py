"""What a broker has stored is old: asked, shown or said once, it is not carried out again at each connect."""

from __future__ import annotations

import json

from popexd.protocol.replies import ProbeReply

from .rig import TOPICS, Rig, photo


def test_what_was_stored_is_not_carried_out_again(rig: Rig) -> None:
    """A request, a frame and an echo from before the agent was started: counted, nothing else; live ones count."""
    broker = rig.broker()
    watch = rig.watch(broker.port)
    stored = {
        TOPICS.request("set"): json.dumps({"transaction": "old", "mode": "device"}).encode(),
        TOPICS.frames("c0"): photo(0),
        TOPICS.probe_reply(TOPICS.device): ProbeReply(seq=1, size_bytes=64, worker="w1", seconds=0.0).to_bytes(),
    }
    for topic, payload in stored.items():
        watch.bus.publish(topic, payload, qos=1, retain=True)
    rig.worker(rig.worker_tables(broker.port))
    rig.agent(rig.agent_tables(broker.port))

    watch.cut_is("input")
    said = watch.ask("status")
    assert said.data is not None
    assert said.data["settings"]["mode"] == "cloud"
    metrics = watch.until(lambda: found if (found := watch.metrics()).frames.rejected else None, "the stored frame")
    assert metrics.requests.by_reason == {"retained": 1}
    assert metrics.replies.by_reason == {"retained": 1}
    assert metrics.frames.rejected_by_reason == {"retained": 1}
    assert not watch.results()
    assert not watch.messages(TOPICS.response("set"))

    watch.bus.publish(TOPICS.frames("c0"), photo(1), qos=1, retain=True, user_properties=[("frame_id", "live")])
    watch.answer("live")
    watch.bus.publish(TOPICS.request("set"), b'{"transaction": "now", "mode": "device"}', qos=1, retain=True)
    assert watch.response("set", "now").status == "ok"
    watch.cut_is("output")

"""Everyone with an account of their own over TLS: what is granted is all that is needed."""

from __future__ import annotations

import json
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from popexd.bus import Delivery
from popexd.protocol.messages import ResponsePayload, ResultPayload
from popexd.protocol.topics import DeviceTopics
from tests.broker.site import Site, connected
from tests.bus.waiting import Fates, Inbox, until

from .rig import Rig, photo

PI = DeviceTopics("site", "pi")


def told(site: Site, name: str) -> dict[str, Any]:
    """The tables of the configuration that an account's bundle brings, for the port the broker has here."""
    tables = tomllib.loads((site.folder.path / "clients" / name / "popexd.toml").read_text())
    tables["mqtt"] |= {"port": site.port, "tls": True}
    return tables


def results(inbox: Inbox, count: int) -> list[ResultPayload]:
    """The next answers."""
    return [ResultPayload.from_bytes(payload) for payload in inbox.payloads(count)]


def test_a_whole_site_works_and_nobody_is_refused_anything(rig: Rig, tmp_path: Path) -> None:
    """Camera, device, worker, monitor and operator: frames are finished by the worker, requests are answered, and the
    broker had nothing to refuse.
    """
    site = Site(tmp_path / "broker")
    with site.running(), ExitStack() as stack:
        heard, responses, fates = Inbox(), Inbox(), Fates()
        monitor = stack.enter_context(connected(site.of("eyes")))
        operator = stack.enter_context(connected(site.of("boss")))
        camera = stack.enter_context(connected(site.of("gate")))
        monitor.subscribe(PI.results("+"), heard)
        operator.subscribe(PI.response("+"), responses)
        rig.worker(rig.worker_tables(site.port, **told(site, "w1")))
        rig.agent(rig.agent_tables(site.port, **told(site, "pi")))

        def finished_in_the_cloud() -> bool:
            camera.publish(PI.frames("gate"), photo(0), qos=1, on_done=fates.on_done())
            if fates.wait() is Delivery.NO_SUBSCRIBERS:
                return False  # the agent is still connecting
            (answer,) = results(heard, 1)
            return answer.tier == "cloud" and answer.camera == "gate"

        until(finished_in_the_cloud, "an answer from the cloud")
        for verb in ("status", "probe", "replan", "set"):
            operator.publish(PI.request(verb), json.dumps({"transaction": verb}).encode(), qos=1)
            response = ResponsePayload.from_bytes(responses.next().payload)
            assert (response.transaction, response.status) == (verb, "ok")
            site.wait_logged("request.passed", "user=boss", verb)
        operator.publish(PI.frames("try"), photo(1), qos=1)
        assert results(heard, 1)[0].camera == "try"
        # A probe makes the rounds, and everyone has said how they are, more than once.
        metrics = Inbox()
        monitor.subscribe(PI.metrics, metrics)
        assert len(metrics.payloads(3)) == 3

        assert not site.logged("refused"), site.log.getvalue()
        assert "Denied" not in site.mosquitto

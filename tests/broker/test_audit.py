"""Mosquitto's log, read for refusals."""

from __future__ import annotations

import pytest

from broker.access import User
from broker.audit import Audit, by_name, overlap
from popexd.bus.topic import matches

CAMERA = User("gate", "camera", devices=("pi",))


def connected(client: str, user: str) -> str:
    """The line Mosquitto writes when a client is let in."""
    return f"1795213951: New client connected from 10.0.0.9:38433 as {client} (p5, c1, k60, u'{user}').\n"


def test_packets_are_left_out_and_news_is_kept() -> None:
    """One packet is several lines; what Mosquitto has to say of itself stays."""
    audit = Audit(by_name([CAMERA]))
    for line in (
        "1: Sending CONNACK to c1 (0, 0)",
        "1: Received PUBLISH from c1 (d0, q1, r0, m3, 'a/b', ... (1 bytes))",
        "1: Received SUBSCRIBE from c1",
        "1: \tpopexd/# (QoS 1)",
        "1: No will message specified.",
    ):
        assert audit.read(line)[0] is None
    for line in ("1: mosquitto version 2.0.11 running", connected("c1", "gate").strip(), "1: Error: out of memory"):
        assert audit.read(line + "\n") == (line, None)


def test_a_refused_publish_names_the_user_the_broker_verified() -> None:
    """And stays in the file as it was written."""
    audit = Audit(by_name([CAMERA]))
    audit.read(connected("c1", "gate"))

    kept, finding = audit.read("1: Denied PUBLISH from c1 (d0, q1, r0, m2, 'popexd/site/pi/state', ... (1 bytes))\n")

    assert kept is not None
    assert finding is not None
    assert (finding.event, finding.refused) == ("publish.refused", True)
    assert finding.fields == {"user": "gate", "client": "c1", "topic": "popexd/site/pi/state"}


@pytest.mark.parametrize("client", ["x as boss (p5, c1, k60, u'boss').", "a b", "x (d0, q1, r0, m2, 'y", "c1 ("])
def test_a_client_identifier_cannot_pass_for_another_user(client: str) -> None:
    """Who it is was told when it came; what it does under such a name is never laid at another's door."""
    audit = Audit(by_name([CAMERA]))
    audit.read(connected("x", "boss"))
    audit.read(connected("c1", "boss"))
    _, came = audit.read(connected(client, "gate"))
    _, refused = audit.read(f"1: Denied PUBLISH from {client} (d0, q1, r0, m2, 'a/b', ... (1 bytes))\n")

    assert came is not None
    assert (came.event, came.fields["user"], came.fields["address"]) == ("client.disguised", "gate", "10.0.0.9")
    assert refused is not None
    assert (refused.event, refused.fields["user"]) == ("publish.disguised", "?")
    assert refused.fields["client"].startswith(client)


@pytest.mark.parametrize(
    "line",
    [
        "Received PUBLISH from c 1 (d0, q1, r0, m2, 'popexd/site/pi/request/set', ... (9 bytes))",
        "Received PUBLISH from c1 (d0, q1, r0, m2, 'popexd/s/p/request/x', ...)) (d0, q1, r0, m2, 'a', ... (1 bytes))",
        f"Received PUBLISH from {'c' * 980}",
        f"Denied PUBLISH from c1 (d0, q1, r0, m2, '{'t' * 930}', ... (1 bytes))",
    ],
)  # fmt: skip
def test_a_line_that_can_be_read_in_two_ways_is_no_ones(line: str) -> None:
    """Nor is one that Mosquitto cut; a request among them is not kept quiet."""
    audit = Audit(by_name([User("boss", "operator")]))
    audit.read(connected("c1", "boss"))
    _, finding = audit.read(f"1795213951: {line}\n")

    assert finding is not None
    assert (finding.event, finding.fields["user"]) == ("publish.disguised", "?")
    assert len(finding.fields["client"]) <= 200


def test_an_odd_name_is_no_news_by_itself() -> None:
    """A tool that puts a space into its identifier floods no log: it is told once."""
    audit = Audit(by_name([CAMERA]))
    audit.read(connected("some tool", "gate"))

    assert audit.read("1: Received PUBLISH from some tool (d0, q1, r0, m2, 'a/b', ... (1 bytes))") == (None, None)


@pytest.mark.parametrize(
    "client",
    [
        "connection from 192.0.2.1 failed: error:0A000086:SSL routines::certificate verify failed",
        "connection from 192.0.2.1 failed: error:0A000086:SSL routines::",
        "x disconnected, not authorised.",
    ],
)
@pytest.mark.parametrize("end", ["disconnected.", "closed its connection.", "disconnected: Protocol error.",
                                 "already connected, closing old connection.",
                                 "has exceeded timeout, disconnecting."])  # fmt: skip
def test_the_end_of_a_client_is_no_failed_login(client: str, end: str) -> None:
    """Whatever it calls itself."""
    audit = Audit(by_name([CAMERA]))
    audit.read(connected(client, "gate"))

    assert audit.read(f"1: Client {client} {end}")[1] is None
    assert audit.read(f"1: Received PINGREQ from {client}")[1] is None


def test_what_follows_no_subscription_is_no_filter() -> None:
    """The topic of a last will stands on a line of the same form."""
    audit = Audit(by_name([CAMERA, User("boss", "operator")]), "site")
    audit.read(connected("c1", "gate"))
    for line in ("Received SUBSCRIBE from c1", "\t$SYS/broker/version (QoS 1)", "Sending SUBACK to c1"):
        assert audit.read(f"1: {line}")[1] is None

    assert audit.read("1: Will message specified (1 bytes) (r0, q0).")[1] is None
    assert audit.read("1: \tsecret (QoS 1)")[1] is None


def test_a_subscription_is_reported_only_where_nothing_of_it_may_be_read() -> None:
    """A monitor that asks for everything hears what it may; a camera that does hears nothing."""
    audit = Audit(by_name([CAMERA, User("eyes", "monitor")]), "site")
    for client, user in (("c1", "gate"), ("c2", "eyes")):
        audit.read(connected(client, user))
    found = {}
    for client in ("c1", "c2"):
        audit.read(f"1: Received SUBSCRIBE from {client}\n")
        found[client] = audit.read("1: \t$share/g/popexd/# (QoS 1)\n")[1]

    assert found["c2"] is None
    assert found["c1"] is not None
    assert found["c1"].event == "subscription.refused"


def test_a_failed_handshake_is_told_in_both_of_mosquittos_ways() -> None:
    """Before and after it has taken the connection; who only hangs up is no news."""
    audit = Audit()
    early = "1: Client connection from 10.0.0.7 failed: error:0A000086:SSL routines::certificate verify failed.\n"
    late = "1: OpenSSL Error[0]: error:0A000086:SSL routines::certificate verify failed\n"
    audit.read("1: New connection from 10.0.0.7:4711 on port 8883.\n")
    for line in (early, late):
        finding = audit.read(line)[1]
        assert finding is not None
        assert finding.fields == {"address": "10.0.0.7", "why": "certificate verify failed"}
        assert audit.read(line.replace("certificate verify failed", "unexpected eof while reading"))[1] is None


def test_a_request_is_news_with_its_sender() -> None:
    """The broker knows who it was; the agent cannot."""
    audit = Audit(by_name([User("boss", "operator")]))
    audit.read(connected("c1", "boss"))
    _, finding = audit.read("1: Received PUBLISH from c1 (d0, q1, r0, m2, 'popexd/site/pi/request/set', ... (9 bytes))")

    assert finding is not None
    assert (finding.event, finding.refused, finding.fields["user"]) == ("request.passed", False, "boss")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/+/c", "+/b/#", True),
        ("a/b", "a/b/c", False),
        ("a/+", "b/+", False),
        ("#", "$SYS/broker/version", False),
        ("+/broker/version", "$SYS/broker/version", False),
        ("$SYS/#", "$SYS/broker/version", True),
    ],
)
def test_filters_overlap_where_one_topic_matches_both(one: str, other: str, expected: bool) -> None:
    """As the standard says of matching, the broker's own topics included."""
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected
    if not any(sign in other for sign in "+#"):
        assert matches(one, other) is expected


def test_asking_for_the_version_is_nobodys_fault() -> None:
    """Every account may read it."""
    audit = Audit(by_name([CAMERA]), "site")
    audit.read(connected("c1", "gate"))
    audit.read("1: Received SUBSCRIBE from c1\n")

    assert audit.read("1: \t$SYS/broker/version (QoS 1)\n")[1] is None

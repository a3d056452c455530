"""Who is kept out, and who keeps to what is theirs: on a real Mosquitto, with the refusal in the log."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker import authority
from broker.access import VERSION_TOPIC
from popexd.bus import Delivery, Will
from popexd.bus.configured import mqtt_settings
from popexd.bus.mqtt import MqttSettings
from popexd.config import load_agent
from popexd.protocol.topics import DeviceTopics, SiteTopics
from tests.broker.site import Site, connected, refusal
from tests.bus.waiting import PATIENCE_SECONDS, Fates, Inbox, until

PI, OTHER, SITE = DeviceTopics("site", "pi"), DeviceTopics("site", "other"), SiteTopics("site")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker with an account of every kind, running."""
    made = Site(tmp_path_factory.mktemp("broker"))
    with made.running():
        yield made


@pytest.fixture
def site(running: Site) -> Site:
    """The same, and its log from here on."""
    running.listen()
    return running


def fate(settings: MqttSettings, topic: str) -> Delivery:
    """What becomes of a publish."""
    fates = Fates()
    with connected(settings) as bus:
        bus.publish(topic, b"x", qos=1, on_done=fates.on_done())
        return fates.wait()


def test_a_wrong_password_is_refused(site: Site) -> None:
    """With a good certificate too."""
    assert "Not authorized" in refusal(site.of("pi", password="guess"))
    site.wait_logged("login.refused", "address=127.0.0.1")


def test_nobody_gets_in_without_a_name(site: Site) -> None:
    """A certificate alone opens the door, and no more."""
    assert "Not authorized" in refusal(site.of("pi", username=None, password=None))


@pytest.mark.parametrize("kind", ["expired", "foreign", "no", "the server's"])
def test_another_certificate_is_refused(site: Site, tmp_path: Path, kind: str) -> None:
    """With the right name and password; the log says that a handshake failed and where from."""
    signer = authority.Pair(*((site.folder.path / f"authority.{end}").read_bytes() for end in ("pem", "key")))
    if kind == "no":
        changed: dict[str, Path | None] = {"cert_file": None, "key_file": None}
    elif kind == "the server's":
        changed = {"cert_file": site.folder.path / "server.pem", "key_file": site.folder.path / "server.key"}
    else:
        foreign = kind == "foreign"
        pair = authority.issue(
            authority.create("popexd site") if foreign else signer, "pi", age_days=0 if foreign else 800
        )
        changed = {"cert_file": tmp_path / "certificate.pem", "key_file": tmp_path / "key.pem"}
        (tmp_path / "certificate.pem").write_bytes(pair.certificate)
        (tmp_path / "key.pem").write_bytes(pair.key)
    assert "does it want TLS, or a valid client certificate?" in refusal(site.of("pi", **changed))
    site.wait_logged("handshake.refused", "address=127.0.0.1")


def test_who_comes_without_tls_is_told_of_it(site: Site) -> None:
    """As far as can be known: the broker closes the connection without a word."""
    plain = {"ca_file": None, "cert_file": None, "key_file": None}
    assert "does it want TLS, or a valid client certificate?" in refusal(site.of("pi", **plain))


def test_a_device_cannot_speak_for_another(site: Site) -> None:
    """Neither its state nor its answers; what is its own it may say."""
    assert fate(site.of("pi"), PI.state) is Delivery.NO_SUBSCRIBERS
    for topic in (OTHER.state, OTHER.results("gate"), OTHER.reply("other"), PI.request("set")):
        assert fate(site.of("pi"), topic) is Delivery.REFUSED
        site.wait_logged("publish.refused", "user=pi", f"topic={topic}")


def test_a_monitor_only_reads(site: Site) -> None:
    """It hears the control tree, and nothing it says is passed on."""
    heard = Inbox()
    with connected(site.of("eyes")) as monitor, connected(site.of("pi")) as agent:
        monitor.subscribe("popexd/#", heard)
        agent.publish(PI.event, b"first", qos=1)
        until(lambda: len(heard) > 0 or bool(agent.publish(PI.event, b"again", qos=1)), "an event")
        assert heard.next().topic == PI.event
    for topic in (PI.request("set"), PI.frames("gate"), PI.state, "elsewhere"):
        assert fate(site.of("eyes"), topic) is Delivery.REFUSED
        site.wait_logged("publish.refused", "user=eyes", f"topic={topic}")


def test_a_camera_only_sends_its_own_frames(site: Site) -> None:
    """To its own device, under its own name; whatever it subscribes to, it hears nothing of it."""
    assert fate(site.of("gate"), PI.frames("gate")) is Delivery.NO_SUBSCRIBERS
    for topic in (PI.frames("door"), OTHER.frames("gate"), PI.results("gate"), PI.request("probe")):
        assert fate(site.of("gate"), topic) is Delivery.REFUSED
        site.wait_logged("publish.refused", "user=gate", f"topic={topic}")

    heard, fates = Inbox(), Fates()
    with connected(site.of("gate")) as camera, connected(site.of("pi")) as agent:
        camera.subscribe("popexd/#", heard)
        camera.subscribe(PI.frames("+"), heard)
        site.wait_logged("subscription.refused", "user=gate", "popexd/#")
        site.wait_logged("subscription.refused", "user=gate", PI.frames("+"))
        agent.publish(PI.results("gate"), b"secret", qos=1, on_done=fates.on_done())
        fates.wait()
        camera.subscribe(VERSION_TOPIC, heard)
        assert heard.next().topic == VERSION_TOPIC, "what comes last comes first: nothing else came"
        assert len(heard) == 0


def test_a_worker_cannot_fake_a_decision(site: Site) -> None:
    """It answers, says how it is, and takes its tier's load; the plan is the device's."""
    assert fate(site.of("w1"), PI.reply("pi")) is Delivery.NO_SUBSCRIBERS
    assert fate(site.of("w1"), SITE.worker("w1", "state")) is Delivery.NO_SUBSCRIBERS
    for topic in (PI.decision, PI.results("gate"), SITE.worker("e1", "state"), SITE.tensors("edge", "alexnet")):
        assert fate(site.of("w1"), topic) is Delivery.REFUSED
        site.wait_logged("publish.refused", "user=w1", f"topic={topic}")


def test_a_worker_hears_its_own_tier_only(site: Site) -> None:
    """The edge's tensors reach the edge, which may hand on to the cloud and not back to itself."""
    cloud, edge, fates = Inbox(), Inbox(), Fates()
    assert fate(site.of("e1"), SITE.tensors("edge", "alexnet")) is Delivery.REFUSED
    with (
        connected(site.of("w1")) as of_cloud,
        connected(site.of("e1")) as of_edge,
        connected(site.of("pi")) as agent,
    ):
        for tier in ("edge", "cloud"):
            of_cloud.subscribe(f"$share/mine/{SITE.tensors(tier, 'alexnet')}", cloud)
        of_edge.subscribe(SITE.shared_tensors("edge", "alexnet"), edge)
        of_edge.publish(SITE.worker("e1", "state"), b"", qos=1, on_done=fates.on_done("subscribed before"))
        fates.wait("subscribed before")
        site.wait_logged("subscription.refused", "user=w1", SITE.tensors("edge", "alexnet"))
        agent.publish(SITE.tensors("edge", "alexnet"), b"for the edge", qos=1)
        assert edge.next().payload == b"for the edge"
        of_edge.publish(SITE.tensors("cloud", "alexnet"), b"for the cloud", qos=1, on_done=fates.on_done())
        assert cloud.next().payload == b"for the cloud"


def test_requests_are_an_operators_and_are_logged_with_the_name_the_broker_verified(site: Site) -> None:
    """Whatever the sender says of itself."""
    assert fate(site.of("boss"), PI.request("set")) is Delivery.NO_SUBSCRIBERS
    site.wait_logged("request.passed", "user=boss", f"topic={PI.request('set')}")
    for nobody in ("eyes", "gate", "w1", "other"):
        assert fate(site.of(nobody), PI.request("set")) is Delivery.REFUSED


# The longest name of which Mosquitto, which cuts its lines, writes down no more than this account of itself.
CUT = "A" * 918 + " (p5, c1, k60, u'boss')."


@pytest.mark.parametrize(
    "client",
    [
        "x as boss (p5, c1, k60, u'boss').",
        "of-boss (d0, q1, r0, m2, 'popexd/site/pi/request/set', ... (9 bytes))",
        "of-boss (d0, q1, r0, m2, 'popexd/site/pi/request/set",
        "New client connected from 192.0.2.1:1 as of-boss (p5, c1, k60, u'boss').",
        "connection from 192.0.2.1 failed: error:0A000086:SSL routines::certificate verify failed",
        "of-boss disconnected, not authorised.",
        CUT + "A" * 20,
    ],
)
def test_no_client_identifier_forges_the_log(site: Site, client: str) -> None:
    """Whatever a camera calls itself, nothing of what it does is another's doing, and it is told of."""
    will = Will("popexd/site/boss (QoS 1)", b"x")
    with (
        connected(site.of("boss", client_id="of-boss")) as boss,
        connected(site.of("gate", client_id="A" * 918)) as same,
    ):
        boss.subscribe(PI.results("gate"), Inbox())
        with connected(site.of("gate", client_id=client), will=will) as camera:
            camera.subscribe("x (p5, c1, k60, u'boss').", Inbox())
            for topic in (PI.request("set"), "', ... (9 bytes))", "t"):
                fates = Fates()
                camera.publish(topic, b"x", qos=1, on_done=fates.on_done())
                assert fates.wait() is Delivery.REFUSED
        fates = Fates()
        same.publish("t", b"x", qos=1, on_done=fates.on_done())
        assert fates.wait() is Delivery.REFUSED
        assert fate(site.of("gate", client_id="honest"), "last") is Delivery.REFUSED
        site.wait_logged("publish.refused", "user=gate", "topic=last")

    assert site.logged("client.disguised", "client=")
    assert not site.logged("user=boss"), site.log.getvalue()
    for nothing in ("handshake.refused", "login.refused", "address=192.0.2.1"):
        assert not site.logged(nothing), site.log.getvalue()
    assert site.logged("publish.refused", "user=?", "topic=t")


def test_nothing_of_another_site_is_theirs(site: Site) -> None:
    """Accounts are bound to the site of their broker."""
    elsewhere = DeviceTopics("elsewhere", "pi")
    assert fate(site.of("pi"), elsewhere.state) is Delivery.REFUSED
    assert fate(site.of("boss"), elsewhere.request("probe")) is Delivery.REFUSED


def handshake(site: Site, context: ssl.SSLContext) -> tuple[str | None, str]:
    """Version and cipher that a client's offer leads to."""
    home = site.folder.path / "clients" / "pi"
    context.load_verify_locations(site.folder.path / "authority.pem")
    context.load_cert_chain(home / "certificate.pem", home / "key.pem")
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return connection.version(), (connection.cipher() or ("",))[0]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_tls_and_weak_ciphers_are_not_spoken(site: Site) -> None:
    """TLS 1.2 and 1.3, with forward secrecy and authenticated encryption."""
    modern = ssl.create_default_context()
    assert handshake(site, modern)[0] == "TLSv1.3"
    older = ssl.create_default_context()
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    version, cipher = handshake(site, older)
    assert (version, cipher.startswith("ECDHE-ECDSA-"), "GCM" in cipher or "CHACHA" in cipher) == (
        "TLSv1.2",
        True,
        True,
    )

    for weak in ("ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA"):
        context = ssl.create_default_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(weak)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(site, context)
    old = ssl.create_default_context()
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(site, old)


def test_who_is_revoked_is_thrown_out_and_stays_out(tmp_path: Path) -> None:
    """Its connection ends, its password is gone, and its certificate is void with another's password too."""
    site = Site(tmp_path / "broker")
    with site.running() as service, connected(site.of("w1")) as worker, connected(site.of("pi")) as agent:
        settings = site.of("w1")
        kept = {name: tmp_path / name for name in ("cert_file", "key_file")}
        for path, own in ((kept["cert_file"], settings.cert_file), (kept["key_file"], settings.key_file)):
            assert own is not None
            path.write_bytes(own.read_bytes())
        site.folder.revoke("w1")
        service.follow()

        until(lambda: not worker.connected, "the end of the connection")
        assert str(site.port) in refusal(replace(settings, **kept))
        assert str(site.port) in refusal(site.of("pi", **kept))
        assert agent.connected
        site.wait_logged("accounts.reloaded")
    with site.running():
        assert str(site.port) in refusal(site.of("pi", **kept))


def test_a_new_account_and_a_renewed_certificate_count_at_once(tmp_path: Path) -> None:
    """Without a restart; the password stays as it was."""
    site = Site(tmp_path / "broker")

    def served() -> int:
        pem = ssl.get_server_certificate(("127.0.0.1", site.port))
        return authority.serial(pem.encode())

    with site.running() as service, connected(site.of("pi")) as agent:
        site.hand_over(site.folder.renew("w1") or pytest.fail("no credentials"))
        site.folder.renew("server")
        service.follow()
        until(lambda: served() == authority.serial((site.folder.path / "server.pem").read_bytes()), "the new one")
        with connected(site.of("w1")):
            assert agent.connected


def test_an_upgrade_grants_its_new_topics_to_who_has_an_account_already(tmp_path: Path) -> None:
    """The access list is this version's from the start on, whichever version wrote it."""
    site = Site(tmp_path / "broker")
    rights = site.folder.path / "acl"
    lines = rights.read_text().splitlines()
    rights.write_text("".join(f"{line}\n" for line in lines if f"{PI.results('+')}" not in line))
    with site.running():
        assert site.logged("rights.renewed")
        assert rights.read_text().splitlines() == lines
        assert fate(site.of("pi"), PI.results("gate")) is Delivery.NO_SUBSCRIBERS
    with site.running():
        assert not site.logged("rights.renewed")


def test_nobody_is_thrown_out_by_another_who_takes_its_client_identifier(site: Site, tmp_path: Path) -> None:
    """Brokers hand a connection over to the newcomer, whatever account it has; so it cannot be guessed."""

    def told(name: str) -> MqttSettings:
        text = (site.folder.path / "clients" / name / "popexd.toml").read_text()
        (tmp_path / "told.toml").write_text(text)
        return mqtt_settings(load_agent(tmp_path / "told.toml").mqtt, client_id="popexd-site-pi")

    ours, theirs = told("pi"), told("other")
    assert ours.client_id == told("pi").client_id
    assert ours.client_id.startswith("popexd-site-pi-")
    with connected(replace(ours, port=site.port)) as pi:
        for identifier in (theirs.client_id, "popexd-site-pi"):
            with connected(replace(theirs, port=site.port, client_id=identifier)) as other:
                assert fate(site.of("pi"), PI.state) is Delivery.NO_SUBSCRIBERS
                assert (pi.connected, other.connected) == (True, True)

"""What is rendered, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.access import ROLES, User, grants, render_acl
from broker.config import BrokerSettings, is_loopback, render
from popexd.bus.topic import matches
from popexd.errors import ConfigurationError, InputError
from popexd.protocol.topics import TABLE, DeviceTopics


def test_the_defaults_are_for_this_machine_alone() -> None:
    """Loopback, anonymous, nothing kept on disk, no waiting for Nagle's algorithm."""
    lines = render(BrokerSettings()).splitlines()

    for expected in (
        "listener 1883 127.0.0.1",
        "allow_anonymous true",
        "persistence false",
        "set_tcp_nodelay true",
        "max_packet_size 16777216",
    ):
        assert expected in lines


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "broker.example", "127.0.0.1.example"])
def test_a_broker_that_others_can_reach_needs_passwords(host: str) -> None:
    """Without them it is refused, with them nobody gets in anonymously."""
    with pytest.raises(ConfigurationError, match="expected a password file"):
        render(BrokerSettings(host=host))

    text = render(BrokerSettings(host=host, password_file=Path("/etc/popexd/passwords")))
    assert "allow_anonymous false" in text
    assert "password_file /etc/popexd/passwords" in text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_is_recognised(host: str) -> None:
    """In all its spellings."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "settings",
    [
        BrokerSettings(cert_file=Path("a.pem")),
        BrokerSettings(ca_file=Path("a.pem")),
        BrokerSettings(port=70_000),
        BrokerSettings(websockets_port=0),
        BrokerSettings(password_file=Path("/a\nlistener 1 0.0.0.0")),
        BrokerSettings(acl_file=Path("/ends with a space ")),
    ],
)
def test_what_cannot_work_or_be_written_is_refused(settings: BrokerSettings) -> None:
    """One option never smuggles in another."""
    with pytest.raises(ConfigurationError, match="expected"):
        render(settings)


def test_tls_and_websockets_are_per_listener() -> None:
    """Both listeners speak TLS, and ask for a client's certificate where an authority is named."""
    lines = render(
        BrokerSettings(websockets_port=9001, cert_file=Path("/c"), key_file=Path("/k"), ca_file=Path("/a"))
    ).splitlines()

    first, second = lines.index("listener 1883 127.0.0.1"), lines.index("listener 9001 127.0.0.1")
    for part in (lines[first:second], lines[second:]):
        assert {"certfile /c", "keyfile /k", "cafile /a", "require_certificate true"} <= set(part)
    assert "protocol websockets" in lines[second:]


def test_each_role_gets_what_the_topic_table_says_and_nothing_else() -> None:
    """Every row is granted to its writers and readers, with the user's own name where the topic carries one."""
    for role in ROLES:
        granted = grants(User("me", role), site="yard")
        for rule in TABLE:
            own = {"agent": "{device}", "worker": "{worker}", "camera": "{camera}"}.get(role, "nothing")
            topic = rule.pattern.replace("{site}", "yard").replace(own, "me")
            levels = ["+" if level.startswith("{") else level for level in topic.split("/")]
            for access, roles in (("write", rule.writers), ("read", rule.readers)):
                assert (f"topic {access} {'/'.join(levels)}" in granted) >= (role in roles)
        assert len(granted) == len(set(granted))
        assert len(granted) == len(
            {
                (rule.pattern, access)
                for rule in TABLE
                for access, roles in (("write", rule.writers), ("read", rule.readers))
                if role in roles
            }
        )


def test_an_agent_may_not_speak_for_another() -> None:
    """Its name is in every topic of its own that it may write."""
    written = [line.split()[2] for line in grants(User("pi", "agent")) if line.split()[1] == "write"]
    other = DeviceTopics("site", "other")

    for topic in (other.state, other.decision, other.results("door"), other.reply("other")):
        assert not any(matches(topic_filter, topic) for topic_filter in written)
    assert any(matches(topic_filter, DeviceTopics("site", "pi").state) for topic_filter in written)


@pytest.mark.parametrize("name", ["", "a b", "#", "a/b", "x\ntopic readwrite #"])
def test_a_user_name_never_becomes_another_line(name: str) -> None:
    """What cannot be part of a topic is refused."""
    with pytest.raises(InputError):
        render_acl([User(name, "camera")])


def test_an_unknown_role_is_refused() -> None:
    """With the list of those there are."""
    with pytest.raises(ConfigurationError, match="expected one of agent, worker, camera, monitor, operator"):
        render_acl([User("me", "god")])  # type: ignore[arg-type]

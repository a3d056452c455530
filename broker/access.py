"""Who may do what: the access list, rendered from the topic table.

Mosquitto 2 applies it to every PUBLISH it takes and to every message it hands out. It does not apply it to SUBSCRIBE:
whoever subscribes to what it may not read is told "granted" and hears nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from popexd.errors import ConfigurationError
from popexd.protocol.topics import TABLE, DeviceTopics, TopicRule, checked_name

Role = Literal["agent", "worker", "camera", "monitor", "operator"]
ROLES: tuple[Role, ...] = ("agent", "worker", "camera", "monitor", "operator")
TIERS = ("edge", "cloud")

VERSION_TOPIC = "$SYS/broker/version"
_LEVEL = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class User:
    """A name in the password file and what it is for.

    An agent is named as its device, a worker as in its configuration: their topics carry that name. A worker serves
    `tier` (None: either). A camera publishes as `cameras` (none named: under its own name) to `devices` (none named:
    to any); a monitor or an operator sees `devices`.
    """

    name: str
    role: Role
    tier: str | None = None
    devices: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()


def check_user(user: User) -> None:
    """Refuse what could not be written into an access list.

    Raises:
        ConfigurationError: an unknown role or tier.
        InputError: a name that cannot be part of a topic.

    """
    if user.role not in ROLES:
        raise ConfigurationError(f"user {user.name}: role {user.role!r}, expected one of {', '.join(ROLES)}")
    if user.tier is not None and user.tier not in TIERS:
        raise ConfigurationError(f"user {user.name}: tier {user.tier!r}, expected edge or cloud")
    for name in (user.name, *user.devices, *user.cameras):
        checked_name(name, "user")
    for device in (*user.devices, *([user.name] if user.role == "agent" else [])):
        DeviceTopics("site", device)


def render_acl(users: Iterable[User], site: str | None = None) -> str:
    """Return the text of an access list: each user may do what the topic table grants its role, and nothing else.

    Args:
        users: whom to grant what.
        site: the only site they may touch; None for any.

    Raises:
        ConfigurationError: an unknown role or tier.
        InputError: a name that cannot be part of a topic.

    """
    blocks = ["# Rendered by `popexd broker` from the topic table. Who is not named here may do nothing."]
    for user in users:
        check_user(user)
        lines = [f"# {user.role}", f"user {user.name}", *grants(user, site), f"topic read {VERSION_TOPIC}"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def grants(user: User, site: str | None = None) -> list[str]:
    """Return the access lines of one user, each `topic read|write <filter>`, without repetitions."""
    lines = []
    for rule in TABLE:
        for access, roles in (("write", rule.writers), ("read", rule.readers)):
            if user.role in roles:
                lines += [f"topic {access} {topic_filter}" for topic_filter in _filters(user, rule, access, site)]
    return list(dict.fromkeys(lines))


def readable(user: User, site: str | None = None) -> list[str]:
    """Return the filters of everything a user may read."""
    lines = grants(user, site)
    return [VERSION_TOPIC, *(line.removeprefix("topic read ") for line in lines if line.startswith("topic read "))]


def _filters(user: User, rule: TopicRule, access: str, site: str | None) -> list[str]:
    """Write a rule's pattern with the names this user is bound to, `+` for every other level."""
    bound: dict[str, tuple[str, ...]] = {"device": user.devices}
    if site is not None:
        bound["site"] = (site,)
    if user.role == "agent":
        bound["device"] = (user.name,)
    elif user.role == "camera":
        bound["camera"] = user.cameras or (user.name,)
    elif user.role == "worker":
        bound["worker"] = (user.name,)
        if user.tier is not None:
            if "/tier/edge/" in rule.pattern and user.tier != "edge":
                return []
            # A worker takes its own tier's load, and hands on to the tier above only.
            bound["tier"] = (user.tier,) if access == "read" else TIERS[TIERS.index(user.tier) + 1 :]
            if not bound["tier"] and "{tier}" in rule.pattern:
                return []
    levels = [str(level) for level in _LEVEL.findall(rule.pattern)]
    choices = [bound.get(level) or ("+",) for level in levels]
    return [rule.pattern.format_map(dict(zip(levels, names, strict=True))) for names in itertools.product(*choices)]

"""Mosquitto's configuration, rendered from settings.

Refused rather than rendered: a broker that strangers can reach and that asks for no password.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from popexd.errors import ConfigurationError

# Forward secrecy and authenticated encryption only. The names of TLS 1.2 and 1.3 are OpenSSL's, best first.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
CIPHERS_TLS_1_3 = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What the rendered configuration can differ in.

    `max_packet_bytes` leaves room for a camera frame of the agent's default limit, written as base64 in JSON.
    `max_queued_messages` bounds what waits for one slow client, at QoS 0 too. `audited` logs every packet, for
    `broker.audit` to pick the refusals from. `extra_lines` are appended as they are,
    before the listeners; of an option given twice Mosquitto takes the last.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    websockets_port: int | None = None
    password_file: Path | None = None
    acl_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    crl_file: Path | None = None
    audited: bool = False
    max_packet_bytes: int = 16_777_216
    max_queued_messages: int = 1_000
    max_queued_bytes: int = 33_554_432
    system_user: str | None = None
    extra_lines: tuple[str, ...] = ()


def render(settings: BrokerSettings) -> str:
    """Return the text of a mosquitto.conf.

    Raises:
        ConfigurationError: reachable from outside without passwords, or a value the file cannot hold.

    """
    check(settings)
    lines = [
        "# Rendered by `popexd broker render`; written for Mosquitto 2.0 and later.",
        "per_listener_settings false",
        "persistence false",
        "# Without it every acknowledgement of QoS 1 waits 40 ms for Nagle's algorithm.",
        "set_tcp_nodelay true",
        f"max_packet_size {settings.max_packet_bytes}",
        "max_inflight_messages 20",
        f"max_queued_messages {settings.max_queued_messages}",
        f"max_queued_bytes {settings.max_queued_bytes}",
        f"allow_anonymous {'true' if settings.password_file is None else 'false'}",
        *_option("password_file", settings.password_file),
        *_option("acl_file", settings.acl_file),
        *_option("user", settings.system_user),
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
        *(("log_type debug",) if settings.audited else ()),
        *settings.extra_lines,
        "",
        *_listener(settings, settings.port),
    ]
    if settings.websockets_port is not None:
        lines += ["", *_listener(settings, settings.websockets_port), "protocol websockets"]
    return "\n".join(lines) + "\n"


def check(settings: BrokerSettings) -> None:
    """Refuse what would be unsafe or could not be written down.

    Raises:
        ConfigurationError: see there.

    """
    if not re.fullmatch(r"[\w.:%-]+", settings.host):
        raise ConfigurationError(f"broker host: {settings.host!r}, expected an address or a name")
    if settings.password_file is None and not is_loopback(settings.host):
        raise ConfigurationError(
            f"broker host: {settings.host} can be reached by others, expected a password file as well, "
            "or 127.0.0.1 for this machine alone"
        )
    if (settings.cert_file is None) != (settings.key_file is None):
        raise ConfigurationError("broker: expected cert_file and key_file together, or neither")
    if settings.ca_file is not None and settings.cert_file is None:
        raise ConfigurationError("broker ca_file: asks clients for certificates, expected cert_file and key_file too")
    for port in (settings.port, settings.websockets_port):
        if port is not None and not 0 < port < 65_536:
            raise ConfigurationError(f"broker port: {port}, expected 1 to 65535")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`; a name other than localhost could mean anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listener(settings: BrokerSettings, port: int) -> list[str]:
    lines = [f"listener {port} {settings.host}"]
    if settings.cert_file is not None:
        lines += [*_option("certfile", settings.cert_file), *_option("keyfile", settings.key_file)]
        lines += ["tls_version tlsv1.2", f"ciphers {CIPHERS}", f"ciphers_tls1.3 {CIPHERS_TLS_1_3}"]
    if settings.ca_file is not None:
        lines += [*_option("cafile", settings.ca_file), "require_certificate true"]
        lines += _option("crlfile", settings.crl_file)
    return lines


def _option(name: str, value: Path | str | None) -> list[str]:
    if value is None:
        return []
    text = str(value)
    if text != text.strip() or not text.isprintable():
        raise ConfigurationError(f"broker {name}: {text!r}, expected no surrounding spaces or control characters")
    return [f"{name} {text}"]

"""When certificates expire: of files, and of a server."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from popexd.config import Broker

from .findings import Finding, fail, ok, warn

_SOON = timedelta(days=30)
_CONNECT_SECONDS = 5.0


def of_file(name: str, path: Path) -> Finding:
    """Look at the certificates in a file; the first to expire counts."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        return fail("certificate", f"{name} {path}: {error.strerror}", "make it readable for the user of the service")
    except ValueError:
        return fail("certificate", f"{name} {path}: not PEM", "bring the file over again")
    end = min(each.not_valid_after_utc for each in found)
    begin = max(each.not_valid_before_utc for each in found)
    return _judged(name, begin, end, "popexd broker renew NAME on the broker's machine")


def of_server(broker: Broker) -> Finding | None:
    """Look at the certificate a broker shows; None where none can be had, which the connection tells better."""
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
        if broker.cert_file is not None:
            context.load_cert_chain(broker.cert_file, broker.key_file)
        with (
            socket.create_connection((broker.host, broker.port), timeout=_CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=broker.host) as connection,
        ):
            shown = connection.getpeercert() or {}
            version = connection.version()
    except OSError:
        return None
    begin, end = (
        datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown[key])), UTC) for key in ("notBefore", "notAfter")
    )
    return _judged(f"the broker's ({version})", begin, end, "popexd broker renew server on the broker's machine")


def _judged(name: str, begin: datetime, end: datetime, renew: str) -> Finding:
    now = datetime.now(UTC)
    if now < begin:
        return fail("certificate", f"{name}: good from {begin:%Y-%m-%d} on", "set the clock")
    if now > end:
        return fail("certificate", f"{name}: expired on {end:%Y-%m-%d}", renew)
    if end - now < _SOON:
        return warn("certificate", f"{name}: expires on {end:%Y-%m-%d}", renew)
    return ok("certificate", f"{name}: good until {end:%Y-%m-%d}")

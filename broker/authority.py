"""A small certificate authority: one key that signs the broker's certificate and its clients'.

The only door to `cryptography`. Keys are of the curve P-256, signatures ECDSA with SHA-256. Nothing here reads or
writes a file; certificates and keys go in and out as PEM.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from popexd.errors import ConfigurationError

AUTHORITY_DAYS = 7300
CERTIFICATE_DAYS = 730
# A board without a clock of its own comes up in the past; what was signed today is good from yesterday.
_BACKDATED = timedelta(days=1)
_LONGEST_NAME = 253
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")  # with _, as machines are called at home


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, PEM; the key is not shown."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Pair(serial={serial(self.certificate):x})"


def create(name: str, days: int = AUTHORITY_DAYS) -> Pair:
    """Make an authority that may sign certificates and revocation lists, and nothing below it may sign any."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _begun(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue(
    authority: Pair, name: str, hosts: Sequence[str] = (), days: int = CERTIFICATE_DAYS, age_days: int = 0
) -> Pair:
    """Sign a new key: for a server that is reached under `hosts`, for a client where there are none.

    `age_days` moves the whole validity into the past, for tests of what has expired.
    """
    issuer, issuer_key = _opened(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _begun(subject, issuer.subject, key.public_key(), days, age_days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), False)
    return _pair(builder.sign(issuer_key, hashes.SHA256()), key)


def revocation_list(authority: Pair, serials: Iterable[int], previous: bytes | None = None) -> bytes:
    """Sign the list of certificates that are void before their time.

    It is as good as the authority is: an expired list would lock everyone out. Of several lists OpenSSL takes the one
    that is newer by its date, in whole seconds, so each is dated after the one before.
    """
    issuer, key = _opened(authority)
    dated = datetime.now(UTC) - _BACKDATED
    if previous is not None:
        try:
            last = x509.load_pem_x509_crl(previous).last_update_utc
        except ValueError as error:
            raise ConfigurationError(f"revoked.pem: {str(error)[:80]}, expected the list made before") from error
        dated = max(dated, last + timedelta(seconds=1))
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(dated).next_update(issuer.not_valid_after_utc)
    for each in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(each).revocation_date(dated).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def serial(certificate: bytes) -> int:
    """Return a certificate's serial number."""
    return _certificate(certificate).serial_number


def expires(certificate: bytes) -> datetime:
    """Return the instant after which a certificate is void."""
    return _certificate(certificate).not_valid_after_utc


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, age_days: int = 0
) -> x509.CertificateBuilder:
    begins = datetime.now(UTC) - _BACKDATED - timedelta(days=age_days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + _BACKDATED + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ConfigurationError(f"--name {host!r}: expected a host name or an address")
    return x509.DNSName(host)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), encoded)


def _opened(authority: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        key = serialization.load_pem_private_key(authority.key, None)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the authority's key: {error}, expected the one `broker init` made") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("the authority's key: of another kind, expected the one `broker init` made")
    return _certificate(authority.certificate), key


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ConfigurationError(f"certificate: {str(error)[:80]}, expected PEM") from error

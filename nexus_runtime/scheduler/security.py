"""Who may talk: an authority of its own for every job, and mutual TLS throughout.

The scheduler makes a key and a certificate for itself and one for each worker, signed by a key that
it forgets at once. A worker's name is the common name of its certificate, and the scheduler
believes no other. Nothing is trusted beyond the job: not the machine's authorities, not an earlier
job's workers.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nexus_runtime.errors import SchedulerError

LIFETIME = timedelta(days=30)
LOCAL = ("localhost", "127.0.0.1", "::1")
_FILES = ("ca.pem", "cert.pem", "key.pem")


@dataclass(frozen=True)
class Credentials:
    """PEM: the job's authority, one's own certificate, and its key."""

    authority: bytes
    certificate: bytes
    key: bytes

    def write(self, directory: Path) -> Path:
        """Write `ca.pem`, `cert.pem` and `key.pem`, for the owner's eyes only (0600 in a 0700)."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in zip(_FILES, (self.authority, self.certificate, self.key)):
            descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        return directory

    @classmethod
    def read(cls, directory: Path) -> Credentials:
        """Read what `write` wrote.

        Raises:
            SchedulerError: a file is missing.
        """
        try:
            return cls(*((directory / name).read_bytes() for name in _FILES))
        except OSError as error:
            raise SchedulerError(
                f"the credentials in {directory} cannot be read: {error.strerror}",
                hint=f"the scheduler's owner gives every worker {', '.join(_FILES)}",
            ) from error

    @property
    def name(self) -> str:
        """The common name of the certificate.

        Raises:
            SchedulerError: it is no certificate.
        """
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate)
        except ValueError as error:
            raise SchedulerError("cert.pem is no certificate") from error
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(found[0].value) if found else ""


class Authority:
    """Issues the certificates of one job. Keys are EC P-256; they live in memory only."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _name("nexus job authority")
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        self._certificate = (
            _builder(subject, subject, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def server(self, hosts: Iterable[str] = ()) -> Credentials:
        """Credentials of the scheduler, valid for this machine's loopback names and `hosts`."""
        names = [_alternative(host) for host in dict.fromkeys((*LOCAL, *hosts))]
        return self._issue("scheduler", ExtendedKeyUsageOID.SERVER_AUTH, names)

    def worker(self, name: str) -> Credentials:
        """Credentials of the worker called `name`."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _issue(
        self, name: str, usage: x509.ObjectIdentifier, alternatives: list[x509.GeneralName]
    ) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._certificate.subject, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        if alternatives:
            names = x509.SubjectAlternativeName(alternatives)
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Credentials(
            authority=self._certificate.public_bytes(serialization.Encoding.PEM),
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ a little between machines
        .not_valid_after(now + LIFETIME)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

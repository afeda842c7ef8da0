"""Certificates for tests: an authority, and what it signs, in directories as QEMU and nbdkit take them."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """Signs certificates of servers and clients."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        signing = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.certificate = (
            _certificate(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(signing, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def server(self, directory: Path, name: str = "localhost", until: datetime.timedelta = DAY) -> Path:
        """What a server is given. `name` may be an address."""
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        self._issue(directory, "server", name, ExtendedKeyUsageOID.SERVER_AUTH, alternative, until)
        return directory

    def client(self, directory: Path, *, anonymous: bool = False) -> Path:
        """What a client is given; `anonymous`: whom to trust, and nothing else."""
        directory.mkdir(exist_ok=True)
        (directory / "ca-cert.pem").write_bytes(_pem(self.certificate))
        if not anonymous:
            name = x509.DNSName("client")
            self._issue(directory, "client", "client", ExtendedKeyUsageOID.CLIENT_AUTH, name, DAY)
        return directory

    def revoke_all(self, directory: Path) -> None:
        """A list of what is not to be trusted any more: the certificate of the server in the same directory."""
        found = x509.load_pem_x509_certificate((directory / "server-cert.pem").read_bytes())
        revoked = x509.RevokedCertificateBuilder().serial_number(found.serial_number).revocation_date(NOW - DAY).build()
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name).add_revoked_certificate(revoked)
        made = builder.last_update(NOW - DAY).next_update(NOW + DAY).sign(self._key, hashes.SHA256())
        (directory / "ca-crl.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def _issue(
        self,
        directory: Path,
        role: str,
        name: str,
        usage: x509.ObjectIdentifier,
        alternative: x509.GeneralName,
        until: datetime.timedelta,
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        made = (
            _certificate(_name(name), self._name, key, until)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        directory.mkdir(exist_ok=True)
        (directory / "ca-cert.pem").write_bytes(_pem(self.certificate))
        (directory / f"{role}-cert.pem").write_bytes(_pem(made))
        (directory / f"{role}-key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.timedelta = DAY
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return (
        builder.serial_number(x509.random_serial_number()).not_valid_before(NOW - 9 * DAY).not_valid_after(NOW + until)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

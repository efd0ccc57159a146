"""TLS certificates and SuperNode keys for a deployment on one machine. Organisations bring their own."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from secfl.files import write_new

__all__ = ["write_certificates", "write_node_key"]

DAYS = 90


def write_certificates(folder: Path, host: str) -> None:
    """A certificate authority for this deployment alone, and a certificate of the SuperLink's under it.

    The authority's key signs once and is not kept. Nothing is written where there are certificates already.

    :param host: IP address that the SuperLink listens at.
    """
    if (folder / "ca.pem").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    authority, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secfl loopback deployment")])
    root = (
        _builder(name, name, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority, hashes.SHA384())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")])
    leaf = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(names, critical=False)
        .sign(authority, hashes.SHA384())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new(folder / "superlink.key", private, mode=0o600)
    write_new(folder / "superlink.pem", leaf.public_bytes(Encoding.PEM))
    write_new(folder / "ca.pem", root.public_bytes(Encoding.PEM))


def write_node_key(path: Path) -> bool:
    """The key by which a SuperNode shows itself to the SuperLink, and its public half beside it.

    :returns: whether there was none before.
    """
    if path.exists():
        return False
    key = ec.generate_private_key(ec.SECP384R1())
    write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), mode=0o600)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_new(path.with_name(f"{path.name}.pub"), public + b"\n")
    return True


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=DAYS))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )

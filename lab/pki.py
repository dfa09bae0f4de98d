"""The lab's certificates: authorities and the leaf certificates that they sign, on P-256 keys.

Every file with a key is mode 0600. A certificate that is there already is kept, so a repeated `up` changes none.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = datetime.timedelta(days=365)
_CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM files."""

    cert: Path
    key: Path


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(content)
    unfinished.rename(path)


def pair_at(folder: Path, name: str) -> Pair:
    return Pair(cert=folder / f"{name}.crt", key=folder / f"{name}.key")


def authority(folder: Path, name: str) -> Pair:
    """A self-signed CA ``name`` in ``folder``."""
    pair = pair_at(folder, name)
    if pair.cert.exists():
        return pair
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _validity(x509.CertificateBuilder(), subject, key.public_key())
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    write_private(pair.key, key_pem(key))
    write_private(pair.cert, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return pair


def client(ca: Pair, target: Pair, common_name: str, groups: Sequence[str] = ()) -> Pair:
    """A client certificate: Kubernetes reads the user from the common name and the groups from the organisations."""
    return _issue(ca, target, common_name, groups, names=(), usages=(ExtendedKeyUsageOID.CLIENT_AUTH,))


def server(ca: Pair, target: Pair, common_name: str, names: Sequence[str]) -> Pair:
    """A serving certificate for DNS names and IP addresses ``names``; good as a client's too (etcd dials itself)."""
    usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    return _issue(ca, target, common_name, (), names=names, usages=usages)


def identity(certificate: bytes) -> tuple[str, frozenset[str]]:
    """The user and the groups that Kubernetes reads from a client certificate (PEM)."""
    subject = x509.load_pem_x509_certificate(certificate).subject
    names = [str(attribute.value) for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return names[0], frozenset(str(attribute.value) for attribute in groups)


def signing_key(path: Path) -> Path:
    """A private key without certificate (for ServiceAccount tokens), and its public half beside it as ``.pub``."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        write_private(path.with_suffix(".pub"), public)
        write_private(path, key_pem(key))
    return path


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _issue(
    ca: Pair,
    target: Pair,
    common_name: str,
    organisations: Sequence[str],
    names: Sequence[str],
    usages: Sequence[x509.ObjectIdentifier],
) -> Pair:
    if target.cert.exists():
        return target
    ca_cert = x509.load_pem_x509_certificate(ca.cert.read_bytes())
    ca_key = serialization.load_pem_private_key(ca.key.read_bytes(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{ca.key} is not an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organisations]
    subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        _validity(x509.CertificateBuilder(), subject, key.public_key())
        .issuer_name(ca_cert.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
    write_private(target.key, key_pem(key))
    write_private(target.cert, builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return target


def _validity(
    builder: x509.CertificateBuilder, subject: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        builder.subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )

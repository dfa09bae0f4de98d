"""Public keys as `cryptography` makes them, with its own fingerprint arithmetic, and damaged ones."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from operators.compute.sshkey import InvalidKey, parse_public_key

KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa-2048": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "nistp256": ec.generate_private_key(ec.SECP256R1()),
    "nistp384": ec.generate_private_key(ec.SECP384R1()),
    "nistp521": ec.generate_private_key(ec.SECP521R1()),
}
BITS = {"ed25519": 256, "rsa-2048": 2048, "nistp256": 256, "nistp384": 384, "nistp521": 521}


def line(name: str) -> str:
    return KEYS[name].public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize("name", KEYS)
def test_reads_what_openssh_writes(name: str) -> None:
    text = line(name)
    parsed = parse_public_key(f"{text} alice@example.com\n")
    blob = base64.b64decode(text.split()[1])
    assert parsed.bits == BITS[name]
    assert parsed.type == text.split()[0]
    assert parsed.fingerprint == "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def test_a_known_fingerprint() -> None:
    # From `ssh-keygen -lf`, OpenSSH 9.2.
    text = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGVIUVRMDDTXBIRq5wrB/c+oCqMB2j/yQYJvU7lQ0sWg alice@example.com"
    assert parse_public_key(text).fingerprint == "SHA256:LG1yzwyL4AhqDJLiN1yCmOZ4g4zLJPyWZ6n3wJ7hIX4"


def reencoded(name: str, change) -> str:  # type: ignore[no-untyped-def]  # a lambda over bytes, in a table below
    kind, encoded = line(name).split()[:2]
    return f"{kind} {base64.b64encode(change(base64.b64decode(encoded))).decode()}"


DAMAGED = [
    ("", "the form must be"),
    ("ssh-ed25519", "the form must be"),
    ("ssh-ed25519 AAAA====", "cut off"),
    ("ssh-ed25519 not*base64", "not base64"),
    ("ssh-ed25519 " + line("nistp256").split()[1], "its bytes say 'ecdsa-sha2-nistp256'"),
    ("no-pty " + line("ed25519"), "key type 'no-pty' is not supported"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----", "private key"),
    (line("ed25519") + "\n" + line("nistp256"), "several lines"),
    (reencoded("ed25519", lambda data: data[:-1]), "cut off"),
    (reencoded("rsa-2048", lambda data: data[: len(data) // 2]), "cut off"),
    (reencoded("nistp384", lambda data: data + b"x"), "more bytes"),
    (reencoded("nistp256", lambda data: data[:-1] + bytes([data[-1] ^ 1])), "not on its curve"),
    (reencoded("nistp521", lambda data: data[:-1] + bytes([data[-1] ^ 1])), "not on its curve"),
]


# Keys are made anew by each process, so they name no test.
@pytest.mark.parametrize(("text", "says"), DAMAGED, ids=[says for _, says in DAMAGED])
def test_damaged_keys_are_told(text: str, says: str) -> None:
    with pytest.raises(InvalidKey, match=says):
        parse_public_key(text)


def test_dsa_and_short_rsa_are_refused() -> None:
    with pytest.raises(InvalidKey, match="'ssh-dss' is not supported: use ssh-ed25519"):
        parse_public_key("ssh-dss AAAAB3NzaC1kc3MAAACB")
    # cryptography refuses to make a 512 bit key, so its bytes are put together here.
    modulus = (1 << 511) | 1
    fields = [b"ssh-rsa", b"\x01\x00\x01", b"\0" + modulus.to_bytes(64, "big")]
    blob = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    with pytest.raises(InvalidKey, match="512 bits"):
        parse_public_key("ssh-rsa " + base64.b64encode(blob).decode())

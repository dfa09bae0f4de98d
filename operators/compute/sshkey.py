"""Public ssh keys: read as a server would read them, and fingerprinted.

Sources: RFC 4253 6.6 (encoding, ssh-rsa), RFC 5656 3.1 (ecdsa), RFC 8709 4 (ed25519), OpenSSH's PROTOCOL.u2f (sk-*).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass

RSA_MIN_BITS = 1024
"""OpenSSH's own default for RequiredRSASize: sshd refuses anything smaller."""
_RSA_MAX_BITS = 16384


class InvalidKey(ValueError):
    """The text is not a public key that an ssh server would take. The message says why, and what to give instead."""


@dataclass(frozen=True)
class ParsedKey:
    """A public key. `type` as in the key's text, `fingerprint` as `ssh-keygen -l` prints it."""

    type: str
    bits: int
    fingerprint: str


@dataclass(frozen=True)
class _Curve:
    """y^2 = x^3 - 3x + b over the integers modulo p (FIPS 186-4, D.1.2)."""

    p: int
    b: int


_CURVES = {
    b"nistp256": _Curve(
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    b"nistp384": _Curve(
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    b"nistp521": _Curve(
        2**521 - 1,
        int(
            "0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF1"
            "09E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00",
            16,
        ),
    ),
}

_SUPPORTED = "ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384 or ecdsa-sha2-nistp521"


class _Reader:
    """The fields of a key's bytes, one after the other (RFC 4251 5)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def string(self) -> bytes:
        if len(self._data) < self._at + 4:
            raise InvalidKey("the key is cut off: copy the whole line from the .pub file")
        (length,) = struct.unpack_from(">I", self._data, self._at)
        start = self._at + 4
        if len(self._data) < start + length:
            raise InvalidKey("the key is cut off: copy the whole line from the .pub file")
        self._at = start + length
        return self._data[start : self._at]

    def positive_integer(self) -> int:
        data = self.string()
        if not data or data[0] & 0x80:
            raise InvalidKey("the key holds a number that is not positive: it is damaged, copy it anew")
        return int.from_bytes(data, "big")

    def end(self) -> None:
        if self._at != len(self._data):
            raise InvalidKey("the key has more bytes than its type allows: it is damaged, copy it anew")


def parse_public_key(text: str) -> ParsedKey:
    """Reads one line in the form of an OpenSSH .pub file: type, base64, comment. Raises `InvalidKey`."""
    text = text.strip()
    if "PRIVATE KEY" in text:
        raise InvalidKey("this is a private key: keep it secret, make a new pair, and give the line of the .pub file")
    if "\n" in text:
        raise InvalidKey("there are several lines: give one key, make a KeyPair for each of the others")
    words = text.split(None, 2)
    if len(words) < 2:
        raise InvalidKey("the form must be 'type base64 comment', as in a .pub file")
    kind, encoded = words[0], words[1]
    reader_of = _READERS.get(kind)
    if reader_of is None:
        raise InvalidKey(f"key type '{kind[:64]}' is not supported: use {_SUPPORTED}")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidKey("the second word is not base64: copy the whole line from the .pub file") from error
    reader = _Reader(blob)
    inside = reader.string()
    if inside != kind.encode():
        raise InvalidKey(f"the key says '{kind}' but its bytes say '{inside[:64].decode(errors='replace')}'")
    bits = reader_of(reader)
    reader.end()
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return ParsedKey(kind, bits, f"SHA256:{digest}")


def _rsa(reader: _Reader) -> int:
    exponent, modulus = reader.positive_integer(), reader.positive_integer()
    bits = modulus.bit_length()
    if not RSA_MIN_BITS <= bits <= _RSA_MAX_BITS:
        raise InvalidKey(f"the RSA key has {bits} bits: it must have {RSA_MIN_BITS} to {_RSA_MAX_BITS}")
    if exponent < 3 or exponent % 2 == 0 or modulus % 2 == 0:
        raise InvalidKey("the RSA key's numbers cannot be those of a key: it is damaged, copy it anew")
    return bits


def _ed25519(reader: _Reader) -> int:
    if len(reader.string()) != 32:
        raise InvalidKey("an ed25519 key must have 32 bytes: it is damaged, copy it anew")
    return 256


def _ecdsa(name: bytes, reader: _Reader) -> int:
    if reader.string() != name:
        raise InvalidKey("the key's type and its curve differ: it is damaged, copy it anew")
    curve = _CURVES[name]
    point = reader.string()
    size = (curve.p.bit_length() + 7) // 8
    if len(point) != 1 + 2 * size or point[0] != 4:
        raise InvalidKey("the key's point must be uncompressed and as long as its curve asks for")
    x, y = int.from_bytes(point[1 : 1 + size], "big"), int.from_bytes(point[1 + size :], "big")
    if max(x, y) >= curve.p or (y * y - (x**3 - 3 * x + curve.b)) % curve.p:
        raise InvalidKey("the key's point is not on its curve: it is damaged, copy it anew")
    return curve.p.bit_length()


def _sk_ed25519(reader: _Reader) -> int:
    bits = _ed25519(reader)
    reader.string()  # the application, `ssh:`
    return bits


def _sk_ecdsa(reader: _Reader) -> int:
    bits = _ecdsa(b"nistp256", reader)
    reader.string()  # the application, `ssh:`
    return bits


_READERS = {
    "ssh-ed25519": _ed25519,
    "ssh-rsa": _rsa,
    "ecdsa-sha2-nistp256": lambda reader: _ecdsa(b"nistp256", reader),
    "ecdsa-sha2-nistp384": lambda reader: _ecdsa(b"nistp384", reader),
    "ecdsa-sha2-nistp521": lambda reader: _ecdsa(b"nistp521", reader),
    "sk-ssh-ed25519@openssh.com": _sk_ed25519,
    "sk-ecdsa-sha2-nistp256@openssh.com": _sk_ecdsa,
}

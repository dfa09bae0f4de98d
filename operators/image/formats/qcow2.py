"""qcow2, by docs/interop/qcow2.txt of QEMU (https://www.qemu.org/docs/master/interop/qcow2.html)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from crds.vocabulary import DiskFormat
from operators.image.failure import ImportFailure
from operators.image.formats.facts import (
    Bytes,
    ImageFacts,
    backing_file,
    corrupt,
    encrypted,
    external_file,
    unsupported,
    whole_sectors,
)

MAGIC = b"QFI\xfb"

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")  # 72 bytes
_V3 = struct.Struct(">QQQII")  # 32 bytes more

# Incompatible features.
_DIRTY, _CORRUPT, _EXTERNAL_DATA, _COMPRESSION_TYPE, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _EXTERNAL_DATA | _COMPRESSION_TYPE | _EXTENDED_L2

# Header extensions.
_END = 0
_BACKING_FORMAT = 0xE2792ACA
_FEATURE_NAMES = 0x6803F857
_ENCRYPTION = 0x0537BE77
_DATA_FILE_NAME = 0x44415441

_MAX_L1_BYTES = 32 << 20  # QEMU's own limit


@dataclass(frozen=True)
class _Header:
    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_offset: int
    snapshots: int
    incompatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    length: int = 72


def inspect(file: Bytes) -> ImageFacts:
    """The facts of a qcow2 file. Raises `ImportFailure`."""
    header = _header(file)
    _refuse_references(header)
    extensions = _extensions(file, header)
    if _DATA_FILE_NAME in extensions:
        raise external_file("it names an external data file")
    if _ENCRYPTION in extensions:
        raise encrypted("it has a LUKS header")
    if not 9 <= header.cluster_bits <= 21:
        raise corrupt(f"its cluster size of 2^{header.cluster_bits} is out of range")
    if header.refcount_order > 6:
        raise corrupt("its reference counts are wider than 64 bits")
    if header.l1_size * 8 > _MAX_L1_BYTES:
        raise corrupt("its L1 table is larger than any disk needs")
    if header.l1_size and header.l1_offset + header.l1_size * 8 > file.size:
        raise corrupt("the L1 table lies beyond the end of the file")
    plain = (
        header.version == 3
        and not header.snapshots
        and not header.incompatible & _DIRTY
        and not header.autoclear
        and not extensions - {_FEATURE_NAMES}
    )
    return ImageFacts(DiskFormat.QCOW2, whole_sectors(header.size), plain=plain)


def _header(file: Bytes) -> _Header:
    (_, version, backing_offset, backing_size, cluster_bits, size, crypt, l1_size, l1_offset, _, _, snapshots, _) = (
        _V2.unpack(file.read(0, _V2.size, "header"))
    )
    if version not in (2, 3):
        raise unsupported(f"The image is a qcow of version {version}; known are qcow2's 2 and 3")
    incompatible, autoclear, order, length = 0, 0, 4, _V2.size
    if version == 3:
        incompatible, _, autoclear, order, length = _V3.unpack(file.read(_V2.size, _V3.size, "header"))
        if length < _V2.size + _V3.size or length > 4096:
            raise corrupt(f"its header says that it has {length} bytes")
    return _Header(
        version,
        backing_offset,
        backing_size,
        cluster_bits,
        size,
        crypt,
        l1_size,
        l1_offset,
        snapshots,
        incompatible,
        autoclear,
        order,
        length,
    )


def _refuse_references(header: _Header) -> None:
    """Raises for what would make the image depend on other files, or on what is unknown."""
    problem: ImportFailure | None = None
    if header.backing_offset or header.backing_size:
        problem = backing_file("it has a backing file")
    elif header.incompatible & _EXTERNAL_DATA:
        problem = external_file("it has an external data file")
    elif header.crypt_method:
        problem = encrypted("its header names an encryption method")
    elif header.incompatible & _CORRUPT:
        problem = corrupt("its own header marks it as corrupt")
    elif header.incompatible & ~_KNOWN:
        problem = unsupported(f"The image needs unknown features (bits {header.incompatible & ~_KNOWN:#x})")
    if problem is not None:
        raise problem


def _extensions(file: Bytes, header: _Header) -> set[int]:
    """The types of the header extensions, all of which lie in the first cluster."""
    found: set[int] = set()
    offset = header.length
    end = min(file.size, 1 << min(max(header.cluster_bits, 9), 21))
    while offset + 8 <= end:
        kind, length = file.unpack(">II", offset, "header extension")
        if kind == _END:
            return found
        if length > end - offset - 8:
            raise corrupt("a header extension is longer than its cluster")
        found.add(kind)
        offset += 8 + -(-length // 8) * 8
    return found

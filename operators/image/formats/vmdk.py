"""VMDK in one file: monolithicSparse and streamOptimized, by VMware's Virtual Disk Format 1.1 and QEMU's block/vmdk.c.

All other kinds are descriptors that name further files of the host that opens them, so they are refused.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from crds.vocabulary import DiskFormat
from operators.image.formats.facts import (
    SECTOR,
    Bytes,
    ImageFacts,
    backing_file,
    corrupt,
    external_file,
    unsupported,
)

MAGIC = b"KDMV"
DESCRIPTOR = b"# Disk DescriptorFile"

_HEADER = struct.Struct("<4sIIQQQQIQQQ")
_GD_AT_END = (1 << 64) - 1
_MAX_DESCRIPTOR = 1 << 20
_TYPES = ("monolithicSparse", "streamOptimized")
_EXTENT = re.compile(r"^\s*(RW|RDONLY|NOACCESS)\s+(\d{1,20})\s+([A-Z]+)(.*)$")


class _Sparse(NamedTuple):
    magic: bytes
    version: int
    flags: int
    capacity: int
    grain: int
    descriptor_offset: int
    descriptor_size: int
    gtes_per_gt: int
    rgd_offset: int
    gd_offset: int
    overhead: int


def inspect(file: Bytes) -> ImageFacts:
    """The facts of a VMDK file. Raises `ImportFailure`."""
    if file.peek(0, 4) != MAGIC:
        raise external_file("it is a VMDK descriptor, which names other files")
    header = _Sparse(*_HEADER.unpack(file.read(0, _HEADER.size, "header")))
    if header.version not in (1, 2, 3):
        raise unsupported(f"The VMDK has version {header.version}; known are 1 to 3")
    if header.gd_offset == _GD_AT_END:
        # QEMU reads the footer, a second header 1024 bytes before the end, instead.
        footer = _Sparse(*_HEADER.unpack(file.read(file.size - 1024, _HEADER.size, "footer")))
        if footer.magic != MAGIC or footer.capacity != header.capacity:
            raise corrupt("its footer contradicts its header")
        if (footer.descriptor_offset, footer.descriptor_size) not in (
            (0, 0),
            (header.descriptor_offset, header.descriptor_size),
        ):
            raise corrupt("its footer has a descriptor of its own")
    if not header.descriptor_offset:
        raise unsupported("The VMDK has no embedded descriptor")
    size = min(header.descriptor_size * SECTOR, _MAX_DESCRIPTOR)
    raw = file.read(header.descriptor_offset * SECTOR, size, "descriptor")
    _check_descriptor(raw.split(b"\0", 1)[0].decode("latin-1"))
    if header.capacity > (1 << 63) // SECTOR:
        raise corrupt("its capacity is out of range")
    return ImageFacts(DiskFormat.VMDK, header.capacity * SECTOR)


def _check_descriptor(text: str) -> None:
    # As QEMU finds the type: every line that mentions it must say the same.
    types = re.findall(r"createType\s*=\s*\"?([^\"\r\n]*)", text, re.IGNORECASE)
    if not types:
        raise corrupt("its descriptor names no createType")
    for kind in types:
        if kind not in _TYPES:
            raise external_file(f"it is a VMDK of type {kind[:40]!a}; accepted are {' and '.join(_TYPES)}")
    parents = re.findall(r"parentCID\s*=\s*([0-9A-Za-z]*)", text, re.IGNORECASE)
    if any(parent.lower() != "ffffffff" for parent in parents) or re.search("parentFileNameHint", text, re.IGNORECASE):
        raise backing_file("it is a VMDK with a parent")
    extents = [match for line in text.splitlines() if (match := _EXTENT.match(line))]
    if len(extents) != 1 or extents[0].group(3) != "SPARSE":
        raise external_file("its descriptor must have exactly one SPARSE extent")
    if "/" in extents[0].group(4) or "\\" in extents[0].group(4):
        raise external_file("its descriptor names an extent by a path")

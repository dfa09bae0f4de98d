"""VirtualBox's VDI, by QEMU's block/vdi.c."""

from __future__ import annotations

import struct

from crds.vocabulary import DiskFormat
from operators.image.formats.facts import Bytes, ImageFacts, backing_file, corrupt, unsupported, whole_sectors

SIGNATURE_OFFSET = 0x40
SIGNATURE = struct.pack("<I", 0xBEDA107F)

_DYNAMIC, _STATIC = 1, 2


def inspect(file: Bytes) -> ImageFacts:
    """The facts of a VDI file. Raises `ImportFailure`."""
    version, _, kind = file.unpack("<III", 0x44, "header")
    if version != 0x00010001:
        raise unsupported(f"The VDI has version {version >> 16}.{version & 0xFFFF}; known is 1.1")
    if kind not in (_DYNAMIC, _STATIC):
        raise backing_file("it is a VDI that is neither dynamic nor static")
    (data_offset,) = file.unpack("<I", 0x158, "header")
    disk_size, block_size, block_extra, blocks, allocated = file.unpack("<QIIII", 0x170, "header")
    link, parent = file.unpack("16s16s", 0x1A8, "header")
    if any(link) or any(parent):
        raise backing_file("it is a VDI that differs from a parent")
    if block_size != 1 << 20:
        raise unsupported(f"The VDI has blocks of {block_size} bytes; known are blocks of 1 MiB")
    if blocks * block_size < disk_size:
        raise corrupt("its block map is too small for its disk")
    if allocated > blocks or data_offset + allocated * (block_size + block_extra) > file.size:
        raise corrupt("it has fewer blocks than its header says")
    return ImageFacts(DiskFormat.VDI, whole_sectors(disk_size))

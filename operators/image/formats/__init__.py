"""What an image's bytes are: our own parser, which trusts no field and opens nothing but the one file.

It decides before any of QEMU's code sees the bytes; what QEMU says afterwards must agree (operators.image.convert).
"""

from __future__ import annotations

from typing import BinaryIO

from crds.quantity import format_quantity
from crds.vocabulary import DiskFormat
from operators.image.failure import Reason, refused
from operators.image.formats import qcow2, vdi, vhdx, vmdk
from operators.image.formats.facts import Bytes, ImageFacts, encrypted, whole_sectors

__all__ = ["ImageFacts", "check", "inspect"]

_HEAD = 4096

# Formats that QEMU knows and images may not have: a disk does not begin like this by chance.
_FOREIGN = (
    (b"conectix", "a VHD"),
    (b"QED\0", "a QED"),
    (b"WithoutFreeSpace", "a Parallels disk"),
    (b"WithouFreSpacExt", "a Parallels disk"),
    (b"Bochs Virtual HD Image", "a Bochs disk"),
    (b"COWD", "a VMware disk of ESX 3"),
)
_PACKED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"PK\x03\x04", "zip", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "7z x"),
)


def inspect(file: BinaryIO) -> ImageFacts:
    """The facts of a seekable binary file. Raises `ImportFailure`, never another error of the bytes."""
    content = Bytes(file)
    if content.size == 0:
        raise refused(Reason.CORRUPT, "The image is empty: the source has no bytes.")
    head = content.peek(0, _HEAD)
    if head.startswith(qcow2.MAGIC):
        return qcow2.inspect(content)
    if head.startswith(vmdk.MAGIC) or vmdk.DESCRIPTOR.lower() in head[:1024].lower():
        return vmdk.inspect(content)
    if head[vdi.SIGNATURE_OFFSET :].startswith(vdi.SIGNATURE):
        return vdi.inspect(content)
    if head.startswith(vhdx.SIGNATURE):
        return vhdx.inspect(content)
    _refuse_foreign(head)
    hybrid = head[510:512] == b"\x55\xaa"
    if _is_iso(content):
        return ImageFacts(DiskFormat.ISO, whole_sectors(content.size), also_raw=hybrid)
    return ImageFacts(DiskFormat.RAW, whole_sectors(content.size))


def check(facts: ImageFacts, declared: DiskFormat, max_virtual_size: int) -> None:
    """Raises `ImportFailure` unless the bytes are what the user says, within the limit (bytes)."""
    if facts.format != declared and not (facts.also_raw and declared == DiskFormat.RAW):
        raise refused(
            Reason.FORMAT_MISMATCH,
            f"spec.diskFormat says {declared}, but the bytes are {facts.format}. Create a new Image with diskFormat"
            f" {facts.format}, or with a source that is {declared}.",
        )
    if facts.virtual_size == 0:
        raise refused(Reason.CORRUPT, "The image's disk has a size of 0. Create it anew and import that.")
    if facts.virtual_size > max_virtual_size:
        raise refused(
            Reason.VIRTUAL_SIZE_TOO_LARGE,
            f"The image's disk of {facts.virtual_size} bytes is larger than the limit of"
            f" {format_quantity(max_virtual_size)}. Shrink it (qemu-img resize --shrink), or ask the administrator"
            " to raise the limit.",
        )


def _refuse_foreign(head: bytes) -> None:
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            raise refused(
                Reason.UNSUPPORTED_FORMAT,
                f"The bytes are {name}, which is not a supported format. Convert it with qemu-img to qcow2.",
            )
    if head.startswith(b"LUKS\xba\xbe"):
        raise encrypted("the bytes are a LUKS volume")
    for magic, name, tool in _PACKED:
        if head.startswith(magic):
            raise refused(
                Reason.UNSUPPORTED_FORMAT,
                f"The bytes are packed with {name}. Unpack them ({tool}) and offer the disk image itself.",
            )
    text = head.lstrip()[:64].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise refused(
            Reason.UNSUPPORTED_FORMAT,
            "The bytes are a web page, not a disk image. Use the URL of the file itself, not of a page about it.",
        )


def _is_iso(content: Bytes) -> bool:
    """ISO 9660 (ECMA-119, 8.1) or a bare UDF, whose volume recognition sequence begins at the same sector."""
    for sector in range(16, 24):
        identifier = content.peek(sector * 2048 + 1, 5)
        if identifier == b"CD001" or identifier[:4] == b"NSR0":
            return True
    return False

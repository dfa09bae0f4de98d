"""What the inspection of an image's bytes yields, and how the parsers read them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from crds.vocabulary import DiskFormat
from operators.image.failure import ImportFailure, Reason, refused


@dataclass(frozen=True)
class ImageFacts:
    """What the bytes say about themselves.

    `virtual_size` is in bytes, rounded up to whole sectors. `plain`: a qcow2 of version 3 with nothing but its disk,
    which may be stored byte by byte. `also_raw`: an ISO image that is a valid disk (hybrid MBR) too.
    """

    format: DiskFormat
    virtual_size: int
    plain: bool = False
    also_raw: bool = False


SECTOR = 512


def whole_sectors(size: int) -> int:
    """`size` rounded up to a multiple of 512, as QEMU presents a disk."""
    return -(-size // SECTOR) * SECTOR


class Bytes:
    """A file that a parser may read anywhere: never more than it asks for, and a typed refusal where the file ends."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)

    def peek(self, offset: int, length: int) -> bytes:
        """At most `length` bytes at `offset`; fewer, or none, where the file ends."""
        if offset < 0 or offset >= self.size:
            return b""
        self._file.seek(offset)
        return self._file.read(length)

    def read(self, offset: int, length: int, what: str) -> bytes:
        """Exactly `length` bytes at `offset`. Raises `ImportFailure`, naming `what`, if the file ends before."""
        data = self.peek(offset, length)
        if len(data) != length:
            raise corrupt(f"the {what} lies beyond the end of the file")
        return data

    def unpack(self, layout: str, offset: int, what: str) -> tuple[Any, ...]:
        """Fields by a `struct` layout; errors as `read`."""
        return struct.unpack(layout, self.read(offset, struct.calcsize(layout), what))


def corrupt(what: str) -> ImportFailure:
    return refused(Reason.CORRUPT, f"The image is damaged: {what}. Create it anew with qemu-img and import that.")


def backing_file(what: str) -> ImportFailure:
    return refused(
        Reason.BACKING_FILE,
        f"The image is not complete by itself: {what}. Merge it with its base (qemu-img convert does) and import that.",
    )


def external_file(what: str) -> ImportFailure:
    return refused(
        Reason.EXTERNAL_FILE,
        f"The image keeps its data outside of itself: {what}. Merge it into one file (qemu-img convert does) and import"
        " that.",
    )


def encrypted(what: str) -> ImportFailure:
    return refused(Reason.ENCRYPTED, f"The image is encrypted: {what}. Decrypt it and import that.")


def unsupported(what: str) -> ImportFailure:
    return refused(
        Reason.UNSUPPORTED_FEATURE, f"{what}. Convert the image to a plain qcow2 (qemu-img convert) and import that."
    )

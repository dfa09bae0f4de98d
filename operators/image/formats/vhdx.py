"""Hyper-V's VHDX, by [MS-VHDX] (https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx)."""

from __future__ import annotations

from uuid import UUID

from crds.vocabulary import DiskFormat
from operators.image.formats.facts import Bytes, ImageFacts, backing_file, corrupt, whole_sectors

SIGNATURE = b"vhdxfile"

_REGION_TABLES = (192 << 10, 256 << 10)
_MAX_REGIONS = 2047
_MAX_ITEMS = 2047
_METADATA_REGION = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_VIRTUAL_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_HAS_PARENT = 2


def inspect(file: Bytes) -> ImageFacts:
    """The facts of a VHDX file. Raises `ImportFailure`."""
    # The second table is a copy of the first. What QEMU takes of them is compared with this result afterwards.
    metadata = next((found for table in _REGION_TABLES if (found := _metadata_region(file, table))), None)
    if metadata is None:
        raise corrupt("it has no metadata region")
    items = _items(file, metadata)
    if _PARENT_LOCATOR in items:
        raise backing_file("it is a VHDX that differs from a parent")
    if _FILE_PARAMETERS not in items or _VIRTUAL_DISK_SIZE not in items:
        raise corrupt("its metadata lacks the size of the disk")
    _, flags = file.unpack("<II", items[_FILE_PARAMETERS], "file parameters")
    if flags & _HAS_PARENT:
        raise backing_file("it is a VHDX that differs from a parent")
    (size,) = file.unpack("<Q", items[_VIRTUAL_DISK_SIZE], "size of the disk")
    return ImageFacts(DiskFormat.VHDX, whole_sectors(size))


def _metadata_region(file: Bytes, table: int) -> int | None:
    if file.peek(table, 4) != b"regi":
        return None
    (count,) = file.unpack("<I", table + 8, "region table")
    for entry in range(min(count, _MAX_REGIONS)):
        guid, offset = file.unpack("<16sQ", table + 16 + 32 * entry, "region table")
        if UUID(bytes_le=guid) == _METADATA_REGION:
            return int(offset)
    return None


def _items(file: Bytes, region: int) -> dict[UUID, int]:
    """Where the metadata items are in the file, by their id."""
    if file.read(region, 8, "metadata table") != b"metadata":
        raise corrupt("its metadata table has no signature")
    (count,) = file.unpack("<H", region + 10, "metadata table")
    found: dict[UUID, int] = {}
    for entry in range(min(count, _MAX_ITEMS)):
        guid, offset = file.unpack("<16sI", region + 32 + 32 * entry, "metadata table")
        found[UUID(bytes_le=guid)] = region + offset
    return found

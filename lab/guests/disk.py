"""A bootable disk image from a folder: one active ext4 partition, extlinux, a DOS partition table."""

import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from lab.guests.command import run

SECTOR = 512
MIB = 1024 * 1024
PARTITION_OFFSET = MIB
MBR = Path("/usr/lib/EXTLINUX/mbr.bin")
MBR_CODE_BYTES = 440
BLOCK_BYTES = "4096"
DISK_ID_BYTES = 6
ACTIVE = 0x80
LINUX = 0x83


@dataclass(frozen=True)
class Layout:
    """How large the disk is and what its file system is made with."""

    disk_mib: int
    label: str
    features: str = ""
    """More of mkfs.ext4's -O. 64bit is always off: extlinux does not read such a file system."""
    journal: bool = True


def make_disk(tree: Path, layout: Layout, work: Path, target: Path) -> None:
    """Make a compressed qcow2 at `target` that boots from the files in `tree`, by its /boot/extlinux/extlinux.conf."""
    partition = work / "partition.raw"
    with partition.open("wb") as file:
        file.truncate(layout.disk_mib * MIB - PARTITION_OFFSET)
    features = ",".join(filter(None, ["^64bit", "" if layout.journal else "^has_journal", layout.features]))
    run(["mkfs.ext4", "-q", "-b", BLOCK_BYTES, "-L", layout.label, "-m", "0", "-O", features, "-d", tree, partition])
    _install_extlinux(partition)
    raw = work / "disk.raw"
    _join(partition, raw, layout.disk_mib)
    partition.unlink()
    run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zlib", raw, target])
    raw.unlink()


def _install_extlinux(partition: Path) -> None:
    # In a mount namespace of its own: whatever happens to this process, no mount and no loop device stays behind.
    module = Path(__file__).with_name("extlinux.py")
    run(["unshare", "--mount", "--propagation", "private", sys.executable, module, partition])


def master_boot_record(code: bytes, disk_mib: int) -> bytes:
    """Return the first sector: boot code and a DOS partition table with one active Linux partition up to the end."""
    first = PARTITION_OFFSET // SECTOR
    count = disk_mib * MIB // SECTOR - first
    # Cylinders, heads and sectors are given as "beyond what these can express"; boot code and kernel use the LBA.
    beyond = bytes((0xFE, 0xFF, 0xFF))
    entry = struct.pack("<B3sB3sII", ACTIVE, beyond, LINUX, beyond, first, count)
    return (
        code[:MBR_CODE_BYTES].ljust(MBR_CODE_BYTES + DISK_ID_BYTES, b"\0") + entry + bytes(3 * len(entry)) + b"\x55\xaa"
    )


def _join(partition: Path, raw: Path, disk_mib: int) -> None:
    """Put boot code, partition table and the partition together."""
    with raw.open("wb") as file:
        file.write(master_boot_record(MBR.read_bytes(), disk_mib))
        file.truncate(disk_mib * MIB)
    # dd skips what is empty, so the disk stays sparse.
    argv = ["dd", f"if={partition}", f"of={raw}", "bs=1M", f"seek={PARTITION_OFFSET // MIB}", "conv=notrunc,sparse"]
    run(argv)

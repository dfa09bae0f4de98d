"""The tiny guest: Debian's cloud kernel and an initramfs on a disk of its own. files/tiny holds what runs inside."""

import shutil
from pathlib import Path

from lab.guests import apt, initramfs
from lab.guests.command import BuildError
from lab.guests.disk import Layout, make_disk

LAYOUT = Layout(disk_mib=48, label="tiny", journal=False)


def make(files: Path, work: Path, target: Path) -> None:
    """Build the image at `target`. Raises BuildError."""
    kernel, release = unpack_kernel(work)
    tree = work / "initramfs"
    tree.mkdir()
    initramfs.build_tree(tree, kernel, release, files, work)

    boot = work / "boot"
    extlinux = boot / "boot/extlinux"
    extlinux.mkdir(parents=True)
    initramfs.pack(tree, extlinux.parent / "initrd")
    shutil.copy2(kernel / f"boot/vmlinuz-{release}", extlinux.parent / "vmlinuz")
    shutil.copy2(files / "extlinux.conf", extlinux / "extlinux.conf")
    make_disk(boot, LAYOUT, work, target)


def unpack_kernel(work: Path) -> tuple[Path, str]:
    """Fetch Debian's newest cloud kernel; return the folder it is unpacked in and the kernel's release."""
    versions = apt.dependencies("linux-image-cloud-amd64", "linux-image-")
    if not versions:
        raise BuildError("linux-image-cloud-amd64 names no kernel: is this machine's architecture amd64?")
    kernel = work / "kernel"
    kernel.mkdir()
    apt.unpack(apt.download(versions[0], work), kernel)
    return kernel, versions[0].removeprefix("linux-image-")

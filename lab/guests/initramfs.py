"""The initramfs of the tiny guest: busybox, dropbear, the modules that a virtual machine needs, and our scripts."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from lab.guests.command import run

PROGRAMS = ("/usr/sbin/dropbear", "/usr/bin/dropbearkey")
"""Programs of the host that are copied with the libraries they need; busybox is static and is everything else."""

MODULES = (
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_scsi",
    "virtio-rng",
    "virtio_balloon",
    "virtio_console",
    # The IDE CD-ROM of the pc (i440fx) machine; the cloud kernel has no AHCI, so a SATA one is not seen.
    "ata_piix",
    "sd_mod",
    "sr_mod",
    "isofs",
    "button",
    "evdev",
    "8021q",
)


def build_tree(tree: Path, kernel: Path, release: str, files: Path, scratch: Path) -> None:
    """Lay out the root file system in `tree` from `kernel` (an unpacked kernel package) and `files` (our own)."""
    for folder in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var/run", "usr/bin", "usr/sbin", "sbin"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    _add_busybox(tree)
    for program in PROGRAMS:
        _add_program(tree, Path(program), program)
    rawframe = scratch / "rawframe"
    run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", rawframe, files / "rawframe.c"])
    _add_program(tree, rawframe, "/usr/bin/rawsend")
    (tree / "usr/bin/rawrecv").symlink_to("rawsend")
    _add_modules(tree, kernel, release)
    shutil.copytree(files / "rootfs", tree, dirs_exist_ok=True)


def _add_busybox(tree: Path) -> None:
    shutil.copy2("/bin/busybox", tree / "bin/busybox")
    for applet in run(["/bin/busybox", "--list-full"]).decode().split():
        link = tree / applet
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to("/bin/busybox")
    (tree / "init").symlink_to("/bin/busybox")


def _add_program(tree: Path, program: Path, place: str) -> None:
    target = tree / place.lstrip("/")
    target.unlink(missing_ok=True)
    shutil.copy2(program, target)
    for library in libraries(run(["ldd", program]).decode()):
        copy = tree / library.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            shutil.copy2(Path(library).resolve(), copy)


def libraries(ldd: str) -> list[str]:
    """Return the files that ldd(1) names, the dynamic loader among them."""
    return re.findall(r"(?:=>\s*|^\s*)(/\S+) \(0x", ldd, re.MULTILINE)


def _add_modules(tree: Path, kernel: Path, release: str) -> None:
    """Copy MODULES and what they depend on. depmod then sees only those, so that loading by alias stays cheap."""
    run(["depmod", "-b", kernel, release])
    source = kernel / "lib/modules" / release
    for file in module_files(
        run(["modprobe", "-d", kernel, "-S", release, "--show-depends", module]).decode() for module in MODULES
    ):
        place = tree / "lib/modules" / release / Path(file).relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)
    for index in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        shutil.copy2(source / index, tree / "lib/modules" / release / index)
    run(["depmod", "-b", tree, release])
    # busybox reads only the text forms.
    kept = {"modules.dep", "modules.alias", "modules.symbols"}
    for index_file in (tree / "lib/modules" / release).glob("modules.*"):
        if index_file.name not in kept:
            index_file.unlink()


def module_files(listings: Iterable[str]) -> list[str]:
    """Return the files in several outputs of `modprobe --show-depends`, each once, in order of loading."""
    files: dict[str, None] = {}
    for listing in listings:
        for line in listing.splitlines():
            word, _, rest = line.partition(" ")
            if word == "insmod":
                files.setdefault(os.path.normpath(rest.split()[0]))
    return list(files)


def pack(tree: Path, target: Path) -> None:
    """Write `tree` as a cpio archive, every file root's. Not compressed: the disk image is, and the host unpacks it."""
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    listing = "\0".join(names).encode()
    argv = ["cpio", "--null", "--create", "--format=newc", "--owner=+0:+0", "--quiet", "--reproducible"]
    target.write_bytes(run(argv, cwd=tree, stdin=listing))

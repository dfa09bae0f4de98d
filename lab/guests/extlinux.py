"""Install extlinux into a file system image: run as a program, in a mount namespace of its own.

extlinux needs the file system mounted, because it asks the kernel where the blocks of its loader lie.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def install(image: str) -> None:
    """Mount the ext4 image `image` and install the loader into its /boot/extlinux."""
    with tempfile.TemporaryDirectory() as mountpoint:
        subprocess.run(["mount", "-t", "ext4", "-o", "loop", image, mountpoint], check=True)
        try:
            boot = Path(mountpoint) / "boot"
            fill_holes(boot)
            subprocess.run(["fstrim", mountpoint], check=True)
            subprocess.run(["extlinux", "--install", boot / "extlinux"], check=True)
        finally:
            subprocess.run(["umount", mountpoint], check=True)


def fill_holes(folder: Path) -> None:
    """Rewrite the files below `folder` with every block allocated.

    mke2fs -d leaves out blocks of zeros, and extlinux reads "I/O error" where a kernel or initramfs has such a hole.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        copy = path.with_name(f".{path.name}.whole")
        copy.write_bytes(path.read_bytes())
        shutil.copystat(path, copy)
        copy.replace(path)


if __name__ == "__main__":
    install(sys.argv[1])

"""The Debian guest: Debian 12 with cloud-init and sshd like its cloud images, trimmed for an emulated processor.

files/debian/packages.txt is what it has beside Debian's minimal system, files/debian/rootfs what is laid over that.
"""

import shutil
from pathlib import Path

from lab.guests import apt
from lab.guests.command import run
from lab.guests.disk import Layout, make_disk

LAYOUT = Layout(disk_mib=1536, label="debian-root")

NOT_INSTALLED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")

ENABLED = ("systemd-networkd.service", "systemd-resolved.service")

MASKED = (
    # What runs by timer would use the processor in the middle of a test.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-pstore.service",
    # Nothing here needs them, and each takes an emulated processor a tenth of a second or more.
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "systemd-binfmt.service",
)

UNIQUE = ("etc/ssh/ssh_host_*", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id")
"""What each machine must have of its own: made at its first boot."""

LEFTOVERS = (
    "var/lib/apt/lists/*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/log/*.log",
    "var/log/apt/*",
)


def make(files: Path, work: Path, target: Path) -> None:
    """Build the image at `target`. Raises BuildError."""
    tree = work / "root"
    overlay = work / "overlay"
    shutil.copytree(files / "rootfs", overlay)
    run(["chown", "-R", "0:0", overlay])
    run(["chmod", "-R", "u=rwX,go=rX", overlay])
    packages = (files / "packages.txt").read_text().split()
    sources = "\n".join(source.line() for source in apt.configured_sources())
    argv = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        "--include=" + ",".join(packages),
        # Before the packages: the kernel's initramfs is made once, as configured.
        f"--setup-hook=sync-in {overlay} /",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_INSTALLED),
        *(f"--aptopt={option}" for option in apt.transport_options()),
        apt.RELEASE,
        str(tree),
        "-",
    ]
    run(argv, stdin=sources.encode())
    finish(tree)
    make_disk(tree, LAYOUT, work, target)


def finish(tree: Path) -> None:
    """Make the installed system in `tree` an image: services chosen, nothing in it that machines must not share."""
    run(["chroot", tree, "systemctl", "--quiet", "enable", *ENABLED])
    run(["chroot", tree, "systemctl", "--quiet", "mask", *MASKED])
    resolv = tree / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (tree / "etc/hostname").write_text("localhost\n")
    # Empty, not absent: systemd then writes a new one at boot without taking the boot for an installation's first.
    (tree / "etc/machine-id").write_text("")
    # The machine that built the image had its own mirror; cloud-init writes Debian's list at the first boot.
    (tree / "etc/apt/sources.list").write_text("")
    (tree / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    for pattern in (*UNIQUE, *LEFTOVERS):
        for path in tree.glob(pattern):
            if path.is_file() or path.is_symlink():
                path.unlink()

"""The system user that Debian's libvirtd refuses to start without, although the lab's guests run as root.

Its package, libvirt-daemon-system, would make it, and also a libvirtd for the machine that starts at the next boot.
Names and ids are that package's, so that it finds everything as it wants it if it is installed some day.
"""

import grp
import os
import pwd

from lab.command import run
from lab.errors import LabError

_USER = "libvirt-qemu"
_GROUP = "libvirt-qemu"
_PRIMARY_GROUP = "kvm"
_ID = 64055
"""Debian's, for both; https://www.debian.org/doc/debian-policy/ch-opersys.html#uid-and-gid-classes"""


def ensure() -> None:
    """Make the user and its groups unless they are there. Raises LabError."""
    users = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    groups = {entry.gr_name: entry.gr_gid for entry in grp.getgrall()}
    commands = missing(users, groups)
    if commands and os.geteuid() != 0:
        raise LabError(f"run as root: the system user {_USER} is missing")
    for argv in commands:
        run(argv)


def missing(users: dict[str, int], groups: dict[str, int]) -> list[list[str]]:
    """The commands that make what is missing; ids by name. An id that is taken is left to its owner."""
    commands = []
    if _PRIMARY_GROUP not in groups:
        commands.append(["groupadd", "--system", _PRIMARY_GROUP])
    if _GROUP not in groups:
        identity = [] if _ID in groups.values() else ["--gid", str(_ID)]
        commands.append(["groupadd", "--system", *identity, _GROUP])
    if _USER not in users:
        identity = [] if _ID in users.values() else ["--uid", str(_ID)]
        home = ["--home-dir", "/var/lib/libvirt", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        member = ["--gid", _PRIMARY_GROUP, "--groups", _GROUP]
        commands.append(["useradd", "--system", *identity, *member, *home, "--comment", "Libvirt Qemu", _USER])
    return commands

"""A node's own libvirtd: its configuration files and its command line (https://libvirt.org/manpages/libvirtd.html)."""

import uuid
from pathlib import Path

from lab.command import run
from lab.errors import LabError
from lab.hosts import enter
from lab.layout import Layout

SERVICE = "libvirtd"

# Confinement is off in the lab alone: the machine's AppArmor and device cgroups are shared by all nodes of the lab, and
# guests' files belong to root because every node's root is the machine's. stdio_handler=file saves a virtlogd per node.
_QEMU_CONF = """\
security_driver = "none"
cgroup_controllers = []
namespaces = []
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
"""

_LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
log_level = 3
log_outputs = "3:stderr"
"""


def write_configuration(layout: Layout, node: str) -> None:
    """Write the node's /etc/libvirt; files that are right are left alone."""
    folder = layout.node_data(node) / "etc-libvirt"
    folder.mkdir(parents=True, exist_ok=True)
    # All nodes run on one machine, so without this every libvirtd would report the same host to migration.
    host = uuid.uuid5(uuid.NAMESPACE_DNS, f"{node}.{layout.name}.lab.kumulus.dev")
    _write(folder / "qemu.conf", _QEMU_CONF)
    _write(folder / "libvirtd.conf", _LIBVIRTD_CONF.format(uuid=host))


def command() -> list[str]:
    return ["libvirtd", "-p", "/run/libvirt/libvirtd.pid", "-f", "/etc/libvirt/libvirtd.conf"]


def is_ready(layout: Layout, node: str) -> bool:
    try:
        run([*enter(layout, node), "virsh", "--connect", "qemu:///system", "version"], timeout=20)
    except LabError:
        return False
    return True


def _write(path: Path, content: str) -> None:
    if not path.exists() or path.read_text() != content:
        path.write_text(content)

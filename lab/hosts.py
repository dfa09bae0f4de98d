"""A host of the lab: a network, a mount and a UTS namespace, pinned as files below <run>/ns.

Pinned namespaces need no process that holds them, and all of them go when that one mount goes. Nothing of a host is
in the machine's own network namespace, so labs of several names do not meet.
"""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from lab.command import run
from lab.layout import FABRIC_PREFIX, MTU, PUBLIC_PREFIX, HostPlan, Layout
from lab.mounts import mount_points, own_mount_points

SWITCH = "switch"

# Where a node's own folders appear in it. What is on the left is below Layout.node_data.
NODE_FOLDERS = {
    "etc-libvirt": Path("/etc/libvirt"),
    "libvirt": Path("/var/lib/libvirt"),
    "log-libvirt": Path("/var/log/libvirt"),
    "cache-libvirt": Path("/var/cache/libvirt"),
    "kumulus": Path("/var/lib/kumulus"),
}


def enter(layout: Layout, host: str) -> list[str]:
    """The words to put before a command line so that it runs in ``host``."""
    pin = layout.namespaces / host
    return ["nsenter", f"--net={pin}.net", f"--mount={pin}.mnt", f"--uts={pin}.uts", "--"]


def run_in(layout: Layout, host: str, argv: Sequence[str | Path], *, timeout: float = 60) -> str:
    """Run a command in ``host`` and return its standard output. Raises LabError."""
    return run([*enter(layout, host), *argv], timeout=timeout)


def create_switch(layout: Layout) -> None:
    """The namespace that holds the bridges `fabric` and `public`: the cables of the data centre."""
    folder = layout.namespaces
    folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_mount():
        run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=1m", "kumulus-lab", folder])
        # unshare(1) pins a mount namespace only on a private mount.
        run(["mount", "--make-private", folder])
    if _is_ready(layout, SWITCH):
        return
    _unpin(layout, SWITCH)
    pin = _pin(layout, SWITCH, "net")
    run(["unshare", f"--net={pin}", "--", "true"])
    bridges = ["link set lo up"]
    for bridge in ("fabric", "public"):
        # A dumb switch: no snooping that would need a querier, no delay before a new cable carries frames.
        bridges.append(f"link add {bridge} mtu {MTU} type bridge mcast_snooping 0 stp_state 0 forward_delay 0")
        bridges.append(f"link set {bridge} addrgenmode none up")
    run(["nsenter", f"--net={pin}", "--", "ip", "-batch", "-"], stdin="\n".join(bridges))
    _mark_ready(layout, SWITCH)


def create_host(layout: Layout, plan: HostPlan) -> None:
    """Make the host unless it is there; what a broken attempt left of it is thrown away first."""
    if _is_ready(layout, plan.name):
        return
    _unpin(layout, plan.name)
    net, mnt, uts = (_pin(layout, plan.name, kind) for kind in ("net", "mnt", "uts"))
    unshare = ["unshare", f"--net={net}", f"--mount={mnt}", f"--uts={uts}", "--propagation=private"]
    run([*unshare, "--", "hostname", plan.name])
    _wire(layout, plan)
    _mount(layout, plan)
    _mark_ready(layout, plan.name)


def destroy_all(layout: Layout) -> None:
    """Let go of every namespace of the lab; with no process left in them the kernel removes all that they held."""
    clear(layout)
    if layout.run.exists():
        layout.run.rmdir()
    _remove_mount_points(layout)
    for parent in (layout.run.parent, layout.data.parent):
        _remove_if_empty(parent)


def clear(layout: Layout) -> None:
    """Remove the lab's mounts and files, all but the folder <run>, on which `up` and `down` hold their lock."""
    for folder in (layout.run, layout.data):
        for point in own_mount_points(folder):
            run(["umount", point])
    if layout.data.exists():
        shutil.rmtree(layout.data)
    if not layout.run.exists():
        return
    # The state last: with it gone the lab counts as one that never was.
    for path in sorted(layout.run.iterdir(), key=lambda path: path.name == "lab.json"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _wire(layout: Layout, plan: HostPlan) -> None:
    switch = layout.namespaces / f"{SWITCH}.net"
    inside = ["link set lo up"]
    outside = []
    fabric = [("fabric", plan.fabric, FABRIC_PREFIX)] if plan.has_fabric else []
    for network, address, prefix in [*fabric, ("public", plan.public, PUBLIC_PREFIX)]:
        # The switch's end is named after the host: an interface name has 15 characters at most.
        port = f"{plan.name}-{network[0]}"
        inside.append(f"link add {network}0 mtu {MTU} type veth peer name {port} mtu {MTU} netns {switch}")
        if address is None:
            inside.append(f"link set {network}0 addrgenmode none")
        else:
            inside.append(f"address add {address}/{prefix} dev {network}0")
        inside.append(f"link set {network}0 up")
        outside.append(f"link set {port} addrgenmode none master {network} up")
    net = layout.namespaces / f"{plan.name}.net"
    run(["nsenter", f"--net={net}", "--", "ip", "-batch", "-"], stdin="\n".join(inside))
    run(["nsenter", f"--net={switch}", "--", "ip", "-batch", "-"], stdin="\n".join(outside))


def _mount(layout: Layout, plan: HostPlan) -> None:
    def inside(*argv: str | Path) -> str:
        return run_in(layout, plan.name, argv)

    # The copies of the machine's mounts below /run would keep alive what is pinned there (other labs, ip-netns(8)).
    stale = mount_points(inside("cat", "/proc/self/mountinfo"), Path("/run"))
    stale = [point for point in stale if point != Path("/run")]
    if stale:
        inside("umount", "--lazy", *stale)

    # mount -n: it would note some mounts in /run/mount/utab, for the machine's /run or one that is just covered.
    stage = layout.data / "stage" / plan.name
    # A sysfs that shows this namespace's interfaces, the cgroups back in it.
    new_sys = stage / "sys"
    new_sys.mkdir(parents=True, exist_ok=True)
    inside("mount", "-n", "-t", "sysfs", "sysfs", new_sys)
    inside("mount", "-n", "--rbind", "/sys/fs/cgroup", new_sys / "fs/cgroup")
    inside("mount", "-n", "--move", new_sys, "/sys")
    # An own /run; the lab's folder is kept in it, for the kubeconfigs. The pinned namespaces stay outside.
    new_run = stage / "run"
    new_run.mkdir(parents=True, exist_ok=True)
    inside("mount", "-n", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", new_run)
    kept = new_run / layout.run.relative_to("/run")
    inside("mkdir", "-p", kept, new_run / "lock", new_run / "netns", new_run / "libvirt")
    inside("mount", "-n", "--bind", layout.run, kept)
    inside("mount", "-n", "--move", new_run, "/run")
    inside("mount", "-n", "--bind", "/run/netns", "/run/netns")
    inside("mount", "-n", "--make-shared", "/run/netns")
    if plan.is_node:
        for name, target in NODE_FOLDERS.items():
            source = layout.node_data(plan.name) / name
            source.mkdir(parents=True, exist_ok=True)
            _make_mount_point(layout, target)
            inside("mount", "-n", "--bind", source, target)


def _pin(layout: Layout, host: str, kind: str) -> Path:
    path = layout.namespaces / f"{host}.{kind}"
    path.touch()
    return path


def _unpin(layout: Layout, host: str) -> None:
    for kind in ("net", "mnt", "uts"):
        path = layout.namespaces / f"{host}.{kind}"
        if path in own_mount_points(path):
            run(["umount", path])


def _ready_mark(layout: Layout, host: str) -> Path:
    return layout.namespaces / f"{host}.ready"


def _is_ready(layout: Layout, host: str) -> bool:
    return _ready_mark(layout, host).exists()


def _mark_ready(layout: Layout, host: str) -> None:
    _ready_mark(layout, host).touch()


def _mount_point_record(layout: Layout) -> Path:
    """The folders of the machine that were made only for nodes to mount their own on, for all labs together."""
    return layout.data.parent / "mount-points"


def _make_mount_point(layout: Layout, folder: Path) -> None:
    if not folder.exists():
        with _mount_point_record(layout).open("a") as record:
            record.write(f"{folder}\n")
        folder.mkdir(parents=True)


def _remove_mount_points(layout: Layout) -> None:
    """With the last lab: another one's nodes would lose what they have mounted there."""
    record = _mount_point_record(layout)
    if not record.exists() or any(path.is_dir() for path in record.parent.iterdir()):
        return
    for line in record.read_text().splitlines():
        _remove_if_empty(Path(line))
    record.unlink()


def _remove_if_empty(folder: Path) -> None:
    # It holds another lab, or is not there.
    with contextlib.suppress(OSError):
        folder.rmdir()

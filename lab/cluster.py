"""The whole lab: up, down, and what is in it."""

import dataclasses
import json
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from lab import apt, binaries, cgroups, hosts, libvirtd, pki, services
from lab.controlplane import ADMIN, ControlPlane
from lab.errors import LabError
from lab.layout import CONTROL, CONTROL_ADDRESS, WORLD, HostPlan, Layout, node_names, plan_hosts
from lab.locking import locked
from lab.probe import is_ready
from lab.progress import step
from lab.teardown import end_processes

AGENT_GROUP = "kumulus:nodes"
OPERATOR_USER = "kumulus-operator"
OPERATOR_GROUP = "kumulus:operators"
MAX_USER_NAME = 64
IMAGE_SERVICE_NAME = "image.kumulus-system.svc"


@dataclass(frozen=True)
class State:
    """What `up` decided and must keep: <run>/lab.json."""

    nodes: int
    api_port: int
    bin_dir: str | None = None
    """The folder with ready-made tools that `up` was given, for the commands after it."""

    @staticmethod
    def path(layout: Layout) -> Path:
        return layout.run / "lab.json"

    @classmethod
    def load(cls, layout: Layout) -> "State | None":
        path = cls.path(layout)
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def save(self, layout: Layout) -> None:
        path = self.path(layout)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(dataclasses.asdict(self)))
        unfinished.rename(path)


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and mounts: run it as root (only --api-only needs none)")


def require_state(layout: Layout) -> State:
    state = State.load(layout)
    if state is None:
        raise LabError(f"lab {layout.name!r} is not up: run `{layout.command('up')}`")
    return state


def given_tools(layout: Layout) -> Path | None:
    """The folder with ready-made tools that this lab was brought up with."""
    state = State.load(layout)
    return Path(state.bin_dir) if state is not None and state.bin_dir is not None else None


def host_names(state: State) -> list[str]:
    return [CONTROL, *node_names(state.nodes), WORLD]


def plane(layout: Layout) -> ControlPlane:
    return ControlPlane(folder=layout.run / "control", data=layout.data / "etcd", address=CONTROL_ADDRESS)


def up(layout: Layout, nodes: int | None = None, bin_dir: Path | None = None) -> State:
    """Bring the lab up, or what is missing of it; ``nodes`` defaults to what it has, else 2. Raises LabError."""
    require_root()
    if nodes is not None:
        node_names(nodes)  # refuses a wrong number before the minutes that the tools take
    apt.ensure()
    given = given_tools(layout) if bin_dir is None else bin_dir.absolute()
    tools = binaries.ensure(binaries.CLUSTER_TOOLS, given)
    with _locked(layout):
        state = _decide(layout, nodes, given)
        planned = plan_hosts(state.nodes)
        cgroups.create(layout.name)
        with step(f"hosts: {', '.join(host.name for host in planned)}"):
            hosts.create_switch(layout)
            for host in planned:
                hosts.create_host(layout, host)
        with step("certificates and kubeconfigs"):
            _issue(layout, state, planned)
        with step("start etcd, kube-apiserver and each node's libvirtd"):
            _start(layout, state, planned, tools)
        with step("kube-apiserver is ready"):
            ca_cert = plane(layout).ca.cert
            services.wait_ready(layout, "kube-apiserver", lambda: is_ready("127.0.0.1", state.api_port, ca_cert), 60)
            _start_after_api(layout, tools)
        with step("every libvirtd is ready"), ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: _wait_libvirtd(layout, host), [host for host in planned if host.is_node]))
        return state


def down(layout: Layout) -> None:
    """Remove all that `up`, and whatever ran in the lab's hosts, has made. Harmless when there is nothing."""
    require_root()
    with _locked(layout, create=False):
        end_processes(layout)
        hosts.destroy_all(layout)


def issue_user(layout: Layout, name: str, groups: Sequence[str] = ()) -> Path:
    """A kubeconfig for a user of the cluster, for use outside the lab's hosts; the same file when asked again."""
    state = require_state(layout)
    if not 1 <= len(name) <= MAX_USER_NAME:
        raise LabError(f"a user's name must have 1 to {MAX_USER_NAME} characters (RFC 5280's bound of a common name)")
    return plane(layout).kubeconfig(layout.user_kubeconfig(name), name, groups, server=_outside(state))


def _decide(layout: Layout, nodes: int | None, bin_dir: Path | None) -> State:
    present = State.load(layout)
    given = None if bin_dir is None else str(bin_dir)
    if present is None:
        # /run went with a reboot, or `down` was interrupted at its end: what is left fits no new lab.
        hosts.clear(layout)
        state = State(nodes=2 if nodes is None else nodes, api_port=_free_port(), bin_dir=given)
    elif nodes is not None and nodes < present.nodes:
        raise LabError(f"the lab has {present.nodes} nodes and does not shrink: run `{layout.command('down')}` first")
    else:
        state = dataclasses.replace(present, nodes=nodes or present.nodes, bin_dir=given)
    if state == present:
        return state
    layout.logs.mkdir(parents=True, exist_ok=True)
    state.save(layout)
    return state


def _issue(layout: Layout, state: State, planned: Sequence[HostPlan]) -> None:
    control = plane(layout)
    control.prepare()
    control.kubeconfig(layout.kubeconfig, ADMIN, ["system:masters"], server=_outside(state))
    control.kubeconfig(layout.inside_kubeconfig, ADMIN, ["system:masters"])
    control.kubeconfig(layout.operator_kubeconfig, OPERATOR_USER, [OPERATOR_GROUP])
    for host in planned:
        if host.is_node:
            user = f"system:kumulus:node:{host.name}"
            control.kubeconfig(layout.agent_kubeconfig(host.name), user, [AGENT_GROUP])
    names = [IMAGE_SERVICE_NAME, CONTROL_ADDRESS]
    pki.server(control.ca, pki.pair_at(layout.image_service, "tls"), IMAGE_SERVICE_NAME, names)
    # Beside the certificate too, where the operators look for what uploaders must trust.
    for copy in (layout.run / "ca.crt", layout.image_service / "ca.crt"):
        shutil.copyfile(control.ca.cert, copy)


def _start(layout: Layout, state: State, planned: Sequence[HostPlan], tools: dict[str, Path]) -> None:
    control = plane(layout)
    services.add(layout, "etcd", control.etcd(tools["etcd"]), host=CONTROL)
    services.add(layout, "kube-apiserver", control.apiserver(tools["kube-apiserver"]), host=CONTROL)
    forward = Path(__file__).parent / "forward.py"
    # -I: the file's own folder stays off the module path, where it could shadow the standard library.
    argv = [sys.executable, "-I", str(forward), str(state.api_port), str(layout.namespaces / "control.net")]
    services.add(layout, "forwarder", [*argv, CONTROL_ADDRESS, str(control.api_port)])
    for host in planned:
        if host.is_node:
            libvirtd.write_configuration(layout, host.name)
            services.add(layout, f"{host.name}/{libvirtd.SERVICE}", libvirtd.command(), host=host.name)


def _start_after_api(layout: Layout, tools: dict[str, Path]) -> None:
    argv = plane(layout).controller_manager(tools["kube-controller-manager"])
    services.add(layout, "kube-controller-manager", argv, host=CONTROL)


def _wait_libvirtd(layout: Layout, host: HostPlan) -> None:
    service = f"{host.name}/{libvirtd.SERVICE}"
    services.wait_ready(layout, service, lambda: libvirtd.is_ready(layout, host.name), timeout=60)


def _outside(state: State) -> str:
    return f"https://127.0.0.1:{state.api_port}"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _locked(layout: Layout, *, create: bool = True) -> AbstractContextManager[None]:
    return locked(layout.run, f"lab {layout.name!r}", create=create)

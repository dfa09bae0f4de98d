"""The whole lab: up, down, and what is in it."""

import fcntl
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import apt, binaries, cgroups, hosts, libvirtd, pki, services
from lab.controlplane import ADMIN, ControlPlane
from lab.errors import LabError
from lab.layout import CONTROL, CONTROL_ADDRESS, WORLD, HostPlan, Layout, node_names, plan_hosts
from lab.probe import is_ready
from lab.progress import say, step
from lab.teardown import end_processes

AGENT_GROUP = "kumulus:nodes"
OPERATOR_USER = "kumulus-operator"
OPERATOR_GROUP = "kumulus:operators"
IMAGE_SERVICE_NAME = "image.kumulus-system.svc"


@dataclass(frozen=True)
class State:
    """What `up` decided and must keep: <run>/lab.json."""

    nodes: int
    api_port: int

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
        unfinished.write_text(json.dumps({"nodes": self.nodes, "api_port": self.api_port}))
        unfinished.rename(path)


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and mounts: run it as root (only --api-only needs none)")


def require_state(layout: Layout) -> State:
    state = State.load(layout)
    if state is None:
        raise LabError(f"lab {layout.name!r} is not up: run `kumulus-lab up`")
    return state


def host_names(state: State) -> list[str]:
    return [CONTROL, *node_names(state.nodes), WORLD]


def plane(layout: Layout) -> ControlPlane:
    return ControlPlane(folder=layout.run / "control", data=layout.data / "etcd", address=CONTROL_ADDRESS)


def up(layout: Layout, nodes: int | None = None, bin_dir: Path | None = None) -> State:
    """Bring the lab up, or what is missing of it; ``nodes`` defaults to what it has, else 2. Raises LabError."""
    require_root()
    apt.ensure()
    tools = binaries.ensure(binaries.CLUSTER_TOOLS, bin_dir)
    with _locked(layout):
        state = _decide(layout, nodes)
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
    return plane(layout).kubeconfig(layout.user_kubeconfig(name), name, groups, server=_outside(state))


def _decide(layout: Layout, nodes: int | None) -> State:
    present = State.load(layout)
    if present is None:
        # /run went with a reboot, or `up` was interrupted before it decided anything: the rest fits no new lab.
        if layout.data.exists():
            shutil.rmtree(layout.data)
        state = State(nodes=2 if nodes is None else nodes, api_port=_free_port())
    elif nodes is None or nodes == present.nodes:
        return present
    elif nodes < present.nodes:
        raise LabError(f"the lab has {present.nodes} nodes and does not shrink: run `kumulus-lab down` first")
    else:
        state = State(nodes=nodes, api_port=present.api_port)
    node_names(state.nodes)
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
    shutil.copyfile(control.ca.cert, layout.run / "ca.crt")


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


@contextmanager
def _locked(layout: Layout, *, create: bool = True) -> Iterator[None]:
    """One `up` or `down` at a time per lab: a lock on the folder itself, which leaves no file behind."""
    while True:
        if create:
            layout.run.mkdir(parents=True, exist_ok=True, mode=0o755)
        elif not layout.run.exists():
            yield
            return
        try:
            descriptor = os.open(layout.run, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"  another command works on lab {layout.name!r}; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A `down` that held the lock has removed the folder meanwhile.
            if layout.run.exists() and os.stat(layout.run).st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH116  # beside fstat
                yield
                return
        finally:
            os.close(descriptor)

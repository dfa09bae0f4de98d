"""Where a lab keeps its files, what its hosts are called and which addresses they have."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lab.errors import LabError

DEFAULT_NAME = "lab"
CONTROL = "control"
WORLD = "world"
MAX_NODES = 64

FABRIC_PREFIX = 24
PUBLIC_PREFIX = 24
CONTROL_ADDRESS = "10.10.0.2"
MTU = 1500

_RUN_ROOT = Path("/run/kumulus-lab")
_DATA_ROOT = Path("/var/lib/kumulus-lab")


@dataclass(frozen=True)
class HostPlan:
    """One host of the lab. An address of None means: the interface is up without one. No fabric: no such interface."""

    name: str
    fabric: str | None
    public: str | None
    is_node: bool = False

    @property
    def has_fabric(self) -> bool:
        return self.fabric is not None


@dataclass(frozen=True)
class Layout:
    """The paths of the lab ``name``. Small state is below /run, what may grow (guests' disks, etcd) below /var/lib."""

    name: str = DEFAULT_NAME

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", self.name):
            raise LabError(f"lab name {self.name!r} must be 1 to 20 lowercase letters, digits or '-', a letter first")

    @property
    def run(self) -> Path:
        return _RUN_ROOT / self.name

    @property
    def data(self) -> Path:
        return _DATA_ROOT / self.name

    @property
    def namespaces(self) -> Path:
        """The pinned namespaces: <host>.net, <host>.mnt and <host>.uts, for nsenter(1)."""
        return self.run / "ns"

    @property
    def services(self) -> Path:
        return self.run / "services"

    @property
    def logs(self) -> Path:
        return self.run / "logs"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, through 127.0.0.1: works outside the lab's hosts."""
        return self.run / "admin.kubeconfig"

    @property
    def inside_kubeconfig(self) -> Path:
        """The administrator's, at the address that the lab's hosts see."""
        return self.run / "control" / "admin.kubeconfig"

    @property
    def operator_kubeconfig(self) -> Path:
        return self.run / "operator.kubeconfig"

    @property
    def image_service(self) -> Path:
        """The folder with the image service's tls.crt and tls.key."""
        return self.run / "image-service"

    def agent_kubeconfig(self, node: str) -> Path:
        return self.run / "nodes" / node / "agent.kubeconfig"

    def user_kubeconfig(self, user: str) -> Path:
        return self.run / "users" / f"{user_file_name(user)}.kubeconfig"

    def command(self, words: str) -> str:
        """``words`` as a person types them for this lab, for messages: "kumulus-lab --name x up"."""
        return f"kumulus-lab {words}" if self.name == DEFAULT_NAME else f"kumulus-lab --name {self.name} {words}"

    def node_data(self, node: str) -> Path:
        return self.data / "nodes" / node

    def log(self, service: str) -> Path:
        """``service`` as in lab.services: "etcd" or "node1/libvirtd"."""
        return self.logs / f"{service}.log"


def user_file_name(user: str) -> str:
    """A file name of the user's own: "/" would separate folders, and ":" the files that $KUBECONFIG lists."""
    return quote(user, safe="@")


def node_names(count: int) -> list[str]:
    if not 1 <= count <= MAX_NODES:
        raise LabError(f"--nodes must be 1 to {MAX_NODES}, not {count}")
    return [f"node{index}" for index in range(1, count + 1)]


def plan_hosts(nodes: int) -> list[HostPlan]:
    """Every host of a lab with ``nodes`` nodes: control, node1.., and world, which is on `public` alone."""
    planned = [
        HostPlan(CONTROL, fabric=CONTROL_ADDRESS, public="20.0.2.2"),
        HostPlan(WORLD, fabric=None, public="20.0.2.1"),
    ]
    names = node_names(nodes)
    return planned + [
        HostPlan(name, fabric=f"10.10.0.{10 + index}", public=None, is_node=True)
        for index, name in enumerate(names, start=1)
    ]

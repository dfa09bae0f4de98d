"""What the host agent is told by its command line and environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path


class SettingsError(Exception):
    """An option or variable has a value that cannot be used; the message names it and the remedy."""


class VirtType(StrEnum):
    """How libvirt runs guests (https://libvirt.org/formatdomain.html#element-and-attribute-overview)."""

    KVM = "kvm"
    QEMU = "qemu"
    """Emulation, for machines without hardware virtualisation: slow."""


def parse_physical_networks(text: str) -> dict[str, str]:
    """`public=eth1,storage=eth2` as {network: NIC}. Raises SettingsError."""
    networks: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, separator, nic = part.partition("=")
        if not (name and separator and nic):
            raise SettingsError(f"physical network {part!r} cannot be used: write NAME=NIC, for example public=eth1")
        if name in networks:
            raise SettingsError(f"physical network {name!r} is given twice: each has one NIC on a node")
        networks[name] = nic
    return networks


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The agent's configuration; sizes in bytes, times in seconds."""

    node_name: str
    underlay_ip: str
    kubeconfig: Path | None = None
    state_dir: Path = Path("/var/lib/kumulus")
    run_dir: Path = Path("/run/kumulus")
    libvirt_uri: str = "qemu:///system"
    virt_type: VirtType = VirtType.KVM
    physical_networks: dict[str, str] = field(default_factory=dict)
    """Physical network to the NIC of this node that is on it."""
    slices_namespace: str = "kumulus-slices"
    image_ca: Path | None = None
    """Who signs the image service's certificate; by default the CA of the kubeconfig."""
    client_cert: Path | None = None
    client_key: Path | None = None
    """What the agent shows to the image service; by default the kubeconfig's client certificate."""
    reserved_memory: int = 1 << 30
    reserved_vcpus: int = 0
    reserved_disk: int = 0
    shutdown_grace: float = 30
    """How long a guest may take to shut down when asked, before it is switched off."""
    console_log_max: int = 1 << 20
    """A console log larger than this is cut; the older half stays as console.log.1."""
    launcher: tuple[str, ...] = ()
    """Put before the argv of processes that must outlive the agent's own cgroup."""

    def __post_init__(self) -> None:
        try:
            ip_address(self.underlay_ip)
        except ValueError as error:
            raise SettingsError(f"underlay address {self.underlay_ip!r} is not an IP address") from error

    @property
    def namespace(self) -> str:
        """The namespace of this node's work objects."""
        return f"kumulus-node-{self.node_name}"

"""All that the planner looks at, taken from the caches in one go, so that planning is a function of it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from crds.compute import Allocation, Flavor, Instance, InstanceNetwork, KeyPair
from crds.identity import Tenant
from crds.image import Image
from crds.network import Network, Port, SecurityGroup, Subnet
from crds.node import NodeInstance
from operators.compute.names import node_of
from operators.compute.scheduler import Host
from operators.verdict import Verdict
from runtime.cache import Key


@dataclass(frozen=True)
class Problem:
    """Why an instance is not what it should be. `about` is the further condition that tells it, beside Ready."""

    verdict: Verdict
    about: str = ""


@dataclass(frozen=True)
class UserData:
    """What the Secret of spec.userDataSecretRef holds, base64 as in the Secret; or why it cannot be used."""

    encoded: str = ""
    problem: Problem | None = None


@dataclass(frozen=True)
class Card:
    """What there is of one item of spec.networks. Subnets are the network's, groups the tenant's by name."""

    entry: InstanceNetwork
    port_name: str
    network_key: Key | None = None
    port: Port | None = None
    network: Network | None = None
    subnets: tuple[Subnet, ...] = ()
    groups: Mapping[str, SecurityGroup] = field(default_factory=dict)
    used_by: str | None = None
    """The name of another instance that has the port."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One instance and what it needs, as seen now."""

    instance: Instance
    now: datetime
    image_service_url: str
    tenant: Tenant | None = None
    flavor: Flavor | None = None
    image_key: Key | None = None
    image: Image | None = None
    key_pairs: Mapping[str, KeyPair | None] = field(default_factory=dict)
    cards: tuple[Card, ...] = ()
    own_ports: tuple[Port, ...] = ()
    """Every Port that was made for this instance."""
    work: tuple[NodeInstance, ...] = ()
    """Its work objects on all nodes: at most one."""
    allocations: Mapping[str, Allocation] = field(default_factory=dict)
    """By node: at most one, but for a moment after two schedulers raced."""
    hosts: Iterable[Host] = ()
    nodes_up: Mapping[str, bool] = field(default_factory=dict)
    """Of the nodes that this instance is on or bound for."""
    avoid: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    user_data: UserData | None = None
    scheduling_since: datetime | None = None

    @property
    def uid(self) -> str:
        return self.instance.metadata.uid

    @property
    def namespace(self) -> str:
        return self.instance.metadata.namespace or ""

    @property
    def disabled(self) -> bool:
        return self.tenant is not None and not self.tenant.spec.enabled


def node_name(work: NodeInstance) -> str:
    """The node that a work object is for."""
    namespace = work.metadata.namespace or ""
    node = node_of(namespace)
    if node is None:
        raise ValueError(f"NodeInstance {namespace}/{work.metadata.name} is in no node's namespace")
    return node


def is_owned(port: Port, instance: Instance) -> bool:
    """Whether the port was made for this instance, not for one that bore its name before."""
    return any(owner.uid == instance.metadata.uid for owner in port.metadata.owner_references)

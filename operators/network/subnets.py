"""The controller of Subnets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from crds.network import AllocationPool, DHCPServer, IPAllocation, Network, Subnet, SubnetPhase
from operators.domain import Context
from operators.network.claims import give_back, holder_of, ip_allocation, mac_allocation, take
from operators.network.deletion import User, in_use, in_use_conditions
from operators.network.names import FINALIZER, mac_name
from operators.network.ranges import IPAddress, address, find_free, generated_mac, parse
from operators.network.reasons import Reason
from operators.network.reclaim import Reclaim
from operators.network.state import HOLDER, NETWORK_OF, SUBNET, SUBNET_OF, State, key_of, subnet_network
from operators.network.subnet_plan import Layout, layout_of, network_problem
from operators.status import announce, write_status
from operators.verdict import State as Summary
from operators.verdict import Verdict, ready, stalled, summarized, waiting
from runtime.cache import Key
from runtime.client import Conflict
from runtime.controller import Controller

_TRIES = 32


@dataclass(frozen=True)
class Server:
    """Address and MAC of a subnet's DHCP server, both allocated."""

    ip: IPAddress
    mac: str


class Subnets:
    """Checks each Subnet, gives it its DHCP server, and holds its deletion until no address of it is held."""

    def __init__(self, context: Context, state: State, reclaim: Reclaim) -> None:
        self._context = context
        self._cluster = context.cluster
        self._state = state
        self._reclaim = reclaim
        # One worker: of two subnets that overlap, the second must see that the first was accepted.
        self.controller = Controller("subnets", self.reconcile, workers=1)
        state.subnets.on_change(self._subnet_changed)
        state.networks.on_change(self._network_changed)
        state.ip_allocations.on_change(self._address_changed)

    def _subnet_changed(self, key: Key, old: Subnet | None, new: Subnet | None) -> None:
        self.controller.enqueue(key)
        if old is None or new is None or old.status.cidr != new.status.cidr:
            self._enqueue_of(subnet_network(new or old))  # type: ignore[arg-type]  # one of them is there

    def _network_changed(self, key: Key, old: Network | None, new: Network | None) -> None:
        if old is None or new is None or _what_matters(old) != _what_matters(new):
            self._enqueue_of(key)

    def _address_changed(self, key: Key, old: IPAllocation | None, new: IPAllocation | None) -> None:
        if old is None or new is not None or old.spec.subnet is None:
            return
        subnet = self._state.subnets.get(old.spec.subnet, key.namespace)
        if subnet is not None and (subnet.metadata.deletion_timestamp is not None or subnet.status.dhcp_server is None):
            self.controller.enqueue(key_of(subnet))

    def _enqueue_of(self, network: Key) -> None:
        for subnet in self._state.subnets.find(NETWORK_OF, network):
            self.controller.enqueue(key_of(subnet))

    async def reconcile(self, key: Key) -> float | None:
        subnet = self._state.subnets.get(key.name, key.namespace)
        if subnet is None:
            return None
        if subnet.metadata.deletion_timestamp is not None:
            return await self._delete(subnet)
        await self._cluster.add_finalizer(SUBNET, subnet.metadata.to_dict(), FINALIZER)
        network_key = subnet_network(subnet)
        network = self._state.networks.get(network_key.name, network_key.namespace)
        problem = network_problem(network, network_key.name, network_key.namespace)
        if network is None or problem is not None:
            await self._tell(subnet, problem or waiting(Reason.NETWORK_NOT_FOUND, ""))
            return None
        siblings = [
            s for s in self._state.subnets.find(NETWORK_OF, network_key) if s.metadata.uid != subnet.metadata.uid
        ]
        layout = layout_of(subnet, siblings, network)
        if isinstance(layout, Verdict):
            await self._tell(subnet, layout)
            return None
        server = await self._server(subnet, network, layout) if subnet.spec.dhcp else None
        if isinstance(server, Verdict):
            await self._tell(subnet, server)
            return None
        await self._tell(
            subnet, ready(Reason.ADDRESSES_READY, "Ports can have addresses of the subnet."), layout, server
        )
        await self._release(subnet, keep=server)
        return None

    async def _server(self, subnet: Subnet, network: Network, layout: Layout) -> Server | Verdict:
        told = subnet.status.dhcp_server
        if told is not None and layout.gateway == parse(told.ip):
            return stalled(
                Reason.GATEWAY_TAKEN,
                f"Gateway {layout.gateway} is the address of the subnet's DHCP server: choose another gateway.",
            )
        holder = holder_of(subnet)
        for _ in range(_TRIES):
            ip = self._server_ip(subnet, network, layout)
            mac = self._server_mac(subnet, network)
            if isinstance(ip, Verdict):
                return ip
            if mac is None:
                return waiting(Reason.MAC_TAKEN, "No free MAC was found for the DHCP server; the search goes on.")
            both = await asyncio.gather(
                take(self._cluster, ip_allocation(network, subnet.metadata.name, ip, holder)),
                take(self._cluster, mac_allocation(network, mac, holder)),
            )
            if all(both):
                return Server(ip, mac)
        raise Conflict(409, "Conflict", "others were faster at every address; the search goes on")

    def _server_ip(self, subnet: Subnet, network: Network, layout: Layout) -> IPAddress | Verdict:
        """The one it has, or the lowest that is free."""
        addresses, key, uid = self._state.addresses, key_of(network), subnet.metadata.uid
        told = subnet.status.dhcp_server
        owned = [parse(a.spec.address) for a in self._state.ip_allocations.find(HOLDER, uid)]
        for ip in [*([parse(told.ip)] if told else []), *sorted(owned, key=int)]:
            holder = addresses.holder(key, ip)
            if ip != layout.gateway and (holder is None or holder.uid == uid):
                return ip
        version = layout.cidr.version
        number = find_free(
            layout.pools,
            lambda n: addresses.holder(key, address(n, version)) is not None,
            addresses.count(key),
            seed=None,
        )
        if number is None:
            return stalled(
                Reason.NO_FREE_ADDRESS,
                f"The pools of {layout.cidr} have no free address for the DHCP server: widen allocationPools,"
                " delete ports, or set dhcp: false.",
            )
        return address(number, version)

    def _server_mac(self, subnet: Subnet, network: Network) -> str | None:
        uid, meta = subnet.metadata.uid, network.metadata
        told = subnet.status.dhcp_server
        wishes = [told.mac] if told else []
        for mac in [*wishes, *(generated_mac(uid, attempt) for attempt in range(64))]:
            seen = self._state.mac_allocations.get(mac_name(meta.name, mac), meta.namespace or "")
            if seen is None or seen.spec.holder.uid == uid:
                return mac
        return None

    async def _tell(
        self, subnet: Subnet, verdict: Verdict, layout: Layout | None = None, server: Server | None = None
    ) -> None:
        update: dict[str, object] = {}
        if layout is not None:
            version = layout.cidr.version
            update = {
                "phase": SubnetPhase.ACTIVE,
                "cidr": str(layout.cidr),
                "gateway_ip": str(layout.gateway) if layout.gateway is not None else None,
                "allocation_pools": [
                    AllocationPool(start=str(address(pool.first, version)), end=str(address(pool.last, version)))
                    for pool in layout.pools
                ],
                "dhcp_server": DHCPServer(ip=str(server.ip), mac=server.mac) if server else None,
            }
        else:
            update["phase"] = SubnetPhase.ERROR if verdict.state is Summary.STALLED else SubnetPhase.PENDING
        await announce(self._context.recorder, subnet, verdict)
        generation = subnet.metadata.generation
        conditions = summarized(subnet.status.conditions, verdict, generation, self._context.now())
        update |= {"observed_generation": generation, "conditions": conditions}
        await write_status(self._cluster, subnet, subnet.status.model_copy(update=update))

    async def _release(self, subnet: Subnet, keep: Server | None = None) -> None:
        """Gives back what the subnet holds, all but its server's address and MAC."""
        uid = subnet.metadata.uid
        for ip in self._state.ip_allocations.find(HOLDER, uid):
            if keep is None or ip.spec.address != str(keep.ip):
                await give_back(self._cluster, ip)
        for mac in self._state.mac_allocations.find(HOLDER, uid):
            if keep is None or mac.spec.address != keep.mac:
                await give_back(self._cluster, mac)

    async def _delete(self, subnet: Subnet) -> float | None:
        name, namespace = subnet.metadata.name, subnet.metadata.namespace or ""
        users = set()
        for allocation in self._state.ip_allocations.find(SUBNET_OF, key_of(subnet)):
            holder = allocation.spec.holder
            if holder.uid != subnet.metadata.uid:
                users.add(User(holder.kind, holder.namespace or "", holder.name))
        message = in_use(f"Subnet {name}", namespace, users)
        if message is None:
            await self._release(subnet)
            await self._cluster.remove_finalizer(SUBNET, subnet.metadata.to_dict(), FINALIZER)
            return None
        for allocation in self._state.ip_allocations.find(SUBNET_OF, key_of(subnet)):
            if self._state.port_by_uid(allocation.spec.holder.uid) is None:
                self._reclaim.of_holder(allocation.spec.holder.uid)
        generation, now = subnet.metadata.generation, self._context.now()
        status = subnet.status.model_copy(
            update={
                "phase": SubnetPhase.DELETING,
                "observed_generation": generation,
                "conditions": in_use_conditions(subnet.status.conditions, message, generation, now),
            }
        )
        await write_status(self._cluster, subnet, status)
        return 60.0


def _what_matters(network: Network) -> tuple[object, ...]:
    return (network.status.type, network.status.mtu, network.metadata.deletion_timestamp, network.metadata.uid)

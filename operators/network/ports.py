"""The controller of Ports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from crds.conditions import ConditionStatus, is_true, remove_condition, set_condition
from crds.meta import Holder
from crds.network import Network, Port, PortAddress, PortPhase, PortStatus, Subnet
from crds.node import NodeInstance
from operators.access import may_use
from operators.domain import Context
from operators.network.binding_plan import Bound, bound, wait_before_telling
from operators.network.claims import give_back, holder_of, ip_allocation, mac_allocation, take
from operators.network.deletion import User, in_use, in_use_conditions
from operators.network.names import FINALIZER, mac_name
from operators.network.port_plan import Address, AddressPlan, MACPlan, Observed, plan_addresses, plan_mac, view_of
from operators.network.ranges import parse
from operators.network.reasons import Reason
from operators.network.reclaim import Reclaim
from operators.network.references import not_found
from operators.network.state import HOLDER, NETWORK_OF, PORT, PORT_OF, State, groups_of, key_of, port_network
from operators.status import announce, write_status
from operators.verdict import STALLED, Verdict, ready, stalled, summarized, waiting
from operators.verdict import State as Summary
from runtime.cache import Key
from runtime.client import Conflict
from runtime.controller import Controller

_TRIES = 64
_SLOW = timedelta(seconds=10)
_ON_ITS_WAY = timedelta(seconds=5)
"""How long a request to make a work object may be under way."""


class Ports:
    """Gives each Port its MAC and addresses, tells where it is, and holds its deletion until no node carries it."""

    def __init__(self, context: Context, state: State, reclaim: Reclaim) -> None:
        self._context = context
        self._cluster = context.cluster
        self._state = state
        self._reclaim = reclaim
        self.controller = Controller("ports", self.reconcile, workers=16)

    async def reconcile(self, key: Key) -> float | None:
        port = self._state.ports.get(key.name, key.namespace)
        if port is None:
            return None
        if port.metadata.deletion_timestamp is not None:
            return await self._delete(port)
        await self._cluster.add_finalizer(PORT, port.metadata.to_dict(), FINALIZER)
        network = self._state.network_of(port)
        problem = self._network_problem(port, network)
        if network is None or problem is not None:
            return await self._tell(port, problem=problem)
        mac, plan = await self._allocate(port, network)
        problem = mac.problem or plan.problem
        if problem is not None:
            self._suspect(port, network)
            return await self._tell(port, problem=problem)
        later = await self._tell(port, mac=mac.mac, plan=plan)
        # What is given back may be given to others at once, so the status tells of the change first.
        for address in plan.release:
            for allocation in self._state.ip_allocations.find(HOLDER, port.metadata.uid):
                if parse(allocation.spec.address) == address.ip:
                    await give_back(self._cluster, allocation)
        return later

    def _network_problem(self, port: Port, network: Network | None) -> Verdict | None:
        key, tenant = port_network(port), port.metadata.namespace or ""
        # Access that is withdrawn takes nothing from ports that have their addresses.
        kept = port.status.mac_address is not None
        allowed = network is not None and (kept or may_use(network.spec.access, network.metadata.namespace, tenant))
        if network is None or network.metadata.deletion_timestamp is not None or not allowed:
            return waiting(Reason.NETWORK_NOT_FOUND, not_found(key, tenant))
        if network.status.type is None:
            whose = f"Network {key.name if key.namespace == tenant else key}"
            return waiting(Reason.NETWORK_NOT_READY, f"{whose} is not ready yet: see its conditions.")
        return None

    async def _allocate(self, port: Port, network: Network) -> tuple[MACPlan, AddressPlan]:
        """Plans and claims until everything planned is claimed; who loses a race for a value plans anew."""
        holder = holder_of(port)
        for _ in range(_TRIES):
            owned = [a.spec.address for a in self._state.mac_allocations.find(HOLDER, port.metadata.uid)]
            mac = plan_mac(port, owned, lambda mac: self._mac_holder(network, mac))
            if mac.problem is not None:
                return mac, AddressPlan()
            plan = plan_addresses(port, mac.mac, network.metadata.name, self._observed(port, network))
            if plan.problem is not None:
                return mac, plan
            claims = [take(self._cluster, ip_allocation(network, a.subnet, a.ip, holder)) for a in plan.claim]
            if mac.claim:
                claims.append(take(self._cluster, mac_allocation(network, mac.mac, holder)))
            if all(await asyncio.gather(*claims)):
                return mac, plan
        raise Conflict(409, "Conflict", "others were faster at every address; the search goes on")

    def _observed(self, port: Port, network: Network) -> Observed:
        key = key_of(network)
        subnets = sorted(self._state.subnets.find(NETWORK_OF, key), key=_age)
        views = {subnet.metadata.name: view_of(subnet) for subnet in subnets}
        waiting_for = [s for s in subnets if views[s.metadata.name] is None and s.metadata.deletion_timestamp is None]
        return Observed(
            subnets=[view for view in views.values() if view is not None],
            pending=[s.metadata.name for s in waiting_for if not is_true(s.status.conditions, STALLED)],
            broken=[s.metadata.name for s in waiting_for if is_true(s.status.conditions, STALLED)],
            holder=lambda ip: self._state.addresses.holder(key, ip),
            count=self._state.addresses.count(key),
            owned=[
                Address(parse(a.spec.address), a.spec.subnet)
                for a in self._state.ip_allocations.find(HOLDER, port.metadata.uid)
            ],
            bound=bool(self._state.bound(port)),
            foreign=network.metadata.namespace != port.metadata.namespace,
        )

    def _mac_holder(self, network: Network, mac: str) -> Holder | None:
        found = self._state.mac_allocations.get(mac_name(network.metadata.name, mac), network.metadata.namespace or "")
        return found.spec.holder if found else None

    def _suspect(self, port: Port, network: Network) -> None:
        """What the port asks for and another has: is that other still there?"""
        for fixed in port.spec.fixed_ips:
            holder = self._state.addresses.holder(key_of(network), parse(fixed.ip)) if fixed.ip else None
            if holder is not None and holder.uid != port.metadata.uid:
                self._reclaim.of_holder(holder.uid)
        if port.spec.mac_address:
            other = self._mac_holder(network, port.spec.mac_address)
            if other is not None and other.uid != port.metadata.uid:
                self._reclaim.of_holder(other.uid)

    async def _tell(
        self, port: Port, *, problem: Verdict | None = None, mac: str | None = None, plan: AddressPlan | None = None
    ) -> float | None:
        now = self._context.now()
        carriers = self._state.bound(port)
        where = bound(port.metadata.uid, carriers, port.status.bindings, now)
        later = wait_before_telling(where, port.status.bindings, carriers, now)
        if later is not None:
            where = Bound((), PortPhase.DOWN, None, None)
        verdict = problem or self._verdict(port, where)
        phase = PortPhase.ERROR if verdict.state is Summary.STALLED else where.phase
        generation = port.metadata.generation
        conditions = summarized(port.status.conditions, verdict, generation, now)
        conditions = remove_condition(conditions, "AddressesCurrent")
        update: dict[str, object] = {
            "phase": phase,
            "observed_generation": generation,
            "bindings": list(where.bindings),
            "instance": where.instance,
            "instance_uid": where.instance_uid,
        }
        if plan is not None:
            update["mac_address"] = mac
            update["fixed_ips"] = [PortAddress(ip=str(a.ip), subnet=a.subnet) for a in plan.addresses]
            if plan.pending_change:
                message = (
                    f"Instance {where.instance} uses the port: it keeps its addresses, and is given those of"
                    " spec.fixedIPs when no instance uses it any more."
                )
                conditions = set_condition(
                    conditions,
                    "AddressesCurrent",
                    ConditionStatus.FALSE,
                    Reason.IN_USE_BY_INSTANCE,
                    message,
                    generation,
                    now,
                )
        await announce(self._context.recorder, port, verdict)
        status: PortStatus = port.status.model_copy(update={**update, "conditions": conditions})
        await write_status(self._cluster, port, status)
        return later

    def _verdict(self, port: Port, where: Bound) -> Verdict:
        missing = self._missing_group(port)
        if missing is not None:
            return waiting(
                Reason.SECURITY_GROUP_NOT_FOUND,
                f"SecurityGroup {missing} does not exist in namespace {port.metadata.namespace}: create it, or take it"
                " out of securityGroupRefs; until then nothing passes because of it.",
            )
        node = ", ".join(binding.node_name for binding in where.bindings)
        match where.phase:
            case PortPhase.ACTIVE:
                return ready(Reason.BOUND, f"Connected on node {node}.")
            case PortPhase.BUILD:
                return waiting(Reason.BINDING, f"Node {node} connects the port.")
            case PortPhase.ERROR:
                return stalled(
                    Reason.BINDING_FAILED, f"Node {node} could not connect the port: see the Instance's conditions."
                )
            case PortPhase.DOWN if where.bindings:
                return ready(Reason.INACTIVE, f"On node {node}, whose guest does not run.")
            case PortPhase.DOWN:
                return ready(Reason.ALLOCATED, "The port has its MAC and addresses.")

    def _missing_group(self, port: Port) -> str | None:
        if not self._state.guarded(port):
            return None
        return next(
            (key.name for key in groups_of(port) if self._state.groups.get(key.name, key.namespace) is None), None
        )

    async def _delete(self, port: Port) -> float | None:
        uid = port.metadata.uid
        carriers = self._state.bound(port)
        if carriers:
            return await self._tell_in_use(port, carriers)
        if self._may_be_on_its_way(port):
            return 1.0
        # Others must have forgotten the addresses before somebody else is given them.
        if self._state.network_slices.find(PORT_OF, uid) or self._state.group_slices.find(PORT_OF, uid):
            return await self._tell_leaving(port)
        for ip in self._state.ip_allocations.find(HOLDER, uid):
            await give_back(self._cluster, ip)
        for mac in self._state.mac_allocations.find(HOLDER, uid):
            await give_back(self._cluster, mac)
        await self._cluster.remove_finalizer(PORT, port.metadata.to_dict(), FINALIZER)
        return None

    def _may_be_on_its_way(self, port: Port) -> bool:
        """Whether a work object may just be being made that carries the port, planned before the port was deleted: its
        addresses must not be another's then."""
        now = self._context.now()
        return now - (port.metadata.deletion_timestamp or now) < _ON_ITS_WAY and self._state.is_wanted(port)

    async def _tell_in_use(self, port: Port, carriers: Sequence[NodeInstance]) -> float | None:
        refs = [carrier.spec.instance_ref for carrier in carriers]
        users = [User("Instance", ref.namespace, ref.name) for ref in refs]
        message = in_use(f"Port {port.metadata.name}", port.metadata.namespace or "", users) or ""
        generation, now = port.metadata.generation, self._context.now()
        conditions = in_use_conditions(port.status.conditions, message, generation, now)
        await write_status(
            self._cluster,
            port,
            port.status.model_copy(update={"observed_generation": generation, "conditions": conditions}),
        )
        return 60.0

    async def _tell_leaving(self, port: Port) -> float:
        """The slices' change wakes this controller; only if it does not come soon, a condition says what is awaited."""
        now, generation = self._context.now(), port.metadata.generation
        asked = port.metadata.deletion_timestamp or now
        if now - asked > _SLOW:
            message = "Waiting until the slices in kumulus-slices no longer name the port: see the operators' log."
            conditions = summarized(port.status.conditions, waiting(Reason.DELETING, message), generation, now)
            told = {"observed_generation": generation, "conditions": conditions}
            await write_status(self._cluster, port, port.status.model_copy(update=told))
        return 15.0


def _age(subnet: Subnet) -> tuple[object, str]:
    return (subnet.metadata.creation_timestamp, subnet.metadata.name)

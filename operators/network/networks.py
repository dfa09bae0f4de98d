"""The controller of Networks."""

from __future__ import annotations

from crds.network import Network, NetworkPhase, NetworkStatus, PhysicalNetwork, Segment, Subnet
from operators.domain import Context
from operators.network import network_plan as plan
from operators.network.claims import give_back, take
from operators.network.deletion import User, in_use, in_use_conditions
from operators.network.names import FINALIZER
from operators.network.network_plan import Wire
from operators.network.ranges import Range
from operators.network.reasons import Reason
from operators.network.reclaim import Reclaim
from operators.network.state import (
    HOLDER,
    NETWORK,
    NETWORK_OF,
    PHYSICAL,
    State,
    allocation_network,
    key_of,
    port_network,
    subnet_network,
)
from operators.status import announce, write_status
from operators.verdict import State as Summary
from operators.verdict import Verdict, ready, summarized
from runtime.cache import Key
from runtime.controller import Controller

_TRIES = 32


class Networks:
    """Gives each Network its segment and MTU, and holds its deletion until nothing uses it."""

    def __init__(self, context: Context, state: State, reclaim: Reclaim) -> None:
        self._context = context
        self._cluster = context.cluster
        self._state = state
        self._reclaim = reclaim
        self.controller = Controller("networks", self.reconcile, workers=4)
        state.networks.on_change(lambda key, old, new: self.controller.enqueue(key))
        state.subnets.on_change(self._subnet_changed)
        state.physical_networks.on_change(self._physical_changed)
        state.segments.on_change(self._segment_changed)
        state.ports.on_change(lambda key, old, new: self._user_gone(port_network(old), new) if old else None)
        state.ip_allocations.on_change(
            lambda key, old, new: self._user_gone(allocation_network(old), new) if old else None
        )

    def _subnet_changed(self, key: Key, old: Subnet | None, new: Subnet | None) -> None:
        if (old is None) != (new is None):
            self.controller.enqueue(subnet_network(new or old))  # type: ignore[arg-type]  # one of them is there

    def _physical_changed(self, key: Key, old: PhysicalNetwork | None, new: PhysicalNetwork | None) -> None:
        for network in self._state.networks.find(PHYSICAL, key.name):
            self.controller.enqueue(key_of(network))

    def _segment_changed(self, key: Key, old: Segment | None, new: Segment | None) -> None:
        if new is not None:
            return
        for network in self._state.networks:
            if network.status.type is None:
                self.controller.enqueue(key_of(network))

    def _user_gone(self, network: Key, new: object) -> None:
        if new is not None:
            return
        found = self._state.networks.get(network.name, network.namespace)
        if found is not None and found.metadata.deletion_timestamp is not None:
            self.controller.enqueue(network)

    async def reconcile(self, key: Key) -> float | None:
        network = self._state.networks.get(key.name, key.namespace)
        if network is None:
            return None
        if network.metadata.deletion_timestamp is not None:
            return await self._delete(network)
        await self._cluster.add_finalizer(NETWORK, network.metadata.to_dict(), FINALIZER)
        settings = self._context.settings
        wire = plan.wire_of(
            network,
            lambda name: self._state.physical_networks.get(name),
            settings.underlay_mtu,
            Range(settings.vni_min, settings.vni_max),
        )
        outcome = wire if isinstance(wire, Verdict) else await self._claim(network, wire)
        await self._tell(network, wire if isinstance(wire, Wire) else None, outcome)
        return None

    async def _claim(self, network: Network, wire: Wire) -> Segment | Verdict:
        """The network's segment: the one it has, or one that is free."""
        held = sorted(self._state.segments.find(HOLDER, network.metadata.uid), key=lambda s: s.metadata.name)
        if held:  # what the provider asks for never changes, so neither does the segment
            return held[0]
        number: int | None = None
        for _ in range(_TRIES):
            if wire.ids:
                number = plan.choose_number(network, wire, self._held_by, len(self._state.segments))
                if number is None:
                    break
            elif self._held_by(plan.segment_name(wire, None)) is not None:
                break
            segment = plan.segment_for(network, wire, number)
            if await take(self._cluster, segment):
                return segment
        asked = network.spec.provider.segmentation_id if network.spec.provider else None
        taken = self._state.segments.get(plan.segment_name(wire, asked)) if asked or not wire.ids else None
        if taken is not None:
            self._reclaim.of_holder(taken.spec.holder.uid)
        return plan.taken(network, wire, taken.spec.holder if taken else None)

    def _held_by(self, name: str) -> str | None:
        segment = self._state.segments.get(name)
        return segment.spec.holder.uid if segment else None

    async def _tell(self, network: Network, wire: Wire | None, outcome: Segment | Verdict) -> None:
        update: dict[str, object] = {"subnets": self._subnets(network)}
        if isinstance(outcome, Segment) and wire is not None:
            spec = outcome.spec
            verdict = ready(Reason.SEGMENT_ALLOCATED, f"The network is {segment_words(outcome)}.")
            update |= {
                "phase": NetworkPhase.ACTIVE,
                "type": spec.type,
                "segmentation_id": spec.segmentation_id,
                "physical_network": spec.physical_network,
                "mtu": network.spec.mtu or wire.mtu,
            }
        else:
            assert isinstance(outcome, Verdict)  # noqa: S101 - a Segment comes with its wire
            verdict = outcome
            update["phase"] = NetworkPhase.ERROR if verdict.state is Summary.STALLED else NetworkPhase.PENDING
        await announce(self._context.recorder, network, verdict)
        await write_status(self._cluster, network, self._status(network, verdict, update))

    def _status(self, network: Network, verdict: Verdict, update: dict[str, object]) -> NetworkStatus:
        generation = network.metadata.generation
        conditions = summarized(network.status.conditions, verdict, generation, self._context.now())
        return network.status.model_copy(update={**update, "observed_generation": generation, "conditions": conditions})

    def _subnets(self, network: Network) -> list[str]:
        return sorted(subnet.metadata.name for subnet in self._state.subnets.find(NETWORK_OF, key_of(network)))[:64]

    async def _delete(self, network: Network) -> float | None:
        message = in_use(
            f"Network {network.metadata.name}", network.metadata.namespace or "", self._users(key_of(network))
        )
        if message is not None:
            generation, now = network.metadata.generation, self._context.now()
            status = network.status.model_copy(
                update={
                    "phase": NetworkPhase.DELETING,
                    "observed_generation": generation,
                    "subnets": self._subnets(network),
                    "conditions": in_use_conditions(network.status.conditions, message, generation, now),
                }
            )
            await write_status(self._cluster, network, status)
            return 60.0
        for segment in self._state.segments.find(HOLDER, network.metadata.uid):
            await give_back(self._cluster, segment)
        await self._cluster.remove_finalizer(NETWORK, network.metadata.to_dict(), FINALIZER)
        return None

    def _users(self, key: Key) -> set[User]:
        users = {
            User("Subnet", key.namespace, subnet.metadata.name) for subnet in self._state.subnets.find(NETWORK_OF, key)
        }
        # A port of another tenant that was never let in must not hold up the network that it names.
        users |= {
            User("Port", port.metadata.namespace or "", port.metadata.name)
            for port in self._state.ports.find(NETWORK_OF, key)
            if port.metadata.namespace == key.namespace or port.status.mac_address is not None
        }
        for allocation in self._state.ip_allocations.find(NETWORK_OF, key):
            holder = allocation.spec.holder
            user = User(holder.kind, holder.namespace or "", holder.name)
            if user not in users:
                self._reclaim.of_holder(holder.uid)
            users.add(user)
        return users


def segment_words(segment: Segment) -> str:
    spec = segment.spec
    where = f" on physical network {spec.physical_network}" if spec.physical_network else ""
    number = f" {spec.segmentation_id}" if spec.segmentation_id is not None else ""
    return f"{spec.type}{number}{where}"

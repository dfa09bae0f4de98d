"""The controller of PhysicalNetworks: on which nodes they are, as the Hypervisors tell."""

from __future__ import annotations

from crds.compute import Hypervisor
from crds.network import PhysicalNetworkPhase
from operators.domain import Context
from operators.network.reasons import Reason
from operators.network.state import State
from operators.status import write_status
from operators.verdict import ready, summarized, waiting
from runtime.cache import Key
from runtime.controller import Controller

_MOST_NODES = 1024


class PhysicalNetworks:
    """Tells in each PhysicalNetwork's status which nodes have a card on it."""

    def __init__(self, context: Context, state: State) -> None:
        self._context = context
        self._state = state
        self.controller = Controller("physicalnetworks", self.reconcile, workers=1)
        state.physical_networks.on_change(lambda key, old, new: self.controller.enqueue(key))
        state.hypervisors.on_change(self._hypervisor_changed)

    def _hypervisor_changed(self, key: Key, old: Hypervisor | None, new: Hypervisor | None) -> None:
        before = set(old.status.physical_networks) if old else set()
        after = set(new.status.physical_networks) if new else set()
        for name in before ^ after:
            self.controller.enqueue(Key("", name))

    async def reconcile(self, key: Key) -> None:
        network = self._state.physical_networks.get(key.name)
        if network is None or network.metadata.deletion_timestamp is not None:
            return
        nodes = sorted(h.metadata.name for h in self._state.hypervisors if key.name in h.status.physical_networks)
        if nodes:
            verdict = ready(
                Reason.ON_NODES, f"{len(nodes)} {'node has' if len(nodes) == 1 else 'nodes have'} a card on it."
            )
        else:
            verdict = waiting(Reason.ON_NO_NODE, "No node has a card on it: name it in the configuration of an agent.")
        generation = network.metadata.generation
        status = network.status.model_copy(
            update={
                "phase": PhysicalNetworkPhase.AVAILABLE if nodes else PhysicalNetworkPhase.PENDING,
                "nodes": nodes[:_MOST_NODES],
                "observed_generation": generation,
                "conditions": summarized(network.status.conditions, verdict, generation, self._context.now()),
            }
        )
        await write_status(self._context.cluster, network, status)

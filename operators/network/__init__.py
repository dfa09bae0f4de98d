"""Networks, subnets, ports and security groups: who has which address, and what the nodes need to know of it."""

from operators.domain import Context, Domain
from operators.network.network_slices import NetworkSlices
from operators.network.networks import Networks
from operators.network.physical_networks import PhysicalNetworks
from operators.network.port_doorbells import PortDoorbells
from operators.network.ports import Ports
from operators.network.reclaim import Reclaim
from operators.network.security_groups import SecurityGroups
from operators.network.state import State
from operators.network.subnets import Subnets


def build(context: Context) -> Domain:
    state = State(context.cluster)
    reclaim = Reclaim(context, state)
    ports = Ports(context, state, reclaim)
    PortDoorbells(state, ports.controller)
    controllers = [
        PhysicalNetworks(context, state).controller,
        Networks(context, state, reclaim).controller,
        Subnets(context, state, reclaim).controller,
        ports.controller,
        SecurityGroups(context, state).controller,
        NetworkSlices(context, state).controller,
        *reclaim.controllers,
    ]
    return Domain("network", controllers, tasks=[reclaim.sweep])


__all__ = ["build"]

"""An instance's Ports: those that are made for it, and what each card still waits for."""

from __future__ import annotations

from crds.compute import Instance
from crds.conditions import ConditionStatus, find_condition
from crds.meta import ObjectMeta, ObjectRef, OwnerReference
from crds.network import FixedIP, Network, Port, PortPhase, PortSpec, Subnet
from operators.access import may_use
from operators.compute.instance.world import Card, Problem, World, is_owned
from operators.compute.names import INSTANCE_LABEL, PORT_FINALIZER
from operators.compute.reasons import Reason
from operators.verdict import State, Verdict, stalled, waiting

DEFAULT_GROUP = "default"
NETWORK_READY = "NetworkReady"


def desired_port(instance: Instance, card: Card) -> Port:
    """The Port to make for an item of spec.networks with a networkRef, complete from its first write on."""
    entry, meta = card.entry, instance.metadata
    if entry.network_ref is None:
        raise ValueError(f"card {entry.name} of {meta.name} has no networkRef")
    ref = entry.network_ref
    spec = PortSpec(network_ref=ObjectRef(name=ref.name, namespace=ref.namespace))
    if entry.fixed_ip is not None:
        spec.fixed_ips = [FixedIP(ip=entry.fixed_ip)]
    if entry.security_group_refs is not None:
        spec.security_group_refs = list(entry.security_group_refs)
    owner = OwnerReference(
        api_version=instance.api_version,
        kind=instance.kind,
        name=meta.name,
        uid=meta.uid,
        controller=True,
        block_owner_deletion=True,
    )
    return Port(
        metadata=ObjectMeta(
            name=card.port_name,
            namespace=meta.namespace,
            labels={INSTANCE_LABEL: meta.name},
            finalizers=[PORT_FINALIZER],
            owner_references=[owner],
        ),
        spec=spec,
    )


def usable_network(world: World, card: Card) -> Network | None:
    """The card's network, if it is there and the tenant may use it."""
    network = card.network
    if network is None or not may_use(network.spec.access, network.metadata.namespace, world.namespace):
        return None
    return network


def ports_to_make(world: World) -> list[Port]:
    """The Ports that are missing, of those networks that can be used."""
    return [
        desired_port(world.instance, card)
        for card in world.cards
        if card.entry.network_ref is not None and card.port is None and usable_network(world, card) is not None
    ]


def ports_to_drop(world: World) -> list[Port]:
    """Ports that were made for cards which the spec has no more, and which no work object has."""
    wanted = {card.port_name for card in world.cards if card.entry.network_ref is not None}
    built = {port.uid for work in world.work for port in work.spec.ports}
    return [
        port
        for port in world.own_ports
        if port.metadata.name not in wanted
        and port.metadata.uid not in built
        and port.metadata.deletion_timestamp is None
    ]


def ports_to_regroup(world: World) -> list[Port]:
    """The Ports made for this instance whose security groups the spec says differently, as they should be."""
    changed = []
    for card in world.cards:
        refs, port = card.entry.security_group_refs, card.port
        if refs is None or port is None or not is_owned(port, world.instance) or port.metadata.deletion_timestamp:
            continue
        if port.spec.security_group_refs != list(refs):
            spec = port.spec.model_copy(update={"security_group_refs": list(refs)})
            changed.append(port.model_copy(update={"spec": spec}))
    return changed


def card_problem(world: World, card: Card) -> Problem | None:
    """What a card still waits for, if anything."""
    verdict = _missing(world, card) or _port_state(world, card) or _details(card)
    return None if verdict is None else Problem(verdict, NETWORK_READY)


def network_detail_missing(network: Network) -> bool:
    """Whether the network operator has not said yet how the network is laid on the nodes."""
    return network.status.type is None or network.status.mtu is None


def subnets_of(card: Card) -> list[Subnet] | None:
    """The subnets that the port's addresses are of, each once; None while one of them is not there or not ready."""
    if card.port is None:
        return None
    by_name = {subnet.metadata.name: subnet for subnet in card.subnets}
    found: dict[str, Subnet] = {}
    for address in card.port.status.fixed_ips:
        subnet = by_name.get(address.subnet or "")
        if subnet is None or subnet.status.cidr is None:
            return None
        if subnet.spec.dhcp and subnet.status.dhcp_server is None:
            return None
        found[subnet.metadata.uid] = subnet
    return list(found.values())


def port_security(port: Port, network: Network) -> bool:
    return network.spec.port_security if port.spec.port_security is None else port.spec.port_security


def group_names(port: Port) -> list[str]:
    """The security groups of a port, by name."""
    refs = port.spec.security_group_refs
    return [DEFAULT_GROUP] if refs is None else [ref.name for ref in refs]


def _missing(world: World, card: Card) -> Verdict | None:
    entry, tenant = card.entry, world.namespace
    if entry.port_ref is not None and card.port is None:
        return waiting(
            Reason.PORT_NOT_FOUND,
            f"Port {entry.port_ref.name} of card {entry.name} does not exist in namespace {tenant}: create it.",
        )
    if usable_network(world, card) is not None or card.network_key is None:
        return None
    key = card.network_key
    if key.namespace == tenant:
        return waiting(
            Reason.NETWORK_NOT_FOUND,
            f"Network {key.name} of card {entry.name} does not exist in namespace {tenant}: create it.",
        )
    return waiting(
        Reason.NETWORK_NOT_FOUND,
        f"Network {key} of card {entry.name} does not exist or is not shared with tenant {tenant}:"
        " ask its owner to share it.",
    )


def _port_state(world: World, card: Card) -> Verdict | None:
    port, name, instance = card.port, card.port_name, world.instance
    if port is None:
        return waiting(Reason.PORT_NOT_READY, f"Port {name} is being made.")
    if card.entry.network_ref is not None and not is_owned(port, instance):
        if any(
            owner.kind == "Instance" and owner.name == instance.metadata.name
            for owner in port.metadata.owner_references
        ):
            return waiting(
                Reason.PORT_NAME_TAKEN, f"Port {name} still belongs to a deleted instance of this name; it is going."
            )
        return stalled(
            Reason.PORT_NAME_TAKEN,
            f"Port {name} exists and was not made for this instance: delete it, or use it with portRef,"
            " or rename the card.",
        )
    if port.metadata.deletion_timestamp is not None:
        return waiting(Reason.PORT_NOT_READY, f"Port {name} is being deleted; the instance waits for a new one.")
    if card.used_by is not None:
        return waiting(
            Reason.PORT_IN_USE,
            f"Port {name} is used by instance {card.used_by}: use another port, or delete that instance.",
        )
    if port.status.mac_address is None or not port.status.fixed_ips or port.status.phase is PortPhase.ERROR:
        return _port_says(port)
    return None


def _port_says(port: Port) -> Verdict:
    """The port's own trouble in its own words, so that nobody has to look for it."""
    name = port.metadata.name
    told = find_condition(port.status.conditions, "Ready")
    if told is None or told.status is not ConditionStatus.FALSE:
        return waiting(Reason.PORT_NOT_READY, f"Port {name} waits for its addresses.")
    is_stalled = find_condition(port.status.conditions, "Stalled") is not None
    state = State.STALLED if is_stalled else State.WAITING
    return Verdict(state, told.reason, f"Port {name}: {told.message}")


def _details(card: Card) -> Verdict | None:
    port, network = card.port, card.network
    if port is None or network is None:
        return None
    if network_detail_missing(network):
        return waiting(
            Reason.NETWORK_NOT_READY, f"Network {network.metadata.name} of card {card.entry.name} is not ready yet."
        )
    if subnets_of(card) is None:
        return waiting(
            Reason.NETWORK_NOT_READY, f"A subnet of network {network.metadata.name} is not ready yet, or was deleted."
        )
    if port_security(port, network):
        for group in group_names(port):
            if group not in card.groups:
                return waiting(
                    Reason.SECURITY_GROUP_NOT_FOUND,
                    f"SecurityGroup {group} of card {card.entry.name} does not exist in namespace"
                    f" {port.metadata.namespace}: create it.",
                )
    return None

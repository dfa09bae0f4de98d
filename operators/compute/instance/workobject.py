"""The work object of an instance: complete, so that the agent looks nothing up. Its shape is docs/contracts.md's."""

from __future__ import annotations

from crds.compute import EffectiveFlavor
from crds.image import Image
from crds.meta import ObjectMeta
from crds.network import Network, Subnet
from crds.node import (
    AddressPair,
    GuestMetadata,
    HostRoute,
    InstanceRef,
    Machine,
    NodeInstance,
    NodeInstanceSpec,
    NodePort,
    PortFixedIP,
    PortNetwork,
    PortSubnet,
    PublicKey,
    RootDisk,
    RootImage,
)
from crds.vocabulary import DiskFormat, PowerState
from operators.compute.instance.ports import (
    group_names,
    network_detail_missing,
    port_security,
    subnets_of,
)
from operators.compute.instance.support import IMAGE_ANNOTATION, POWER_STATES
from operators.compute.instance.world import Card, World
from operators.compute.names import AGENT_FINALIZER, INSTANCE_LABEL, node_namespace, user_data_secret

TENANT_LABEL = "kumulus.dev/tenant"


def build(world: World, node: str, flavor: EffectiveFlavor, image: Image) -> NodeInstance:
    """The work object for a node; every check must have passed."""
    instance, spec = world.instance, world.instance.spec
    meta = instance.metadata
    return NodeInstance(
        metadata=ObjectMeta(
            name=meta.uid,
            namespace=node_namespace(node),
            labels={TENANT_LABEL: world.namespace, INSTANCE_LABEL: meta.name},
            annotations={IMAGE_ANNOTATION: f"{image.metadata.namespace}/{image.metadata.name}"},
            finalizers=[AGENT_FINALIZER],
        ),
        spec=NodeInstanceSpec(
            instance_ref=InstanceRef(namespace=world.namespace, name=meta.name, uid=meta.uid),
            power_state=power_state(world, PowerState.RUNNING),
            restart_policy=spec.restart_policy,
            vcpus=flavor.vcpus,
            memory=flavor.memory,
            machine=_machine(image),
            root_disk=RootDisk(size=flavor.root_disk, image=_root_image(image, world.image_service_url)),
            metadata=_metadata(world, flavor),
            user_data=spec.user_data,
            user_data_secret_name=user_data_secret(meta.uid) if spec.user_data_secret_ref is not None else None,
            config_drive=spec.config_drive,
            ports=[_node_port(card) for card in world.cards],
        ),
    )


def updated(world: World, present: NodeInstance) -> NodeInstanceSpec:
    """The spec with what may change while the guest is there.

    What cannot be resolved (any more) stays as it is: a guest does not lose its network because an object that it was
    made from is gone.
    """
    spec, has = world.instance.spec, present.spec
    cards = {card.port.metadata.uid: card for card in world.cards if card.port is not None}
    return has.model_copy(
        update={
            "power_state": power_state(world, has.power_state),
            "restart_policy": spec.restart_policy,
            "metadata": has.metadata.model_copy(update={"properties": dict(spec.metadata)}),
            "ports": [_updated_port(cards.get(port.uid), port) for port in has.ports],
        }
    )


def power_state(world: World, otherwise: PowerState) -> PowerState:
    """What the guest is to do; a state that is not supported changes nothing."""
    if world.disabled:
        return PowerState.STOPPED
    asked = world.instance.spec.power_state
    return asked if asked in POWER_STATES else otherwise


def _updated_port(card: Card | None, present: NodePort) -> NodePort:
    if card is None or card.port is None or card.network is None or card.used_by is not None:
        return present
    status = card.port.status
    if status.mac_address is None or not status.fixed_ips:
        return present
    if network_detail_missing(card.network) or subnets_of(card) is None:
        return present
    return _node_port(card)


def _machine(image: Image) -> Machine:
    properties = image.spec.properties
    given = {
        "disk_bus": properties.hw_disk_bus,
        "vif_model": properties.hw_vif_model,
        "firmware": properties.hw_firmware,
        "machine_type": properties.hw_machine_type,
        "video_model": properties.hw_video_model,
        "os_type": properties.os_type,
        "guest_agent": properties.hw_guest_agent,
        "rng": properties.hw_rng,
    }
    return Machine(**{name: value for name, value in given.items() if value is not None})


def _root_image(image: Image, service: str) -> RootImage:
    status = image.status
    if not (status.stored_sha256 and status.size and status.virtual_size):
        raise ValueError(f"image {image.metadata.name} is not Active")
    return RootImage(
        name=image.metadata.name,
        sha256=status.stored_sha256,
        size=status.size,
        virtual_size=status.virtual_size,
        format=DiskFormat.QCOW2,
        url=f"{service.rstrip('/')}/v1/images/{status.stored_sha256}",
    )


def _metadata(world: World, flavor: EffectiveFlavor) -> GuestMetadata:
    spec, meta = world.instance.spec, world.instance.metadata
    return GuestMetadata(
        hostname=spec.hostname or meta.name,
        name=meta.name,
        project_id=world.namespace,
        instance_type=flavor.name,
        keys=[
            PublicKey(name=name, public_key=key_pair.spec.public_key.strip())
            for name, key_pair in world.key_pairs.items()
            if key_pair is not None
        ],
        properties=dict(spec.metadata),
    )


def _node_port(card: Card) -> NodePort:
    port, network, subnets = card.port, card.network, subnets_of(card)
    if port is None or network is None or subnets is None or port.status.mac_address is None:
        raise ValueError(f"card {card.entry.name} is not ready")
    guarded = port_security(port, network)
    uids = {subnet.metadata.name: subnet.metadata.uid for subnet in subnets}
    groups = [card.groups[name].metadata.uid for name in group_names(port) if name in card.groups]
    return NodePort(
        name=card.entry.name,
        uid=port.metadata.uid,
        port_name=port.metadata.name,
        mac_address=port.status.mac_address,
        port_security=guarded,
        network=_network(network),
        fixed_ips=[PortFixedIP(ip=one.ip, subnet_uid=uids[one.subnet or ""]) for one in port.status.fixed_ips],
        subnets=[_subnet(subnet) for subnet in subnets],
        allowed_address_pairs=[AddressPair(ip=one.ip, mac=one.mac) for one in port.spec.allowed_address_pairs],
        security_group_uids=groups if guarded else [],
    )


def _network(network: Network) -> PortNetwork:
    status = network.status
    if status.type is None or status.mtu is None:
        raise ValueError(f"network {network.metadata.name} is not ready")
    return PortNetwork(
        uid=network.metadata.uid,
        name=network.metadata.name,
        type=status.type,
        segmentation_id=status.segmentation_id,
        physical_network=status.physical_network,
        mtu=status.mtu,
        dns_domain=network.spec.dns_domain,
    )


def _subnet(subnet: Subnet) -> PortSubnet:
    spec, status = subnet.spec, subnet.status
    if status.cidr is None:
        raise ValueError(f"subnet {subnet.metadata.name} is not ready")
    server = status.dhcp_server
    return PortSubnet(
        uid=subnet.metadata.uid,
        name=subnet.metadata.name,
        cidr=status.cidr,
        gateway=status.gateway_ip,
        dhcp=spec.dhcp,
        dhcp_server_ip=server.ip if server is not None else None,
        dhcp_server_mac=server.mac if server is not None else None,
        dns_nameservers=list(spec.dns_nameservers),
        host_routes=[HostRoute(destination=one.destination, next_hop=one.next_hop) for one in spec.host_routes],
    )

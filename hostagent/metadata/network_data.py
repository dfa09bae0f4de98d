"""network_data.json: links, networks and services, as Nova's schema has them and cloud-init reads them.

Source: https://docs.openstack.org/nova/latest/_downloads/9119ca7ac90aa2990e762c08baea3a36/network_data.json
"""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from typing import Any

from crds.node import NodePort, PortFixedIP, PortSubnet

Object = dict[str, Any]


def network_data(ports: list[NodePort]) -> Object:
    """The document for a guest with these network cards."""
    networks: list[Object] = []
    resolvers: dict[str, None] = {}
    for port in ports:
        subnets = {subnet.uid: subnet for subnet in port.subnets}
        leased: set[int] = set()
        for fixed_ip in port.fixed_ips:
            subnet = subnets.get(fixed_ip.subnet_uid)
            if subnet is None:
                continue
            version = ip_network(subnet.cidr).version
            # DHCP gives one address of a family to a card; further ones are told as they are.
            by_dhcp = subnet.dhcp and version == 4 and version not in leased
            leased.add(version)
            networks.append(_network(f"network{len(networks)}", port, fixed_ip, subnet, by_dhcp=by_dhcp))
            resolvers.update(dict.fromkeys(subnet.dns_nameservers))
    return {
        "links": [_link(port) for port in ports],
        "networks": networks,
        "services": [{"type": "dns", "address": address} for address in resolvers],
    }


def link_id(port: NodePort) -> str:
    """How networks refer to a card: as Nova's, "tap" and the first eleven characters of the port's UID."""
    return f"tap{port.uid[:11]}"


def _link(port: NodePort) -> Object:
    return {
        "id": link_id(port),
        "vif_id": port.uid,
        "type": "tap",
        "mtu": port.network.mtu,
        "ethernet_mac_address": port.mac_address,
    }


def _network(name: str, port: NodePort, fixed_ip: PortFixedIP, subnet: PortSubnet, *, by_dhcp: bool) -> Object:
    network: Object = {"id": name, "link": link_id(port), "network_id": port.network.uid}
    if by_dhcp:
        return {**network, "type": "ipv4_dhcp"}
    cidr = ip_network(subnet.cidr)
    routes = [_route(route.destination, route.next_hop) for route in subnet.host_routes]
    if subnet.gateway is not None:
        routes.insert(0, _route("0.0.0.0/0" if cidr.version == 4 else "::/0", subnet.gateway))
    return {
        **network,
        "type": f"ipv{cidr.version}",
        "ip_address": str(ip_interface(fixed_ip.ip).ip),
        "netmask": str(cidr.netmask),
        "routes": routes,
        "services": [{"type": "dns", "address": address} for address in subnet.dns_nameservers],
    }


def _route(destination: str, next_hop: str) -> Object:
    cidr = ip_network(destination)
    return {"network": str(cidr.network_address), "netmask": str(cidr.netmask), "gateway": next_hop}

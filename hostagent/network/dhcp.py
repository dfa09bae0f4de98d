"""dnsmasq's files for one network. Pure.

Static bindings only: who is not in the hosts file gets no answer. Sources: dnsmasq(8), RFC 2132, RFC 3442 (option
121) and MS-DHCPE (249, the same for older Windows). When a client takes option 121 it ignores option 3, so the
default route is in both.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path

from hostagent.network import names, ruleset
from hostagent.network.model import Network, Port, Subnet
from hostagent.network.services import dhcp_subnets
from hostagent.network.state import DhcpFiles

LEASE_SECONDS = 86400
_LONGEST_OPTION = 144
"""Bytes of option 121 that dnsmasq was seen to send to a client that takes 576 (RFC 2131, 2); a longer option it
leaves out as a whole."""
_ROOM = 270
"""Bytes for the names, the DNS servers and the routes together."""
_HOSTNAME = 63
HOSTS, OPTIONS, PID, LOADED = "hosts", "options", "dnsmasq.pid", "loaded"
CONFIGURATION_PREFIX = "dnsmasq-"
ANYWHERE = "0.0.0.0/0"
Route = tuple[str, str]
"""Destination and next hop."""
_INSTRUCTION = re.compile(r"ignore|infinite|\d+[smhdw]?", re.IGNORECASE)
"""Words that dhcp-host takes for something else than a name: to answer nobody, or a lease time."""


def dhcp_files(network: Network, ports: Iterable[Port], run_dir: Path, state_dir: Path) -> DhcpFiles | None:
    """None when this node answers no DHCP in the network."""
    subnets = dhcp_subnets(network)
    if not subnets:
        return None
    directory = run_dir / "dhcp" / names.short_id(network.uid)
    mine = [port for port in ports if port.network_uid == network.uid]
    return DhcpFiles(
        directory=str(directory),
        arguments=_arguments(network, subnets, directory, lease_file(network.uid, state_dir)),
        hosts=_lines(line for port in mine for line in _bindings(port, subnets)),
        options=_lines(line for subnet in subnets for line in _options(network, subnet)),
        leases=str(lease_file(network.uid, state_dir)),
    )


def lease_file(network_uid: str, state_dir: Path) -> Path:
    return state_dir / "leases" / names.short_id(network_uid)


def configuration_name(files: DhcpFiles) -> str:
    return f"{CONFIGURATION_PREFIX}{hashlib.sha256(files.arguments.encode()).hexdigest()[:12]}.conf"


def loaded_hash(files: DhcpFiles) -> str:
    return hashlib.sha256(f"{files.hosts}\0{files.options}".encode()).hexdigest()


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _tag(subnet: Subnet) -> str:
    return "s" + hashlib.sha256(subnet.uid.encode()).hexdigest()[:11]


def _arguments(network: Network, subnets: tuple[Subnet, ...], directory: Path, leases: Path) -> str:
    ranges = []
    for subnet in subnets:
        cidr = ipaddress.ip_network(subnet.cidr)
        ranges.append(
            f"dhcp-range=set:{_tag(subnet)},{cidr.network_address},static,{cidr.netmask},{LEASE_SECONDS}",
        )
    return _lines(
        [
            "port=0",
            "no-hosts",
            "no-resolv",
            "no-ping",
            "quiet-dhcp",
            f"interface={names.DHCP_DEVICE}",
            "except-interface=lo",
            "bind-interfaces",
            f"pid-file={directory / PID}",
            f"dhcp-leasefile={leases}",
            f"dhcp-hostsfile={directory / HOSTS}",
            f"dhcp-optsfile={directory / OPTIONS}",
            "dhcp-authoritative",
            "dhcp-ignore=tag:!known",
            "dhcp-lease-max=65535",
            f"dhcp-option-force=option:mtu,{network.mtu}",
            *ranges,
        ]
    )


def _bindings(port: Port, subnets: tuple[Subnet, ...]) -> Iterable[str]:
    served = {subnet.uid for subnet in subnets}
    for fixed in port.fixed_ips:
        if fixed.subnet_uid in served and ":" not in fixed.ip:
            name = port.hostname if port.hostname and not _INSTRUCTION.fullmatch(port.hostname) else None
            # id:*: by MAC alone, since firmware, loader and system of one guest name themselves differently.
            parts = [port.mac, "id:*", fixed.ip, *([name] if name else []), str(LEASE_SECONDS)]
            yield ",".join(parts)


def _options(network: Network, subnet: Subnet) -> Iterable[str]:
    tag = f"tag:{_tag(subnet)}"
    # Without a value the option is withheld; dnsmasq would name itself.
    yield f"{tag},option:router" + (f",{subnet.gateway}" if subnet.gateway else "")
    routes, _ = fitting_routes(network, subnet)
    joined = ",".join(f"{destination},{hop}" for destination, hop in routes)
    yield f"{tag},option:classless-static-route,{joined}"
    yield f"{tag},249,{joined}"
    servers = [each for each in subnet.dns_servers if ":" not in each]
    if servers:
        yield f"{tag},option:dns-server,{','.join(servers)}"
    if network.dns_domain:
        yield f"{tag},option:domain-name,{network.dns_domain}"


def fitting_routes(network: Network, subnet: Subnet) -> tuple[list[Route], list[Route]]:
    """What option 121 tells, and what has no room in it: the metadata service's and the default route always fit."""
    routes = [(each.destination, each.next_hop) for each in subnet.host_routes if ":" not in each.destination]
    metadata = (f"{ruleset.METADATA_ADDRESS}/32", subnet.dhcp_server_ip or "")
    default = [each for each in routes if each[0] == ANYWHERE] or (
        [(ANYWHERE, subnet.gateway)] if subnet.gateway else []
    )
    told, left = [metadata], []
    others = [_HOSTNAME, len(network.dns_domain or ""), 4 * len(subnet.dns_servers)]
    room = min(_LONGEST_OPTION, _ROOM - sum(2 + each for each in others)) - sum(
        _length(each) for each in (metadata, *default)
    )
    for each in (each for each in routes if each[0] != ANYWHERE):
        if _length(each) <= room:
            room -= _length(each)
            told.append(each)
        else:
            left.append(each)
    return told + default, left


def _length(route: Route) -> int:
    """Bytes in the option (RFC 3442): the prefix length, its significant octets, the router."""
    return 1 + (ipaddress.ip_network(route[0]).prefixlen + 7) // 8 + 4

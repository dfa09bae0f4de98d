"""What the apiserver refuses by itself, and the sentence that it says: which field, which value, what to do."""

from __future__ import annotations

import copy
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

import crds
from crds.compute.instances import USER_DATA_LIMIT
from crds.meta import Resource
from runtime.client import Client, Invalid
from runtime.kind import kind_of

Changes = dict[str, Any]

KINDS: dict[str, type[Resource]] = {kind.__name__: kind for kind in crds.KINDS}
BASES: dict[str, dict[str, Any]] = {}
for _example in yaml.safe_load_all(Path(__file__).with_name("test_crds_examples.yaml").read_text()):
    BASES.setdefault(_example["kind"], _example)

SUBNET: Changes = {"spec": {"networkRef": {"name": "n"}, "cidr": "10.0.1.0/24"}}
INSTANCE: Changes = {"spec": {"flavorRef": {"name": "f"}, "imageRef": {"name": "i"}}}
RULE: Changes = {"name": "r", "direction": "Ingress"}


def instance(**spec: Any) -> Changes:
    return {"spec": {**INSTANCE["spec"], **spec}}


def subnet(**spec: Any) -> Changes:
    return {"spec": {**SUBNET["spec"], **spec}}


def rule(**fields: Any) -> Changes:
    return {"spec.rules": [{**RULE, **fields}]}


REFUSED: list[tuple[str, Changes, str]] = [
    # names
    ("Tenant", {"metadata.name": "kube-public"}, "the name 'kube-public' is reserved"),
    ("Tenant", {"metadata.name": "kumulus-system"}, "does not begin with 'kube-' or 'kumulus-'"),
    ("Tenant", {"metadata.name": "default"}, "the name 'default' is reserved"),
    ("Tenant", {"metadata.name": "acme.corp"}, "the name 'acme.corp' must be a DNS label"),
    ("Tenant", {"metadata.name": "a" * 64}, "metadata.name: Too long: may not be more than 63 bytes"),
    ("Instance", {"metadata.name": "web.1"}, "the guest is told it as its host name"),
    ("Network", {"metadata.name": "a.b"}, "the name 'a.b' must be a DNS label"),
    ("Volume", {"metadata.name": "v" * 64}, "metadata.name: Too long: may not be more than 63 bytes"),
    # tenants
    ("Tenant", {"spec.members": [{"kind": "User", "name": "a", "role": "owner"}]}, '"admin", "member", "reader"'),
    (
        "Tenant",
        {"spec.members": [{"kind": "User", "name": "a", "namespace": "x", "role": "admin"}]},
        "member 'a' is a User, which has no namespace: remove it",
    ),
    ("Tenant", {"spec.members": [{"kind": "User", "name": "a", "role": "admin"}] * 2}, "Duplicate value"),
    ("Tenant", {"spec.quota": {"instances": -1}}, "spec.quota.instances"),
    ("Tenant", {"spec.quota": {"memory": "64 GB"}}, "'64 GB' is not a quantity"),
    # images
    ("Image", {"spec.source": {}}, "exactly one of url, upload, instanceRef, volumeRef and imageRef must be set"),
    ("Image", {"spec.source": {"upload": {}, "url": "https://x.org/"}}, "exactly one of url, upload"),
    ("Image", {"spec.source.url": "file:///etc/passwd"}, "'file:///etc/passwd' is not a URL that can be fetched"),
    ("Image", {"spec.source.url": "images/debian.qcow2"}, "must begin with http:// or https://"),
    ("Image", {"spec.sha256": "abc"}, "'abc' is not a SHA-256 checksum: it must be 64 lower case hexadecimal digits"),
    ("Image", {"spec.diskFormat": "qcow"}, 'supported values: "raw", "qcow2"'),
    ("Image", {"spec.access": {"scope": "Public", "tenants": ["x"]}}, "change scope Public to Shared"),
    ("Image", {"spec.minDisk": "2GiB"}, "'2GiB' is not a quantity: it must be a number with an optional suffix"),
    ("Image", {"spec.minDisk": -1}, "'-1' is not a quantity"),
    *(
        ("Image", {"spec.minDisk": size}, f"'{size}' is too large: it must be less than 8Ei")
        for size in ("9999999Ei", "9223372036854775808", "8Ei", "9999999999999999999e9", "9999999999999999999.9E")
    ),
    ("ImageStore", {"spec": {}}, "exactly one of directory, s3 and http must be set"),
    # flavors and hypervisors
    ("Flavor", {"spec.vcpus": 0}, "spec.vcpus: Invalid value: 0: spec.vcpus in body should be greater than or equal"),
    ("Flavor", {"spec.memory": 0}, "'0' is too small: it must be more than 0"),
    ("Flavor", {"spec.memory": "0Mi"}, "'0Mi' is too small: it must be more than 0"),
    ("Flavor", {"spec.memory": None}, "spec.memory: Required value"),
    ("Flavor", {"spec.rootDisk": "-1Gi"}, "'-1Gi' is not a quantity"),
    (
        "Hypervisor",
        {"metadata.name": "node1.example.com"},
        "the name 'node1.example.com' must be a DNS label of at most 50",
    ),
    ("Hypervisor", {"metadata.name": "n" * 51}, f"because the namespace kumulus-node-{'n' * 51} is made for it"),
    ("Hypervisor", {"spec.cpuAllocationRatio": 0}, "'0' is not a ratio: it must be a number more than 0"),
    ("Hypervisor", {"spec.cpuAllocationRatio": "0.0"}, "'0.0' is not a ratio"),
    ("Hypervisor", {"spec.maintenance": "Off"}, '"None", "Cordon", "Drain"'),
    # key pairs
    ("KeyPair", {"spec.publicKey": "ssh-ed25519"}, "not a public ssh key: it must be one line in OpenSSH form"),
    ("KeyPair", {"spec.publicKey": "ssh-dss AAAAB3NzaC1kc3MAAACBAK alice"}, "not a public ssh key"),
    ("KeyPair", {"spec.publicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI a\nssh-rsa AAAA b"}, "must be one line"),
    ("KeyPair", {"spec.publicKey": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"}, "this is a private key"),
    # networks
    ("Network", {"spec.mtu": 100}, "spec.mtu in body should be greater than or equal to 576"),
    ("Network", {"spec.dnsDomain": "Acme_Corp"}, "'Acme_Corp' must be a lower case DNS name"),
    ("Network", {"spec.provider": {"type": "VLAN"}}, "a VLAN network must name its physicalNetworkRef"),
    (
        "Network",
        {"spec.provider": {"type": "Flat", "physicalNetworkRef": {"name": "p"}, "segmentationID": 5}},
        "a Flat network is untagged and has no segmentationID: remove it",
    ),
    (
        "Network",
        {"spec.provider": {"type": "VLAN", "physicalNetworkRef": {"name": "p"}, "segmentationID": 4095}},
        "4095 is not a VLAN: it must be from 1 to 4094",
    ),
    ("Network", {"spec.provider": {"type": "VXLAN", "segmentationID": 16777216}}, "less than or equal to 16777215"),
    (
        "Network",
        {"spec.provider": {"type": "VXLAN", "physicalNetworkRef": {"name": "p"}}},
        "a VXLAN network travels over the underlay",
    ),
    ("PhysicalNetwork", {"spec.vlanRanges": [{"first": 20, "last": 10}]}, "first (20) must not be more than last (10)"),
    ("Segment", {"spec.physicalNetwork": "public"}, "physicalNetwork must be set for VLAN and Flat, and not for VXLAN"),
    # subnets
    ("Subnet", subnet(cidr="10.0.1.0"), "'10.0.1.0' is not a CIDR: use a form such as 10.0.1.0/24"),
    ("Subnet", subnet(cidr="10.0.256.0/24"), "'10.0.256.0/24' is not a CIDR"),
    ("Subnet", subnet(cidr="10.0.1.5/24"), "'10.0.1.5/24' has bits set behind the prefix: use '10.0.1.0/24'"),
    ("Subnet", subnet(cidr="FD00:0::/64"), "'FD00:0::/64' must be written as 'fd00::/64'"),
    *(
        ("Subnet", subnet(cidr=cidr), f"'{cidr}' holds addresses that no guest may have")
        for cidr in (
            *("240.65.0.0/16", "250.1.0.0/24", "255.255.255.0/24", "128.0.0.0/1", "0.0.0.0/0", "0.1.0.0/16"),
            *("127.0.0.0/24", "169.254.169.0/24", "169.0.0.0/8", "224.0.0.0/24", "239.1.0.0/16"),
            *("fe80::/64", "ff02::/64", "::/64", "::/0"),
        )
    ),
    ("SubnetPool", {"spec.prefixes": ["10.0.0.0/16", "240.0.0.0/8"]}, "'240.0.0.0/8' holds addresses that no guest"),
    ("Subnet", subnet(cidr="10.0.1.0/31"), "10.0.1.0/31 is too small"),
    ("Subnet", {"spec": {"networkRef": {"name": "n"}}}, "exactly one of cidr and subnetPoolRef must be set"),
    ("Subnet", subnet(prefixLength=24), "prefixLength goes with subnetPoolRef only"),
    (
        "Subnet",
        subnet(gateway={"mode": "Static", "ip": "10.0.2.1"}),
        "spec.gateway.ip: Invalid value: gateway 10.0.2.1 is outside the subnet 10.0.1.0/24: choose an address in it",
    ),
    ("Subnet", subnet(gateway={"mode": "Static", "ip": "10.0.1.0"}), "is the address of the subnet 10.0.1.0/24 itself"),
    ("Subnet", subnet(gateway={"mode": "Static"}), "ip must be set with mode Static and with no other"),
    ("Subnet", subnet(gateway={"mode": "None", "ip": "10.0.1.1"}), "the mode is None"),
    ("Subnet", subnet(gateway={"mode": "Static", "ip": "10.0.1"}), "'10.0.1' is not an IP address"),
    (
        "Subnet",
        subnet(allocationPools=[{"start": "10.0.1.10", "end": "10.0.2.20"}]),
        "every start and end of allocationPools must be in the subnet 10.0.1.0/24",
    ),
    (
        "Subnet",
        subnet(allocationPools=[{"start": "10.0.1.200", "end": "10.0.1.30"}]),
        "start 10.0.1.200 is behind end 10.0.1.30: swap them",
    ),
    ("Subnet", subnet(allocationPools=[{"start": "10.0.1.9", "end": "fd00::1"}]), "must be of one family"),
    ("Subnet", subnet(dnsNameservers=["dns.example.org"]), "'dns.example.org' is not an IP address"),
    ("Subnet", subnet(dnsNameservers=["2001:DB8::1"]), "'2001:DB8::1' must be written as '2001:db8::1'"),
    ("Subnet", subnet(hostRoutes=[{"destination": "::/0", "nextHop": "10.0.1.2"}]), "must be of one family"),
    ("Subnet", subnet(ipv6={}), "ipv6 is for IPv6 subnets, and 10.0.1.0/24 is IPv4: remove it"),
    ("Subnet", subnet(cidr="fd00::/48", ipv6={}), "addressMode SLAAC needs a prefix of 64 bits"),
    ("SubnetPool", {"spec.prefixes": ["10.0.0.0/8", "fd00::/48"]}, "prefixes must be of one family"),
    ("SubnetPool", {"spec.prefixes": []}, "spec.prefixes in body should have at least 1 items"),
    ("SubnetPool", {"spec.minPrefixLength": 30}, "minPrefixLength (30) must not be more than maxPrefixLength (28)"),
    ("SubnetPool", {"spec.defaultPrefixLength": 8}, "defaultPrefixLength (8) must be from minPrefixLength"),
    # ports
    ("Port", {"spec.macAddress": "FA:16:3E:00:00:50"}, "'FA:16:3E:00:00:50' is not a MAC address: use lower case"),
    ("Port", {"spec.macAddress": "01:00:5e:00:00:01"}, "'01:00:5e:00:00:01' must be a unicast address"),
    ("Port", {"spec.macAddress": "00:00:00:00:00:00"}, "must be a unicast address"),
    ("Port", {"spec.fixedIPs": [{}]}, "at least one of subnetRef and ip must be set"),
    ("Port", {"spec.fixedIPs": [{"ip": "10.0.1.300"}]}, "'10.0.1.300' is not an IP address"),
    ("Port", {"spec.allowedAddressPairs": [{"ip": "10.0.1.0/99"}]}, "is neither an IP address nor a CIDR"),
    ("Port", {"spec.allowedAddressPairs": [{"ip": "10.0.1.9/24"}]}, "'10.0.1.9/24' must be written as '10.0.1.0/24'"),
    ("Port", {"spec.portSecurity": False}, "a port with portSecurity: false must have no securityGroupRefs"),
    ("Port", {"spec.networkRef": None}, "spec.networkRef: Required value"),
    ("Port", {"spec.dnsName": "Web"}, "'Web' must be at most 63 lower case letters"),
    # security groups
    (
        "SecurityGroup",
        rule(remoteIPPrefix="0.0.0.0/0", remoteGroupRef={"name": "g"}),
        "rule 'r' must have at most one of remoteIPPrefix and remoteGroupRef",
    ),
    ("SecurityGroup", rule(portRangeMin=22), "rule 'r' has a port range, which only goes with protocol tcp"),
    ("SecurityGroup", rule(protocol="esp", portRangeMin=22), "rule 'r' has a port range"),
    ("SecurityGroup", rule(protocol="tcp", portRangeMax=22), "has portRangeMax without portRangeMin: set both"),
    (
        "SecurityGroup",
        rule(protocol="tcp", portRangeMin=80, portRangeMax=22),
        "portRangeMin (80) must not be more than portRangeMax (22)",
    ),
    ("SecurityGroup", rule(protocol="udp", portRangeMin=0), "rule 'r': ports are from 1 to 65535"),
    ("SecurityGroup", rule(protocol="tcp", portRangeMin=70000), "less than or equal to 65535"),
    ("SecurityGroup", rule(protocol="icmp", portRangeMin=256), "(portRangeMin) and code (portRangeMax) of icmp are"),
    ("SecurityGroup", rule(etherType="IPv6", remoteIPPrefix="10.0.0.0/8"), "10.0.0.0/8 is not of etherType IPv6"),
    ("SecurityGroup", rule(etherType="IPv6", protocol="icmp"), "icmp is of IPv4, icmpv6 of IPv6"),
    ("SecurityGroup", rule(protocol="icmpv6", remoteIPPrefix="10.0.0.0/8"), "does not go with remoteIPPrefix"),
    ("SecurityGroup", rule(protocol="TCP"), 'spec.rules[0].protocol: Unsupported value: "TCP"'),
    ("SecurityGroup", rule(remoteIPPrefix="10.1.2.3/8"), "use '10.0.0.0/8'"),
    ("SecurityGroup", {"spec.rules": [RULE, RULE]}, "Duplicate value"),
    ("QoSPolicy", {"spec.bandwidthLimits": [{"direction": "Egress", "rate": "fast"}]}, "'fast' is not a quantity"),
    # routers and floating IPs
    ("Router", {"spec.interfaces": [{"name": "i"}]}, "interface 'i' must have exactly one of subnetRef and portRef"),
    (
        "FloatingIP",
        {"spec.portRef": {"name": "p"}},
        "at most one of instanceRef, portRef and portForwardings must be set",
    ),
    ("FloatingIP", {"spec.instanceRef": None, "spec.fixedIP": "10.0.1.5"}, "fixedIP 10.0.1.5 needs instanceRef or"),
    (
        "FloatingIP",
        {
            "spec.instanceRef": None,
            "spec.portForwardings": [
                {"name": n, "protocol": "tcp", "externalPort": 22, "internalPort": 22, "portRef": {"name": n}}
                for n in ("a", "b")
            ],
        },
        "every protocol and externalPort must be forwarded once only",
    ),
    # instances
    ("Instance", {"spec": {"flavorRef": {"name": "f"}}}, "exactly one of imageRef and a volume with bootIndex: 0"),
    (
        "Instance",
        instance(volumes=[{"name": "v", "volumeRef": {"name": "v"}, "bootIndex": 0}]),
        "exactly one of imageRef and a volume with bootIndex: 0 must be set",
    ),
    (
        "Instance",
        instance(volumes=[{"name": n, "volumeRef": {"name": n}, "bootIndex": 1} for n in ("a", "b")]),
        "every bootIndex must be different",
    ),
    ("Instance", instance(volumes=[{"name": "v"}]), "volume 'v' must have exactly one of volumeRef and template"),
    ("Instance", instance(networks=[{"name": "eth0"}]), "network 'eth0' must have exactly one of networkRef and"),
    (
        "Instance",
        instance(networks=[{"name": "eth0", "networkRef": {"name": n}} for n in ("a", "b")]),
        'spec.networks[1]: Duplicate value: {"name":"eth0"}',
    ),
    (
        "Instance",
        instance(networks=[{"name": n, "portRef": {"name": "p"}} for n in ("eth0", "eth1")]),
        "a Port must be used by one network only",
    ),
    (
        "Instance",
        instance(networks=[{"name": "eth0", "portRef": {"name": "p"}, "fixedIP": "10.0.1.5"}]),
        "network 'eth0': fixedIP goes with networkRef; with portRef, set it in the Port's fixedIPs",
    ),
    (
        "Instance",
        instance(networks=[{"name": "eth0", "portRef": {"name": "p"}, "securityGroupRefs": [{"name": "g"}]}]),
        "network 'eth0': securityGroupRefs go with networkRef",
    ),
    (
        "Instance",
        instance(userData="x" * (USER_DATA_LIMIT + 1)),
        "user-data of 65537 bytes is too large: it must be at most 65536 bytes (64 KiB); compress it",
    ),
    ("Instance", instance(userData="ä" * 40000), "user-data of 80000 bytes is too large"),
    ("Instance", instance(userData="x" * 200_000), "spec.userData: Too long"),
    (
        "Instance",
        instance(userData="x", userDataSecretRef={"name": "s"}),
        "at most one of userData and userDataSecretRef must be set",
    ),
    ("Instance", instance(hostname="web_1"), "'web_1' must be at most 63 lower case letters, digits and '-'"),
    ("Instance", instance(powerState="running"), 'spec.powerState: Unsupported value: "running"'),
    ("ServerGroup", {"spec.policy": "Affinity"}, "maxServersPerHost goes with policy AntiAffinity only"),
    ("InstanceSet", {"spec.template.spec.networks": [{"name": "eth0"}]}, "network 'eth0' must have exactly one of"),
    ("InstanceAction", {"spec.crashDump": {}}, "with action Reboot, no member of another action must be set"),
    ("InstanceAction", {"spec.action": "SetPassword", "spec.reboot": None}, "name the Secret that holds the password"),
    ("Console", {"spec.ttl": "10 minutes"}, "'10 minutes' is not a duration: it must be hours, minutes and seconds"),
    ("Console", {"spec.ttl": ""}, "'' is not a duration"),
    # storage
    ("Volume", {"spec.size": 0}, "'0' is too small: it must be more than 0"),
    ("Volume", {"spec.source": {}}, "exactly one of imageRef, snapshotRef, volumeRef and backupRef must be set"),
    ("VolumeBackup", {"spec.snapshotRef": {"name": "s"}}, "exactly one of volumeRef and snapshotRef must be set"),
    ("VolumeType", {"spec.qos": {"totalIOPS": 1, "readIOPS": 1}}, "totalIOPS must not be set together with readIOPS"),
    ("StorageBackend", {"spec.parameters": {}}, "driver LVM needs parameters.volumeGroup"),
    ("StorageBackend", {"spec.driver": "File"}, "driver File needs parameters.path: name the directory"),
    (
        "StorageBackend",
        {"spec.nodeSelector": {"matchExpressions": [{"key": "k", "operator": "In"}]}},
        "values must be set with operator In and NotIn",
    ),
    ("BackupTarget", {"spec.directory": {"path": "/backups"}}, "exactly one of s3 and directory must be set"),
]

ACCEPTED: list[tuple[str, Changes, str]] = [
    ("Hypervisor", {"metadata.name": "n" * 50}, "the longest name of a node"),
    *(
        ("Subnet", subnet(cidr=cidr), f"{cidr} is for guests")
        for cidr in ("1.0.0.0/8", "126.255.0.0/16", "169.253.0.0/16", "169.255.0.0/16", "223.255.255.0/24", "fec0::/64")
    ),
    ("KeyPair", {"spec.publicKey": "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7== bob\n"}, "a trailing newline"),
    ("KeyPair", {"spec.publicKey": "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY="}, "no comment"),
    ("KeyPair", {"spec.publicKey": "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2g= me"}, "a FIDO key"),
    ("Flavor", {"spec.memory": "1.5Gi", "spec.rootDisk": 0}, "fractions and zero"),
    ("Image", {"spec.minDisk": "9223372036854775806"}, "the largest number"),
    ("Image", {"spec.minDisk": "0.5k", "spec.minMemory": "7Ei"}, "a part of a thousand, and the largest of units"),
    ("Flavor", {"spec.memory": 536870912, "spec.rootDisk": "1e10"}, "plain numbers and exponents"),
    ("Hypervisor", {"spec.cpuAllocationRatio": "1.5"}, "a quoted fraction"),
    ("Subnet", subnet(cidr="fd00::/48", ipv6={"addressMode": "DHCPv6Stateful"}), "stateful below any prefix"),
    ("Subnet", subnet(allocationPools=[{"start": "10.0.1.9", "end": "10.0.1.9"}]), "a pool of one address"),
    ("Subnet", subnet(allocationPools=[{"start": "10.0.1.9", "end": "10.0.1.10"}]), "addresses compared as numbers"),
    ("Subnet", {"spec": {"networkRef": {"name": "n"}, "subnetPoolRef": {"name": "p"}, "prefixLength": 24}}, "a pool"),
    ("SecurityGroup", rule(protocol="icmp", portRangeMin=3, portRangeMax=1), "an ICMP code below its type"),
    ("SecurityGroup", rule(protocol="vrrp"), "a protocol without ports"),
    ("Instance", instance(userData="x" * USER_DATA_LIMIT), "user-data of exactly the limit"),
    ("Port", {"spec.portSecurity": False, "spec.securityGroupRefs": []}, "an unguarded port without groups"),
    ("Console", {"spec.ttl": "1h30m"}, "a duration of two units"),
]

# kind, what is changed before, what is changed after, the sentence; None: the change must be taken.
CHANGED: list[tuple[str, Changes, Changes, str | None]] = [
    ("Flavor", {}, {"spec.vcpus": 2}, "the spec of a Flavor is immutable: create a new Flavor and resize instances"),
    ("Flavor", {}, {"metadata.labels": {"a": "b"}}, None),
    ("KeyPair", {}, {"spec.publicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI b"}, "publicKey is immutable"),
    ("Image", {}, {"spec.sha256": "0" * 64}, "sha256 is immutable: create a new Image for new bytes"),
    ("Image", {}, {"spec.sha256": None}, "sha256 is immutable: create a new Image for new bytes"),
    ("Image", {}, {"spec.source.url": "https://x.org/"}, "source is immutable: create a new Image for new bytes"),
    ("Image", {}, {"spec.diskFormat": "raw"}, "diskFormat is immutable"),
    ("Image", {}, {"spec.access": {"scope": "Public"}, "spec.protected": True}, None),
    ("Network", {}, {"spec.external": True}, "external is immutable"),
    ("Network", {}, {"spec.provider": {"type": "VXLAN"}}, "provider is immutable"),
    ("Network", {}, {"spec.mtu": 1300}, None),
    ("Subnet", {}, {"spec.cidr": "10.0.0.0/16"}, "spec.cidr: Invalid value: cidr is immutable: create a new Subnet"),
    ("Subnet", {}, {"spec.networkRef.name": "other"}, "networkRef is immutable"),
    ("Subnet", {}, {"spec.allocationPools": [{"start": "10.0.1.20", "end": "10.0.1.30"}]}, None),
    ("Port", {}, {"spec.networkRef.name": "other"}, "networkRef is immutable: create a new Port on the other network"),
    ("Port", {}, {"spec.macAddress": "fa:16:3e:00:00:51"}, "macAddress is immutable: create a new Port"),
    ("Port", {"spec.macAddress": None}, {"spec.macAddress": "fa:16:3e:00:00:51"}, "macAddress is immutable"),
    ("Port", {}, {"spec.securityGroupRefs": [], "spec.allowedAddressPairs": []}, None),
    ("FloatingIP", {}, {"spec.address": "20.0.2.16"}, "address is immutable: create a new FloatingIP"),
    ("FloatingIP", {}, {"spec.instanceRef.name": "web-2"}, None),
    ("IPAllocation", {}, {"spec.address": "10.0.1.51"}, "address is immutable"),
    ("Instance", {}, {"spec.imageRef.name": "other"}, "imageRef must not change while imageChangePolicy is Forbid"),
    ("Instance", {"spec.imageChangePolicy": "Rebuild"}, {"spec.imageRef.name": "other"}, None),
    ("Instance", {}, {"spec.keyPairRefs": []}, "keyPairRefs is immutable: a guest reads its keys at first boot"),
    ("Instance", {}, {"spec.userData": "other"}, "userData is immutable"),
    ("Instance", {}, {"spec.availabilityZone": None}, "availabilityZone is immutable"),
    (
        "Instance",
        {},
        {"spec.networks": [{"name": "eth0", "networkRef": {"name": "other"}}]},
        "networkRef is immutable: remove this item and add one of another name",
    ),
    ("Instance", {}, {"spec.networks": [{"name": "eth7", "networkRef": {"name": "other"}}]}, None),
    ("Instance", {}, {"spec.powerState": "Stopped", "spec.flavorRef.name": "m1.large", "spec.volumes": []}, None),
    (
        "InstanceSet",
        {},
        {"spec.template.spec.userData": "new", "spec.template.spec.keyPairRefs": [{"name": "b"}]},
        None,
    ),
    ("InstanceAction", {}, {"spec.reboot.type": "Hard"}, "an InstanceAction is immutable: create a new one"),
    ("InstanceMigration", {}, {"spec.desiredState": "Abort"}, None),
    ("InstanceMigration", {"spec.desiredState": "Abort"}, {"spec.desiredState": "Run"}, "an aborted migration cannot"),
    ("ServerGroup", {}, {"spec.policy": "SoftAntiAffinity", "spec.maxServersPerHost": None}, "policy is immutable"),
    ("Volume", {}, {"spec.size": "9Gi"}, "a volume may only grow: 9Gi is less than 10Gi"),
    ("Volume", {}, {"spec.size": 10737418239}, "a volume may only grow: 10737418239 is less than 10Gi"),
    ("Volume", {}, {"spec.size": "10240Mi"}, None),
    ("Volume", {}, {"spec.size": "11Gi", "spec.volumeTypeRef.name": "slow"}, None),
    ("Volume", {}, {"spec.source": None}, "source is immutable: create a new Volume"),
    ("VolumeType", {}, {"spec.encrypted": True}, "encrypted and multiAttach are immutable"),
    ("NodeInstance", {}, {"spec.instanceRef.uid": "x"}, "instanceRef is immutable"),
    ("NodeInstance", {}, {"spec.powerState": "Stopped", "spec.ports": []}, None),
]


def changed(base: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """A copy of `base` with values set at dotted paths; None removes what is there."""
    result = copy.deepcopy(base)
    for path, value in changes.items():
        *above, last = path.split(".")
        target = result
        for word in above:
            target = target.setdefault(word, {})
        if value is None:
            target.pop(last, None)
        else:
            target[last] = copy.deepcopy(value)
    return result


def title(case: tuple[Any, ...]) -> str:
    return f"{case[0]}: {case[-1] or 'taken'}"[:70]


def in_default_namespace(manifest: dict[str, Any]) -> dict[str, Any]:
    if KINDS[manifest["kind"]].DEFINITION.namespaced:
        manifest["metadata"]["namespace"] = "default"
    return manifest


@pytest.mark.parametrize(("name", "changes", "sentence"), REFUSED, ids=[title(case) for case in REFUSED])
async def test_bad_input_is_refused_with_a_sentence(client: Client, name: str, changes: Changes, sentence: str) -> None:
    kind = kind_of(KINDS[name])
    manifest = in_default_namespace(changed(BASES[name], changes))
    with pytest.raises(Invalid) as refusal:
        await client.request("POST", kind.path("default"), query={"dryRun": "All"}, body=manifest)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(("name", "changes"), [case[:2] for case in ACCEPTED], ids=[title(case) for case in ACCEPTED])
async def test_good_input_is_taken(client: Client, name: str, changes: Changes) -> None:
    kind = kind_of(KINDS[name])
    manifest = in_default_namespace(changed(BASES[name], changes))
    taken = await client.request("POST", kind.path("default"), query={"dryRun": "All"}, body=manifest)
    assert KINDS[name].model_validate(taken).to_dict()["kind"] == name


@pytest.mark.parametrize(("name", "before", "after", "sentence"), CHANGED, ids=[title(case) for case in CHANGED])
async def test_what_may_change_and_what_must_not(
    client: Client, name: str, before: Changes, after: Changes, sentence: str | None
) -> None:
    kind = kind_of(KINDS[name])
    manifest = in_default_namespace(changed(BASES[name], {**before, "metadata.name": f"t-{uuid.uuid4().hex[:12]}"}))
    made = await client.create(kind, manifest)
    try:
        change = client.request(
            "PUT",
            kind.path("default", made["metadata"]["name"]),
            query={"dryRun": "All"},
            body=changed(made, after),
        )
        if sentence is None:
            await change
        else:
            with pytest.raises(Invalid) as refusal:
                await change
            assert sentence in str(refusal.value)
    finally:
        await client.delete(kind, made["metadata"]["name"], "default")

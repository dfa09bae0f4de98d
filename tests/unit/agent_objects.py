"""A work object for tests of the host agent's planners and builders."""

from __future__ import annotations

from typing import Any

from crds.node import NodeInstance

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"
PORT = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
NETWORK = "550e8400-e29b-41d4-a716-446655440000"
SUBNET = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
SHA256 = "ab" * 32


def work_object(**spec: Any) -> NodeInstance:
    """One VXLAN card, one key; `spec` replaces fields by the API's names."""
    return NodeInstance.model_validate(
        {
            "metadata": {
                "name": UID,
                "namespace": "kumulus-node-n1",
                "uid": "1",
                "generation": 3,
                "finalizers": ["node.kumulus.dev/agent"],
            },
            "spec": {
                "instanceRef": {"namespace": "acme", "name": "web-1", "uid": UID},
                "vcpus": 2,
                "memory": "512Mi",
                "rootDisk": {
                    "size": "3Gi",
                    "image": {
                        "name": "debian-12",
                        "sha256": SHA256,
                        "size": "172Mi",
                        "virtualSize": "2Gi",
                        "format": "qcow2",
                        "url": f"https://image/v1/images/{SHA256}",
                    },
                },
                "metadata": {
                    "hostname": "web-1",
                    "name": "web-1",
                    "projectID": "acme",
                    "instanceType": "m1.small",
                    "availabilityZone": "az1",
                    "keys": [{"name": "alice", "publicKey": "ssh-ed25519 AAAA alice\n"}],
                    "properties": {"role": "web"},
                },
                "ports": [port()],
                **spec,
            },
        }
    )


def port(**fields: Any) -> dict[str, Any]:
    """A card on 10.0.1.0/24 as the API writes it."""
    return {
        "name": "eth0",
        "uid": PORT,
        "portName": "web-1-eth0",
        "macAddress": "fa:16:3e:00:00:50",
        "network": {
            "uid": NETWORK,
            "name": "internal",
            "type": "VXLAN",
            "segmentationID": 10001,
            "mtu": 1450,
            "dnsDomain": "acme.example.",
        },
        "fixedIPs": [{"ip": "10.0.1.50", "subnetUID": SUBNET}],
        "subnets": [subnet()],
        "securityGroupUIDs": ["sg1"],
        **fields,
    }


def subnet(**fields: Any) -> dict[str, Any]:
    return {
        "uid": SUBNET,
        "name": "internal-v4",
        "cidr": "10.0.1.0/24",
        "gateway": "10.0.1.1",
        "dhcp": True,
        "dhcpServerIP": "10.0.1.2",
        "dhcpServerMAC": "fa:16:3e:ff:00:02",
        "dnsNameservers": ["9.9.9.9"],
        "hostRoutes": [{"destination": "10.9.0.0/16", "nextHop": "10.0.1.2"}],
        **fields,
    }

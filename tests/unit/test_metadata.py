"""What guests are told about themselves: documents of both trees, and the config drive's files."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from agent_objects import NETWORK, PORT, UID, port, subnet, work_object

from crds.node import NodePort
from hostagent.metadata import config_drive
from hostagent.metadata.facts import Guest
from hostagent.metadata.network_data import network_data
from hostagent.metadata.paths import document

GUEST = Guest(work_object(), b"#cloud-config\n")
BARE = Guest(work_object(metadata={"hostname": "h", "name": "n", "projectID": "p"}, ports=[]))


def text(path: str, guest: Guest = GUEST) -> str | None:
    found = document(guest, path)
    return None if found is None else found.content.decode()


def test_meta_data_is_nova_s() -> None:
    assert json.loads(text("/openstack/latest/meta_data.json") or "") == {
        "uuid": UID,
        "name": "web-1",
        "hostname": "web-1.acme.example",
        "launch_index": 0,
        "availability_zone": "az1",
        "project_id": "acme",
        "devices": [],
        "dedicated_cpus": [],
        "meta": {"role": "web"},
        "public_keys": {"alice": "ssh-ed25519 AAAA alice"},
        "keys": [{"name": "alice", "type": "ssh", "data": "ssh-ed25519 AAAA alice"}],
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "/",
            "1.0\n2007-01-19\n2007-03-01\n2007-08-29\n2007-10-10\n2007-12-15\n2008-02-01\n2008-09-01\n2009-04-04\nlatest",
        ),
        ("/openstack/2012-08-10", "meta_data.json\nuser_data"),
        (
            "/openstack/latest/",
            "meta_data.json\nnetwork_data.json\nuser_data\nvendor_data.json\nvendor_data2.json",
        ),
        ("/openstack/latest/user_data", "#cloud-config\n"),
        ("/openstack/latest/vendor_data2.json", "{}"),
        ("/openstack/2012-08-10/network_data.json", None),
        ("/openstack/2030-01-01/meta_data.json", None),
        ("/openstack/latest/meta_data.json/x", None),
        ("/openstack/../etc/passwd", None),
        ("/latest", "meta-data/\nuser-data"),
        ("/latest/user-data", "#cloud-config\n"),
        ("/2009-04-04/meta-data/hostname", "web-1.acme.example"),
        ("//latest//meta-data/local-ipv4", "10.0.1.50"),
        ("/latest/meta-data/placement/availability-zone", "az1"),
        ("/latest/meta-data/placement/", "availability-zone"),
        ("/latest/meta-data/public-keys/", "0=alice"),
        ("/latest/meta-data/public-keys/0/", "openssh-key"),
        ("/latest/meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA alice"),
        ("/latest/meta-data/public-keys/1/openssh-key", None),
        ("/latest/meta-data/instance-id", "i-0f8fad5bd9cb469fa"),
        ("/latest/meta-data/instance-type", "m1.small"),
        ("/latest/meta-data/hostname/x", None),
        ("/latest/secret", None),
        ("/etc/passwd", None),
    ],
)
def test_paths(path: str, expected: str | None) -> None:
    assert text(path) == expected


def test_listing_of_meta_data_names_directories() -> None:
    names = (text("/latest/meta-data/") or "").split("\n")
    assert {"hostname", "public-keys/", "placement/", "local-ipv4"} <= set(names)


def test_what_is_not_there_is_left_out() -> None:
    told = json.loads(text("/openstack/latest/meta_data.json", BARE) or "")
    assert {"meta", "keys", "public_keys", "random_seed"}.isdisjoint(told)
    assert text("/openstack/latest/user_data", BARE) is None
    assert text("/latest/user-data", BARE) is None
    assert text("/latest", BARE) == "meta-data/"
    assert text("/latest/meta-data/public-keys/", BARE) is None
    assert json.loads(text("/openstack/latest/network_data.json", BARE) or "") == {
        "links": [],
        "networks": [],
        "services": [],
    }


def ports(*described: dict[str, Any]) -> list[NodePort]:
    return [NodePort.model_validate(each) for each in described]


LINK = f"tap{PORT[:11]}"


def test_a_network_with_dhcp() -> None:
    assert network_data(ports(port())) == {
        "links": [
            {"id": LINK, "vif_id": PORT, "type": "tap", "mtu": 1450, "ethernet_mac_address": "fa:16:3e:00:00:50"}
        ],
        "networks": [{"id": "network0", "link": LINK, "network_id": NETWORK, "type": "ipv4_dhcp"}],
        "services": [{"type": "dns", "address": "9.9.9.9"}],
    }


def test_a_network_without_dhcp_is_told_in_full() -> None:
    (network,) = network_data(ports(port(subnets=[subnet(dhcp=False)])))["networks"]
    assert network == {
        "id": "network0",
        "link": LINK,
        "network_id": NETWORK,
        "type": "ipv4",
        "ip_address": "10.0.1.50",
        "netmask": "255.255.255.0",
        "routes": [
            {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.1.1"},  # noqa: S104 - the default route
            {"network": "10.9.0.0", "netmask": "255.255.0.0", "gateway": "10.0.1.2"},
        ],
        "services": [{"type": "dns", "address": "9.9.9.9"}],
    }


def test_further_addresses_of_a_card_are_static() -> None:
    six = subnet(uid="s6", cidr="fd00::/64", gateway="fd00::1", dnsNameservers=[], hostRoutes=[])
    described = port(
        fixedIPs=[
            {"ip": "10.0.1.50", "subnetUID": subnet()["uid"]},
            {"ip": "10.0.1.51", "subnetUID": subnet()["uid"]},
            {"ip": "fd00::50", "subnetUID": "s6"},
        ],
        subnets=[subnet(), six],
    )
    networks = network_data(ports(described))["networks"]
    assert [(each["type"], each.get("ip_address")) for each in networks] == [
        ("ipv4_dhcp", None),
        ("ipv4", "10.0.1.51"),
        ("ipv6", "fd00::50"),
    ]
    assert networks[2]["routes"] == [{"network": "::", "netmask": "::", "gateway": "fd00::1"}]


def test_config_drive_holds_what_the_service_tells() -> None:
    files = config_drive.tree(GUEST, os.urandom(16))
    assert set(files) == {
        f"openstack/{version}/{name}"
        for version in ("2018-08-27", "latest")
        for name in ("meta_data.json", "network_data.json", "user_data", "vendor_data.json", "vendor_data2.json")
    }
    told = json.loads(files["openstack/latest/meta_data.json"])
    assert len(base64.b64decode(told.pop("random_seed"))) == 512
    assert told == json.loads(text("/openstack/latest/meta_data.json") or "")
    assert files["openstack/latest/user_data"] == GUEST.user_data

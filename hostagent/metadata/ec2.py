"""The EC2-compatible tree: of the metadata service below /<version>/meta-data, and of the config drive.

Source: https://docs.openstack.org/nova/latest/user/metadata.html#ec2-compatible-metadata
"""

from __future__ import annotations

from ipaddress import ip_address

from hostagent.metadata.facts import Guest

Tree = dict[str, "Tree | str"]
"""Directories and values. A directory's listing names each entry, directories with a slash."""

VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "latest",
)


def meta_data(guest: Guest) -> Tree:
    """What stands below meta-data/."""
    spec = guest.work.spec
    addresses = [ip_address(fixed.ip) for port in spec.ports for fixed in port.fixed_ips]
    local = next((str(address) for address in addresses if address.version == 4), "")
    tree: Tree = {
        "ami-id": f"ami-{_short(spec.root_disk.image.sha256)}",
        "ami-launch-index": str(spec.metadata.launch_index),
        "ami-manifest-path": "",
        "block-device-mapping": {"ami": "vda", "root": "/dev/vda"},
        "hostname": guest.hostname,
        "instance-action": "none",
        "instance-id": f"i-{_short(guest.uid)}",
        "instance-type": spec.metadata.instance_type or "",
        "local-hostname": guest.hostname,
        "local-ipv4": local,
        "placement": {"availability-zone": guest.availability_zone},
        "public-hostname": guest.hostname,
        "public-ipv4": "",
        "reservation-id": f"r-{_short(guest.uid)}",
        "security-groups": "",
    }
    if guest.keys:
        keys: Tree = {str(number): {"openssh-key": key} for number, key in enumerate(guest.keys.values())}
        tree["public-keys"] = keys
    return tree


def lookup(tree: Tree, path: list[str], key_names: list[str]) -> str | None:
    """The value or listing at `path`; None when there is none. `key_names` name the entries of public-keys."""
    node: Tree | str = tree
    for part in path:
        if isinstance(node, str) or part not in node:
            return None
        node = node[part]
    if isinstance(node, str):
        return node
    if path == ["public-keys"]:
        return "\n".join(f"{number}={name}" for number, name in enumerate(key_names))
    return "\n".join(name if isinstance(value, str) else f"{name}/" for name, value in sorted(node.items()))


def _short(text: str) -> str:
    """As long as EC2's own identifiers."""
    return text.replace("-", "")[:17]

"""Mistakes that users make: what they write, what they are told, what puts it right.

In the short form of shorthand.py. `$T` is the tenant's name, `$WEB` a web server with the image `/disk`, `$KEY` a key.
"""

from __future__ import annotations

from dataclasses import dataclass

BYSTANDERS = """
Flavor $T-small: {vcpus: 1, memory: 512Mi, rootDisk: 1Gi}
KeyPair key: {publicKey: $KEY}
Image disk: {source: {url: $WEB/disk}, diskFormat: qcow2}
Network net: {}
Subnet sub: {networkRef: {name: net}, cidr: 10.1.0.0/24, allocationPools: [{start: 10.1.0.100, end: 10.1.0.200}]}
SecurityGroup web: {rules: [{name: in, direction: Ingress, protocol: tcp, portRangeMin: 80}]}
Port port: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.50}], macAddress: "fa:16:3e:00:00:50"}
Instance vm:
  flavorRef: {name: $T-small}
  imageRef: {name: disk}
  keyPairRefs: [{name: key}]
  networks: [{name: eth0, networkRef: {name: net}, securityGroupRefs: [{name: web}]}]
"""
"""Objects of other people, of every kind: no mistake of one may touch them."""


@dataclass(frozen=True)
class Refused:
    """`kubectl apply` of the mistake fails with all of `words`; `correction` is taken and becomes Ready."""

    title: str
    mistake: str
    words: tuple[str, ...]
    correction: str = ""
    given: str = ""


@dataclass(frozen=True)
class Told:
    """The mistake is taken, and `who` says in its conditions `reason`, and all of `words` in the message.

    stalled: somebody must change something; otherwise it waits for another object. given: applied before. removed:
    deleted before `correction` is applied, for what cannot be changed. goes_on: `who` was Ready before the mistake and
    keeps what it has. correction: empty if this release cannot do what is asked at all.
    """

    title: str
    mistake: str
    who: str
    reason: str
    words: tuple[str, ...]
    correction: str = ""
    given: str = ""
    removed: tuple[str, ...] = ()
    stalled: bool = True
    goes_on: bool = False


REFUSED = (
    Refused(
        "unknown field",
        "Network typo-a: {portSecurty: false}",
        ('unknown field "spec.portSecurty"',),
        "Network typo-a: {portSecurity: false}",
    ),
    Refused(
        "unknown field, deep inside",
        "Instance typo-b: {flavorRef: {name: f}, imageRef: {name: i}, networks: [{name: eth0, network: {name: net}}]}",
        ('unknown field "spec.networks[0].network"',),
    ),
    Refused(
        "CIDR with a prefix that is too long",
        "Subnet cidr-a: {networkRef: {name: net}, cidr: 10.4.0.0/33}",
        ("spec.cidr", "'10.4.0.0/33' is not a CIDR: use a form such as 10.0.1.0/24"),
    ),
    Refused(
        "CIDR with bits behind the prefix",
        "Subnet cidr-b: {networkRef: {name: net-cidr-b}, cidr: 10.4.0.9/24}",
        ("spec.cidr", "'10.4.0.9/24' has bits set behind the prefix: use '10.4.0.0/24'"),
        "Subnet cidr-b: {networkRef: {name: net-cidr-b}, cidr: 10.4.0.0/24}",
        given="Network net-cidr-b: {}",
    ),
    Refused(
        "gateway outside the subnet",
        "Subnet gateway: {networkRef: {name: net-gateway}, cidr: 10.4.0.0/24, gateway: {mode: Static, ip: 10.5.0.1}}",
        ("spec.gateway.ip", "gateway 10.5.0.1 is outside the subnet 10.4.0.0/24: choose an address in it"),
        "Subnet gateway: {networkRef: {name: net-gateway}, cidr: 10.4.0.0/24, gateway: {mode: Static, ip: 10.4.0.9}}",
        given="Network net-gateway: {}",
    ),
    Refused(
        "pool outside the subnet",
        "Subnet pool: {networkRef: {name: net}, cidr: 10.4.0.0/24,"
        " allocationPools: [{start: 10.4.0.9, end: 10.4.1.9}]}",
        ("spec.allocationPools", "must be in the subnet 10.4.0.0/24"),
    ),
    Refused(
        "no ssh key",
        "KeyPair text: {publicKey: 'alice@example.com'}",
        ("spec.publicKey", "not a public ssh key: it must be one line in OpenSSH form", "~/.ssh/id_ed25519.pub"),
        "KeyPair text: {publicKey: $KEY}",
    ),
    Refused(
        "private ssh key",
        "KeyPair private: {publicKey: '-----BEGIN OPENSSH PRIVATE KEY-----'}",
        ("spec.publicKey", "this is a private key, which must stay with you: use the .pub file"),
    ),
    Refused(
        "user-data over 64 KiB",
        "Instance long: {flavorRef: {name: $T-small}, imageRef: {name: disk}, userData: '$LONG'}",
        ("spec.userData", "user-data of 65537 bytes is too large", "compress it, or let it #include a URL"),
        "Instance long: {flavorRef: {name: $T-small}, imageRef: {name: disk}, userData: '#include http://x.org/'}",
    ),
    Refused(
        "a quantity that is none",
        "Flavor $T-gb: {vcpus: 1, memory: 1GB, rootDisk: 1Gi}",
        ("spec.memory", "'1GB' is not a quantity: it must be a number with an optional suffix"),
        "Flavor $T-gb: {vcpus: 1, memory: 1G, rootDisk: 1Gi}",
    ),
    Refused(
        "image URL that is none",
        "Image file: {source: {url: 'file:///etc/shadow'}, diskFormat: raw}",
        ("spec.source.url", "'file:///etc/shadow' is not a URL that can be fetched", "must begin with http://"),
    ),
    Refused(
        "name of the cluster's own",
        "Tenant kube-system: {}",
        ("the name 'kube-system' is reserved", "choose one that is not 'default'"),
    ),
)

# Each is a change of a bystander, and what is said to it.
IMMUTABLE = (
    (
        "Flavor $T-small: {vcpus: 2, memory: 512Mi, rootDisk: 1Gi}",
        ("spec", "the spec of a Flavor is immutable: create a new Flavor and resize instances"),
    ),
    ("KeyPair key: {publicKey: '$KEY new'}", ("spec.publicKey", "publicKey is immutable: create a new KeyPair")),
    (
        "Image disk: {source: {url: $WEB/other}, diskFormat: qcow2}",
        ("spec.source", "source is immutable: create a new Image for new bytes"),
    ),
    ("Network net: {external: true}", ("spec.external", "external is immutable: create a new Network")),
    ("Network net: {provider: {type: VXLAN}}", ("spec.provider", "provider is immutable: create a new Network")),
    (
        "Subnet sub: {networkRef: {name: net}, cidr: 10.1.0.0/16}",
        ("spec.cidr", "cidr is immutable: create a new Subnet"),
    ),
    (
        "Port port: {networkRef: {name: other}, macAddress: 'fa:16:3e:00:00:50'}",
        ("spec.networkRef", "networkRef is immutable: create a new Port on the other network"),
    ),
    (
        "Port port: {networkRef: {name: net}, macAddress: 'fa:16:3e:00:00:51'}",
        ("spec.macAddress", "macAddress is immutable: create a new Port"),
    ),
    (
        "Instance vm: {flavorRef: {name: $T-small}, imageRef: {name: other}, keyPairRefs: [{name: key}]}",
        ("spec.imageRef", "imageRef must not change while imageChangePolicy is Forbid: set it to Rebuild"),
    ),
    (
        "Instance vm: {flavorRef: {name: $T-small}, imageRef: {name: disk}, keyPairRefs: []}",
        ("spec.keyPairRefs", "keyPairRefs is immutable: a guest reads its keys at first boot; add a key in the guest"),
    ),
    (
        "Instance vm: {flavorRef: {name: $T-small}, imageRef: {name: disk}, keyPairRefs: [{name: key}], userData: x}",
        ("spec.userData", "userData is immutable: a guest reads it at first boot; create a new Instance"),
    ),
    (
        "Instance vm: {flavorRef: {name: $T-small}, imageRef: {name: disk}, keyPairRefs: [{name: key}],"
        " networks: [{name: eth0, networkRef: {name: other}}]}",
        ("spec.networks[0].networkRef", "networkRef is immutable: remove this item and add one of another name"),
    ),
)


def _vm(name: str, more: str = "", flavor: str = "$T-small", image: str = "disk") -> str:
    """An instance in short form; `more` are further fields, or others in the place of these."""
    return (
        f"Instance {name}: {{flavorRef: {{name: {flavor}}}, imageRef: {{name: {image}}}{', ' if more else ''}{more}}}"
    )


def _card(text: str) -> str:
    return f"networks: [{{name: eth0, {text}}}]"


INSTANCES = (
    Told(
        "instance without its flavor",
        _vm("no-flavor", flavor="$T-none"),
        "Instance no-flavor",
        "FlavorNotFound",
        ("Flavor $T-none does not exist or is not shared with tenant $T", "`kubectl get flavors`"),
        "Flavor $T-none: {vcpus: 1, memory: 512Mi, rootDisk: 1Gi}",
        stalled=False,
    ),
    Told(
        "instance without its image",
        _vm("no-image", image="none"),
        "Instance no-image",
        "ImageNotFound",
        ("Image none does not exist in namespace $T: create it, or change spec.imageRef",),
        "Image none: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        stalled=False,
    ),
    Told(
        "instance without its key pair",
        _vm("no-key", "keyPairRefs: [{name: none}]"),
        "Instance no-key",
        "KeyPairNotFound",
        ("KeyPair none does not exist in namespace $T: create it",),
        "KeyPair none: {publicKey: $KEY}",
        stalled=False,
    ),
    Told(
        "instance without its network",
        _vm("no-net", _card("networkRef: {name: later}")),
        "Instance no-net",
        "NetworkNotFound",
        ("Network later of card eth0 does not exist in namespace $T: create it",),
        "Network later: {}\nSubnet later: {networkRef: {name: later}, cidr: 10.4.0.0/24}",
        stalled=False,
    ),
    Told(
        "instance on a network without subnets",
        _vm("no-subnet", _card("networkRef: {name: bare-vm}")),
        "Instance no-subnet",
        "SubnetNotFound",
        ("Port no-subnet-eth0: Network bare-vm has no subnet yet: create one",),
        "Subnet bare-vm: {networkRef: {name: bare-vm}, cidr: 10.4.0.0/24}",
        given="Network bare-vm: {}",
        stalled=False,
    ),
    Told(
        "instance without its port",
        _vm("no-port", _card("portRef: {name: none}")),
        "Instance no-port",
        "PortNotFound",
        ("Port none of card eth0 does not exist in namespace $T: create it",),
        "Port none: {networkRef: {name: net}}",
        stalled=False,
    ),
    Told(
        "instance without its security group",
        _vm("no-group", _card("networkRef: {name: net}, securityGroupRefs: [{name: none-vm}]")),
        "Instance no-group",
        "SecurityGroupNotFound",
        ("SecurityGroup none-vm of card eth0 does not exist in namespace $T: create it",),
        "SecurityGroup none-vm: {rules: []}",
        stalled=False,
    ),
    Told(
        "instance without its user-data",
        _vm("no-data", "userDataSecretRef: {name: boot}"),
        "Instance no-data",
        "UserDataNotFound",
        ("Secret boot of spec.userDataSecretRef does not exist in namespace $T: create it",),
        "Secret boot: {userData: '#cloud-config'}",
        stalled=False,
    ),
    Told(
        "user-data over 64 KiB in a Secret",
        "Secret long: {userData: '$LONG'}\n" + _vm("long-secret", "userDataSecretRef: {name: long}"),
        "Instance long-secret",
        "UserDataInvalid",
        ("Secret long of spec.userDataSecretRef holds 65537 bytes", "at most 65536 bytes (64 KiB); compress it"),
    ),
    Told(
        "flavor larger than every host",
        _vm("huge", flavor="$T-huge"),
        "Instance huge",
        "FlavorTooLarge",
        ("Flavor $T-huge is larger than every host", "needs 4Ti", "choose a smaller one, or add a larger host"),
        _vm("huge"),
        given="Flavor $T-huge: {vcpus: 1, memory: 4Ti, rootDisk: 1Gi}",
    ),
    Told(
        "flavor smaller than the image",
        _vm("cramped", flavor="$T-cramped"),
        "Instance cramped",
        "FlavorTooSmall",
        (
            "Flavor $T-cramped has a root disk of 1Ki, but image disk needs 1Mi",
            "choose a flavor with a larger rootDisk",
        ),
        _vm("cramped"),
        given="Flavor $T-cramped: {vcpus: 1, memory: 512Mi, rootDisk: 1Ki}",
    ),
    Told(
        "flavor with what comes later",
        "Flavor $T-swap: {vcpus: 1, memory: 512Mi, rootDisk: 1Gi, swap: 1Gi}\n" + _vm("swap", flavor="$T-swap"),
        "Instance swap",
        "NotSupported",
        ("Flavor $T-swap: spec.swap is not supported by this release: choose a flavor without it",),
        _vm("swap"),
    ),
    Told(
        "instance whose key pair is damaged",
        "KeyPair cut-vm: {publicKey: $CUT}\n" + _vm("cut-key", "keyPairRefs: [{name: cut-vm}]"),
        "Instance cut-key",
        "KeyPairInvalid",
        ("KeyPair cut-vm is not usable: the key is cut off", "Delete it and create it with a valid key"),
        "KeyPair cut-vm: {publicKey: $KEY}",
        removed=("KeyPair cut-vm",),
    ),
    Told(
        "instance whose image failed",
        "Image broken-vm: {source: {url: $WEB/none}, diskFormat: qcow2}\n" + _vm("broken", image="broken-vm"),
        "Instance broken",
        "ImageUnusable",
        ("Image broken-vm could not be imported: read its conditions, and create it anew",),
        "Image broken-vm: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        removed=("Image broken-vm",),
    ),
    Told(
        "instance that asks for a taken address",
        _vm("taken-vm", _card("networkRef: {name: net}, fixedIP: 10.1.0.50")),
        "Instance taken-vm",
        "AddressTaken",
        ("Port taken-vm-eth0: 10.1.0.50 is held by Port port", "choose another address"),
        _vm("taken-vm", "networks: [{name: eth1, networkRef: {name: net}, fixedIP: 10.1.0.61}]"),
    ),
    Told(
        "instance with volumes",
        _vm("volumes", "volumes: [{name: data, volumeRef: {name: data}}]"),
        "Instance volumes",
        "NotSupported",
        ("spec.volumes is not supported by this release: remove the volumes",),
        _vm("volumes"),
    ),
    Told(
        "instance to be rescued",
        _vm("rescue", "rescue: {imageRef: {name: disk}}"),
        "Instance rescue",
        "NotSupported",
        ("spec.rescue is not supported by this release: remove it",),
        _vm("rescue"),
    ),
    Told(
        "instance to be paused",
        _vm("paused", "powerState: Paused"),
        "Instance paused",
        "NotSupported",
        ("spec.powerState: Paused is not supported by this release: set it to Running or Stopped",),
        _vm("paused", "powerState: Stopped"),
    ),
    Told(
        "instance in a server group",
        _vm("grouped", "serverGroupRef: {name: apart}"),
        "Instance grouped",
        "NotSupported",
        ("spec.serverGroupRef is not supported by this release: create the Instance without it",),
        _vm("grouped"),
        removed=("Instance grouped",),
    ),
    Told(
        "instance in an availability zone",
        _vm("zoned", "availabilityZone: az1"),
        "Instance zoned",
        "NotSupported",
        ("spec.availabilityZone is not supported by this release: create the Instance without it",),
        _vm("zoned"),
        removed=("Instance zoned",),
    ),
    Told(
        "running instance to be resized",
        _vm("resized", flavor="$T-large"),
        "Instance resized",
        "NotSupported",
        ("spec.flavorRef: resizing is not supported by this release: set it back to $T-small",),
        _vm("resized"),
        given=_vm("resized") + "\nFlavor $T-large: {vcpus: 2, memory: 1Gi, rootDisk: 1Gi}",
        goes_on=True,
    ),
    Told(
        "running instance to be rebuilt",
        _vm("rebuilt", "imageChangePolicy: Rebuild", image="other"),
        "Instance rebuilt",
        "NotSupported",
        ("spec.imageRef: rebuilding is not supported by this release: set it back to $T/disk",),
        _vm("rebuilt", "imageChangePolicy: Rebuild"),
        given=_vm("rebuilt", "imageChangePolicy: Rebuild"),
        goes_on=True,
    ),
    Told(
        "another card for a running instance",
        _vm("plugged", _card("networkRef: {name: net}")),
        "Instance plugged",
        "NotSupported",
        ("spec.networks: adding, removing and reordering network cards is not supported", "set them back to none"),
        _vm("plugged", "networks: []"),
        given=_vm("plugged", "networks: []"),
        goes_on=True,
    ),
)

NETWORKS = (
    Told(
        "overlapping pools",
        "Subnet pools: {networkRef: {name: n-pools}, cidr: 10.4.0.0/24, gateway: {mode: None},"
        " allocationPools: [{start: 10.4.0.40, end: 10.4.0.60}, {start: 10.4.0.10, end: 10.4.0.50}]}",
        "Subnet pools",
        "PoolsOverlap",
        ("10.4.0.10-10.4.0.50 and 10.4.0.40-10.4.0.60 overlap", "make one pool of the two"),
        "Subnet pools: {networkRef: {name: n-pools}, cidr: 10.4.0.0/24, gateway: {mode: None},"
        " allocationPools: [{start: 10.4.0.10, end: 10.4.0.60}]}",
        given="Network n-pools: {}",
    ),
    Told(
        "gateway in a pool",
        "Subnet gw-pool: {networkRef: {name: n-gw-pool}, cidr: 10.4.0.0/24,"
        " allocationPools: [{start: 10.4.0.1, end: 10.4.0.50}]}",
        "Subnet gw-pool",
        "GatewayInPool",
        ("10.4.0.1 is in pool 10.4.0.1-10.4.0.50: take it out of the pool, or set spec.gateway.mode to None",),
        "Subnet gw-pool: {networkRef: {name: n-gw-pool}, cidr: 10.4.0.0/24,"
        " allocationPools: [{start: 10.4.0.2, end: 10.4.0.50}]}",
        given="Network n-gw-pool: {}",
    ),
    Told(
        "pool with the broadcast address",
        "Subnet cast: {networkRef: {name: n-cast}, cidr: 10.4.0.0/24,"
        " allocationPools: [{start: 10.4.0.200, end: 10.4.0.255}]}",
        "Subnet cast",
        "PoolInvalid",
        ("10.4.0.200-10.4.0.255", "no host of 10.4.0.0/24 may have: stay within 10.4.0.1-10.4.0.254"),
        "Subnet cast: {networkRef: {name: n-cast}, cidr: 10.4.0.0/24}",
        given="Network n-cast: {}",
    ),
    Told(
        "gateway that is the broadcast address",
        "Subnet gw-cast: {networkRef: {name: n-gw-cast}, cidr: 10.4.0.0/24, gateway: {mode: Static, ip: 10.4.0.255}}",
        "Subnet gw-cast",
        "GatewayInvalid",
        ("10.4.0.255 is no host's address in 10.4.0.0/24: choose one from 10.4.0.1-10.4.0.254",),
        "Subnet gw-cast: {networkRef: {name: n-gw-cast}, cidr: 10.4.0.0/24, gateway: {mode: Static, ip: 10.4.0.254}}",
        given="Network n-gw-cast: {}",
    ),
    Told(
        "subnets that overlap",
        "Subnet over-b: {networkRef: {name: n-over}, cidr: 10.4.0.128/25}",
        "Subnet over-b",
        "Overlap",
        ("10.4.0.128/25 overlaps Subnet over-a (10.4.0.0/24)", "create the subnet with another cidr"),
        "Subnet over-b: {networkRef: {name: n-over}, cidr: 10.4.1.128/25}",
        given="Network n-over: {}\nSubnet over-a: {networkRef: {name: n-over}, cidr: 10.4.0.0/24}",
        removed=("Subnet over-b",),
    ),
    Told(
        "subnet without its network",
        "Subnet orphan: {networkRef: {name: n-orphan}, cidr: 10.4.0.0/24}",
        "Subnet orphan",
        "NetworkNotFound",
        ("Network n-orphan does not exist in namespace $T: create it",),
        "Network n-orphan: {}",
        stalled=False,
    ),
    Told(
        "subnet from a pool",
        "Subnet pooled: {networkRef: {name: n-pooled}, subnetPoolRef: {name: all}}",
        "Subnet pooled",
        "SubnetPoolNotSupported",
        ("SubnetPool in this release: create the subnet with a cidr",),
        "Subnet pooled: {networkRef: {name: n-pooled}, cidr: 10.4.0.0/24}",
        given="Network n-pooled: {}",
        removed=("Subnet pooled",),
    ),
    Told(
        "IPv6 on a network with small frames",
        "Subnet small: {networkRef: {name: n-small}, cidr: 'fd00:4::/64'}",
        "Subnet small",
        "MTUTooSmall",
        ("IPv6 needs an MTU of 1280", "Network n-small has 1000: raise its mtu"),
        "Network n-small: {mtu: 1400}",
        given="Network n-small: {mtu: 1000}",
    ),
    Told(
        "frames larger than the underlay's",
        "Network jumbo: {mtu: 9000}",
        "Network jumbo",
        "MTUTooLarge",
        ("spec.mtu 9000 is more than the 1450 that fit a VXLAN network here: set at most 1450",),
        "Network jumbo: {mtu: 1450}",
    ),
    Told(
        "network without its physical network",
        "Network flat: {provider: {type: Flat, physicalNetworkRef: {name: $T-wire}}}",
        "Network flat",
        "PhysicalNetworkNotFound",
        ("PhysicalNetwork $T-wire does not exist: create it",),
        "PhysicalNetwork $T-wire: {}",
        stalled=False,
    ),
    Told(
        "VNI of another network",
        "Network vni-b: {provider: {type: VXLAN, segmentationID: 1234567}}",
        "Network vni-b",
        "SegmentTaken",
        ("VNI 1234567 is held by Network vni-a", "with another segmentationID, or with none"),
        "Network vni-b: {}",
        given="Network vni-a: {provider: {type: VXLAN, segmentationID: 1234567}}",
        removed=("Network vni-b",),
    ),
    Told(
        "security group that names a missing one",
        "SecurityGroup names: {rules: [{name: in, direction: Ingress, remoteGroupRef: {name: none-sg}}]}",
        "SecurityGroup names",
        "RemoteGroupNotFound",
        ("SecurityGroup none-sg", "does not exist: create it, or change the rules"),
        "SecurityGroup none-sg: {rules: []}",
        stalled=False,
        goes_on=True,  # its other rules are in force
    ),
)

PORTS = (
    Told(
        "address already taken",
        "Port taken: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.50}]}",
        "Port taken",
        "AddressTaken",
        ("10.1.0.50 is held by Port port: choose another address",),
        "Port taken: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.51}]}",
    ),
    Told(
        "address of no subnet",
        "Port strange: {networkRef: {name: net}, fixedIPs: [{ip: 10.9.9.9}]}",
        "Port strange",
        "SubnetNotFound",
        ("No subnet of Network net holds 10.9.9.9: create one, or choose an address of one that exists",),
        "Port strange: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.52}]}",
        stalled=False,
    ),
    Told(
        "the subnet's own address",
        "Port zero: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.0}]}",
        "Port zero",
        "AddressInvalid",
        ("10.1.0.0 is no host's address in Subnet sub (10.1.0.0/24): choose one",),
        "Port zero: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.53}]}",
    ),
    Told(
        "one address twice",
        "Port twice: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.54}, {ip: 10.1.0.54}]}",
        "Port twice",
        "AddressInvalid",
        ("spec.fixedIPs names 10.1.0.54 twice: remove one of the two",),
        "Port twice: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.54}]}",
    ),
    Told(
        "MAC already taken",
        "Port mac: {networkRef: {name: net}, macAddress: 'fa:16:3e:00:00:50'}",
        "Port mac",
        "MACTaken",
        ("fa:16:3e:00:00:50 is held by Port port", "create the port with another macAddress, or with none"),
        "Port mac: {networkRef: {name: net}}",
        removed=("Port mac",),
    ),
    Told(
        "exhausted pool",
        "Port full-b: {networkRef: {name: n-full}}",
        "Port full-b",
        "NoFreeAddress",
        ("No free address is left in Subnet full (10.4.0.0/24) of Network n-full: widen its allocationPools",),
        "Subnet full: {networkRef: {name: n-full}, cidr: 10.4.0.0/24, dhcp: false,"
        " allocationPools: [{start: 10.4.0.9, end: 10.4.0.10}]}",
        given="Network n-full: {}\nSubnet full: {networkRef: {name: n-full}, cidr: 10.4.0.0/24, dhcp: false,"
        " allocationPools: [{start: 10.4.0.9, end: 10.4.0.9}]}\nPort full-a: {networkRef: {name: n-full}}",
    ),
    Told(
        "port without its network",
        "Port no-net: {networkRef: {name: n-none}}",
        "Port no-net",
        "NetworkNotFound",
        ("Network n-none does not exist in namespace $T: create it",),
        "Network n-none: {}\nSubnet n-none: {networkRef: {name: n-none}, cidr: 10.4.0.0/24}",
        stalled=False,
    ),
    Told(
        "port without its subnet",
        "Port no-sub: {networkRef: {name: n-sub}, fixedIPs: [{subnetRef: {name: s-none}}]}",
        "Port no-sub",
        "SubnetNotFound",
        ("Network n-sub has no Subnet s-none: create it, or choose one that exists",),
        "Subnet s-none: {networkRef: {name: n-sub}, cidr: 10.4.0.0/24}",
        given="Network n-sub: {}",
        stalled=False,
    ),
    Told(
        "port without its security group",
        "Port no-sg: {networkRef: {name: net}, securityGroupRefs: [{name: none-port}]}",
        "Port no-sg",
        "SecurityGroupNotFound",
        ("SecurityGroup none-port does not exist in namespace $T: create it, or take it out of securityGroupRefs",),
        "SecurityGroup none-port: {rules: []}",
        stalled=False,
        goes_on=True,  # it has its address; only that group is not in force
    ),
    Told(
        "another address for a port in use",
        "Port used: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.50}]}",
        "Port used",
        "AddressTaken",
        ("10.1.0.50 is held by Port port",),
        "Port used: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.55}]}",
        given="Port used: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.55}]}",
        goes_on=True,
    ),
)

OTHERS = (
    Told(
        "ssh key that is cut off",
        "KeyPair cut: {publicKey: $CUT}",
        "KeyPair cut",
        "InvalidKey",
        ("spec.publicKey is not usable: the key is cut off: copy the whole line", "create a new one"),
        "KeyPair cut: {publicKey: $KEY}",
        removed=("KeyPair cut",),
    ),
    Told(
        "image URL that fails",
        "Image gone: {source: {url: $WEB/none}, diskFormat: qcow2}",
        "Image gone",
        "SourceNotFound",
        ("$WEB/none answered 404", "Correct the URL"),
        "Image gone: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        removed=("Image gone",),
    ),
    *(
        Told(
            f"image URL {title}",
            f"Image {name}: {{source: {{url: '{url}'}}, diskFormat: qcow2}}",
            f"Image {name}",
            "SourceUnavailable",
            (url, *words, "trying again"),
            f"Image {name}: {{source: {{url: $WEB/disk}}, diskFormat: qcow2}}",
            removed=(f"Image {name}",),
            stalled=False,
        )
        for name, title, url, words in (
            ("closed", "that nobody listens at", "http://127.0.0.1:9/disk", ("Check the URL and the server",)),
            ("unknown", "of an unknown host", "http://images.invalid/disk", ("Check the URL and the server",)),
            (
                "forged",
                "whose server nobody vouches for",
                "$TLS/disk",
                ("TLS certificate", "together with spec.sha256"),
            ),
        )
    ),
    Told(
        "image URL that redirects to the metadata service",
        "Image ssrf: {source: {url: $WEB/redirect}, diskFormat: qcow2}",
        "Image ssrf",
        "ForbiddenAddress",
        ("169.254.169.254", "link-local", "upload the image"),
        "Image ssrf: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        removed=("Image ssrf",),
    ),
    Told(
        "image with another checksum",
        f"Image sum: {{source: {{url: $WEB/disk}}, diskFormat: qcow2, sha256: '{'0' * 64}'}}",
        "Image sum",
        "ChecksumMismatch",
        ("0" * 64, "$SUM", "spec.sha256"),
        "Image sum: {source: {url: $WEB/disk}, diskFormat: qcow2, sha256: $SUM}",
        removed=("Image sum",),
    ),
    Told(
        "image of another format",
        "Image lie: {source: {url: $WEB/disk}, diskFormat: raw}",
        "Image lie",
        "FormatMismatch",
        ("spec.diskFormat says raw", "are qcow2"),
        "Image lie: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        removed=("Image lie",),
    ),
    Told(
        "copy of a missing image",
        "Image copy: {source: {imageRef: {name: none-img}}, diskFormat: qcow2}",
        "Image copy",
        "ImageNotFound",
        ("There is no Image $T/none-img that this tenant may use. Correct spec.source.imageRef",),
        "Image none-img: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        stalled=False,
    ),
    Told(
        "image from a volume",
        "Image from-volume: {source: {volumeRef: {name: v}}, diskFormat: raw}",
        "Image from-volume",
        "NotSupported",
        ("spec.source.volumeRef is not supported in this release", "Use source.url"),
        "Image from-volume: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        removed=("Image from-volume",),
    ),
    Told(
        "tenant whose namespace is somebody's",
        "Tenant $T-taken: {}",
        "Tenant $T-taken",
        "NamespaceTaken",
        ("Namespace $T-taken exists and is not labelled kumulus.dev/tenant=$T-taken: label it",),
        "Namespace $T-taken: {kumulus.dev/tenant: $T-taken}",
        given="Namespace $T-taken: {}",
    ),
    *(
        Told(
            f"{kind}, which comes later",
            f"{kind} later: {spec}",
            f"{kind} later",
            "NotImplemented",
            (f"{kind} later: this release has no controller for {kind}", "delete it"),
        )
        for kind, spec in (
            ("Volume", "{size: 1Gi}"),
            ("Router", "{}"),
            ("FloatingIP", "{networkRef: {name: net}}"),
            ("ServerGroup", "{policy: AntiAffinity}"),
            ("InstanceAction", "{instanceRef: {name: vm}, action: Reboot}"),
        )
    ),
)

TOLD = (*INSTANCES, *NETWORKS, *PORTS, *OTHERS)

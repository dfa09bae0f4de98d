"""What the apiserver refuses, and the sentence that kubectl shows."""

from __future__ import annotations

from mistakes.row import Refused

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

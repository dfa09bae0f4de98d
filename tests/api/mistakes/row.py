"""The shapes of the tables, and the objects of other people that no mistake may touch."""

from __future__ import annotations

from dataclasses import dataclass

BYSTANDERS = """
Tenant $T: {}
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

"""Security groups and quality of service: what may pass a port, and how much of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.access import Access
from crds.markers import ListMap, Rule
from crds.meta import AGE, PHASE, READY, REASON, Column, Controller, Definition, NameRef, Resource, Status
from crds.model import Model
from crds.quantity import PositiveQuantity
from crds.types import CIDR, Label, Text
from crds.vocabulary import Direction, EtherType, Protocol

PortNumber = Annotated[int, Field(ge=0, le=65535)]

_PORTS = "['tcp', 'udp', 'sctp', 'dccp', 'udplite']"
_ICMP = "['icmp', 'icmpv6']"


class SecurityGroupRule(Model):
    """Traffic that is let through; replies to it pass too."""

    name: Label = Field(description="The rule's name in the group.")
    description: Text | None = Field(default=None, description="What the rule is for, for people.")
    direction: Direction = Field(description="Ingress: what the guest receives. Egress: what it sends.")
    ether_type: EtherType | None = Field(
        default=None, description="IPv4 or IPv6. Default: that of remoteIPPrefix or of the ICMP protocol, else both."
    )
    protocol: Protocol | None = Field(default=None, description="The IP protocol. Default: any.")
    port_range_min: PortNumber | None = Field(
        default=None, description="The first port (tcp, udp, sctp, dccp, udplite), or the ICMP type. Default: any."
    )
    port_range_max: PortNumber | None = Field(
        default=None, description="The last port, or the ICMP code. Default: portRangeMin; of ICMP: any."
    )
    remote_ip_prefix: CIDR | None = Field(
        default=None, description="The other side's addresses. Or remoteGroupRef. Default: any."
    )
    remote_group_ref: NameRef | None = Field(
        default=None, description="The security group that the other side is in. Or remoteIPPrefix."
    )

    RULES: ClassVar = (
        Rule(
            "!(has(self.remoteIPPrefix) && has(self.remoteGroupRef))",
            "rule '{self.name}' must have at most one of remoteIPPrefix and remoteGroupRef",
        ),
        Rule(
            f"(!has(self.portRangeMin) && !has(self.portRangeMax)) || (has(self.protocol)"
            f" && self.protocol in {_PORTS} + {_ICMP})",
            "rule '{self.name}' has a port range, which only goes with protocol tcp, udp, sctp, dccp, udplite, or"
            " icmp and icmpv6 (type and code): set the protocol, or remove portRangeMin and portRangeMax",
        ),
        Rule(
            "!has(self.portRangeMax) || has(self.portRangeMin)",
            "rule '{self.name}' has portRangeMax without portRangeMin: set both",
            field_path=".portRangeMin",
        ),
        Rule(
            f"!has(self.portRangeMin) || !has(self.portRangeMax) || !has(self.protocol) || self.protocol in {_ICMP}"
            " || self.portRangeMin <= self.portRangeMax",
            "rule '{self.name}': portRangeMin ({string(self.portRangeMin)}) must not be more than portRangeMax"
            " ({string(self.portRangeMax)})",
            field_path=".portRangeMin",
        ),
        Rule(
            f"!has(self.portRangeMin) || !has(self.protocol) || !(self.protocol in {_PORTS}) || self.portRangeMin >= 1",
            "rule '{self.name}': ports are from 1 to 65535",
            field_path=".portRangeMin",
        ),
        Rule(
            f"!has(self.protocol) || !(self.protocol in {_ICMP}) || ((!has(self.portRangeMin)"
            " || self.portRangeMin <= 255) && (!has(self.portRangeMax) || self.portRangeMax <= 255))",
            "rule '{self.name}': the type (portRangeMin) and code (portRangeMax) of {self.protocol} are from 0 to 255",
            field_path=".portRangeMin",
        ),
        Rule(
            "!has(self.etherType) || !has(self.remoteIPPrefix) || !isCIDR(self.remoteIPPrefix)"
            " || self.etherType == (cidr(self.remoteIPPrefix).ip().family() == 4 ? 'IPv4' : 'IPv6')",
            "rule '{self.name}': remoteIPPrefix {self.remoteIPPrefix} is not of etherType {self.etherType}",
            field_path=".etherType",
        ),
        Rule(
            "!has(self.etherType) || !has(self.protocol)"
            " || !((self.protocol == 'icmp' && self.etherType == 'IPv6')"
            " || (self.protocol == 'icmpv6' && self.etherType == 'IPv4'))",
            "rule '{self.name}': protocol {self.protocol} does not go with etherType {self.etherType}: icmp is of IPv4,"
            " icmpv6 of IPv6",
            field_path=".protocol",
        ),
        Rule(
            "!has(self.remoteIPPrefix) || !isCIDR(self.remoteIPPrefix) || !has(self.protocol)"
            " || !((self.protocol == 'icmp' && cidr(self.remoteIPPrefix).ip().family() == 6)"
            " || (self.protocol == 'icmpv6' && cidr(self.remoteIPPrefix).ip().family() == 4))",
            "rule '{self.name}': protocol {self.protocol} does not go with remoteIPPrefix {self.remoteIPPrefix}:"
            " icmp is of IPv4, icmpv6 of IPv6",
            field_path=".protocol",
        ),
    )


class SecurityGroupSpec(Model):
    """What is let through. What no rule names is dropped."""

    description: Text | None = Field(default=None, description="What the group is for, for people.")
    rules: Annotated[list[SecurityGroupRule], Field(max_length=256), ListMap("name")] = Field(
        default_factory=list, description="What is let through, in no order; stateful, so replies pass."
    )


class SecurityGroupPhase(StrEnum):
    """Where a security group is in its life."""

    PENDING = "Pending"
    ACTIVE = "Active"
    ERROR = "Error"
    DELETING = "Deleting"


class SecurityGroupStatus(Status):
    """What a security group has."""

    phase: SecurityGroupPhase = Field(default=SecurityGroupPhase.PENDING, description="Where it is in its life.")
    rules: int | None = Field(default=None, ge=0, description="Rules that it has.")


class SecurityGroup(Resource):
    """Traffic that is let through to and from the ports that name the group."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="securitygroups",
        short_names=("secgroup",),
        columns=(
            PHASE,
            READY,
            Column("Rules", ".status.rules", "Rules that it has.", type="integer"),
            Column("Description", ".spec.description", "What it is for.", wide=True),
            REASON,
            AGE,
        ),
    )

    spec: SecurityGroupSpec = Field(default=SecurityGroupSpec(), description="What is let through.")
    status: SecurityGroupStatus = Field(default_factory=SecurityGroupStatus, description="What the group has.")


class BandwidthLimit(Model):
    """The most that may pass in one direction."""

    direction: Direction = Field(description="Ingress: what the guest receives. Egress: what it sends.")
    rate: PositiveQuantity = Field(description="Bits per second.")
    burst: PositiveQuantity | None = Field(
        default=None, description="Bits that may pass at once. Default: a tenth of rate."
    )


class QoSPolicySpec(Model):
    """Limits and marks of traffic."""

    description: Text | None = Field(default=None, description="What the policy is for, for people.")
    bandwidth_limits: Annotated[list[BandwidthLimit], Field(max_length=2), ListMap("direction")] = Field(
        default_factory=list, description="The most that may pass, by direction."
    )
    dscp_mark: Annotated[int, Field(ge=0, le=56)] | None = Field(
        default=None, description="The DSCP that packets from the guest are marked with (RFC 2474)."
    )
    access: Access = Field(default=Access(), description="Who may use the policy.")


class QoSPolicy(Resource):
    """Limits and marks of the traffic of ports."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="qospolicies",
        short_names=("qos",),
        columns=(READY, Column("Description", ".spec.description", "What it is for."), REASON, AGE),
        controller=Controller.PLANNED,
    )

    spec: QoSPolicySpec = Field(default=QoSPolicySpec(), description="Limits and marks.")
    status: Status = Field(default_factory=Status, description="State of the policy.")

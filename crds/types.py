"""Strings of the API that have a form: names, addresses, checksums. Each carries the rule that the apiserver applies.

Addresses must be written canonically (RFC 5952 for IPv6, lower case for MACs), so that two spellings of one address
never meet as different values: an allocation is an object that is named after its address.
"""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from crds.markers import Atomic, ListSet, Rule

# Strings without a form, by what they hold.
Name = Annotated[str, Field(min_length=1, max_length=253)]
"""The name of another object."""
Label = Annotated[str, Field(min_length=1, max_length=63)]
"""A short word: the name of a list's item, a zone."""
UID = Annotated[str, Field(min_length=1, max_length=64)]
"""The metadata.uid of an object."""
Text = Annotated[str, Field(max_length=1024)]
"""A sentence or two for people."""
Value = Annotated[str, Field(max_length=255)]
"""The value of a property, as long as Nova and Glance allow."""
Path = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/")]
"""An absolute path."""
Properties = Annotated[dict[str, Value], Field(max_length=64)]
"""Free keys and values."""

DNSLabel = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Rule(
        "!format.dns1123Label().validate(self).hasValue()",
        "'{self}' must be at most 63 lower case letters, digits and '-', with a letter or digit at both ends",
    ),
]
"""An RFC 1123 label."""

DNSName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Rule(
        "!format.dns1123Subdomain().validate(self).hasValue()",
        "'{self}' must be a lower case DNS name, for example cloud.example.org",
    ),
]

IPAddress = Annotated[
    str,
    Field(max_length=45),
    Rule("isIP(self)", "'{self}' is not an IP address: use a form such as 10.0.1.5 or fd00::5"),
    Rule("!isIP(self) || ip.isCanonical(self)", "'{self}' must be written as '{string(ip(self))}'"),
]

CIDR = Annotated[
    str,
    Field(max_length=49),
    Rule("isCIDR(self)", "'{self}' is not a CIDR: use a form such as 10.0.1.0/24 or fd00::/64"),
    Rule(
        "!isCIDR(self) || cidr(self) == cidr(self).masked()",
        "'{self}' has bits set behind the prefix: use '{string(cidr(self).masked())}'",
    ),
    Rule(
        "!isCIDR(self) || ip.isCanonical(self.substring(0, self.indexOf('/')))",
        "'{self}' must be written as '{string(cidr(self))}'",
    ),
]

_NO_GUESTS = (
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/128", "::1/128", "fe80::/10", "ff00::/8"),
)
"""What no guest's card may have: "this" network, loopback, link-local (the metadata service's), multicast, reserved
(https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-). Of 240.0.0.0/4 each node takes addresses."""

GuestCIDR = Annotated[
    CIDR,
    Rule(
        f"!isCIDR(self) || !{json.dumps(_NO_GUESTS)}.exists(reserved,"
        " cidr(reserved).containsCIDR(cidr(self)) || cidr(self).containsCIDR(cidr(reserved)))",
        "'{self}' holds addresses that no guest may have (loopback, link-local, multicast, 0.0.0.0/8, 240.0.0.0/4):"
        " use another range, for example 10.0.1.0/24 or fd00::/64",
    ),
]
"""Addresses for guests."""

IPAddressOrCIDR = Annotated[
    str,
    Field(max_length=49),
    Rule("isIP(self) || isCIDR(self)", "'{self}' is neither an IP address nor a CIDR: use 10.0.1.99 or 10.0.2.0/28"),
    Rule("!isIP(self) || ip.isCanonical(self)", "'{self}' must be written as '{string(ip(self))}'"),
    Rule(
        "!isCIDR(self) || (cidr(self) == cidr(self).masked() && ip.isCanonical(self.substring(0, self.indexOf('/'))))",
        "'{self}' must be written as '{string(cidr(self).masked())}'",
    ),
]

_MAC = "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$"
MACAddress = Annotated[
    str,
    Field(max_length=17),
    Rule(f"self.matches('{_MAC}')", "'{self}' is not a MAC address: use lower case and colons, fa:16:3e:00:00:50"),
    Rule(
        f"!self.matches('{_MAC}') || (self.matches('^[0-9a-f][02468ace]') && self != '00:00:00:00:00:00')",
        "'{self}' must be a unicast address: its second digit must be even",
    ),
]

SHA256 = Annotated[
    str,
    Field(max_length=64),
    Rule(
        "self.matches('^[0-9a-f]{64}$')",
        "'{self}' is not a SHA-256 checksum: it must be 64 lower case hexadecimal digits",
    ),
]

HTTPURL = Annotated[
    str,
    Field(max_length=2048),
    Rule(
        "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",
        "'{self}' is not a URL that can be fetched: it must begin with http:// or https:// and name a host",
    ),
]

NodeName = Annotated[str, Field(min_length=1, max_length=63)]
"""The name of a node, as of its Hypervisor."""

Percentage = Annotated[int, Field(ge=0, le=100)]
VLAN = Annotated[int, Field(ge=1, le=4094)]
MTU = Annotated[int, Field(ge=576, le=9216)]

TenantNames = Annotated[list[Label], Field(max_length=256), ListSet()]
IPAddresses = Annotated[list[IPAddress], Field(max_length=64), Atomic()]

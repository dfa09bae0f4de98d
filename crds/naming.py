"""From Python's field names to those of the API: camelCase with Go's capital initialisms.

`network_ref` is `networkRef`, `fixed_ips` is `fixedIPs`, `remote_ip_prefix` is `remoteIPPrefix`. The first word is
always lower case, as the Kubernetes API conventions ask: `mac_address` is `macAddress`, `ip` is `ip`.
"""

from __future__ import annotations

# Words that are written in capitals wherever they do not come first.
_INITIALISMS = {
    "id": "ID",
    "ids": "IDs",
    "uid": "UID",
    "uids": "UIDs",
    "ip": "IP",
    "ips": "IPs",
    "mac": "MAC",
    "cidr": "CIDR",
    "url": "URL",
    "iops": "IOPS",
    "mtu": "MTU",
    "snat": "SNAT",
}


def api_name(field: str) -> str:
    """The API's name of a model's field, for example `segmentationID` of `segmentation_id`."""
    first, *rest = field.split("_")
    return first + "".join(_INITIALISMS.get(word, word.capitalize()) for word in rest)

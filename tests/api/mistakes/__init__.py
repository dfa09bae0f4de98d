"""Mistakes that users make: what they write, what they are told, what puts it right.

In the short form of shorthand.py. `$T` is the tenant's name, `$WEB` a web server with the image `/disk`, `$KEY` a key.
"""

from mistakes.instances import INSTANCES
from mistakes.networks import NETWORKS, PORTS
from mistakes.others import OTHERS
from mistakes.refused import IMMUTABLE, REFUSED
from mistakes.row import BYSTANDERS, Refused, Told

__all__ = ["BYSTANDERS", "IMMUTABLE", "REFUSED", "TOLD", "Refused", "Told"]

TOLD = (*INSTANCES, *NETWORKS, *PORTS, *OTHERS)

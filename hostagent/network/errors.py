"""What callers of the data plane have to tell apart."""

from __future__ import annotations


class DataPlaneError(Exception):
    """Something on this node prevents it; the message says what and what to do."""


class NotProgrammed(DataPlaneError):
    """The port's rules are not in the kernel: reconcile first, with the port in the desired state."""


class TapMissing(DataPlaneError):
    """There is no such tap, neither in the host's namespace nor in the data plane's."""


class TapInUse(DataPlaneError):
    """A process holds the tap: the guest runs."""


class NicInUse(DataPlaneError):
    """The NIC of a physical network cannot be taken, since the host itself uses it."""

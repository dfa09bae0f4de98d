"""Why a step on this node failed, as the user is told."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The reasons of a NodeInstance's conditions and status."""

    REALISED = "Realised"
    BUILDING = "Building"
    DOWNLOADING = "Downloading"
    DELETING = "Deleting"
    SHUTTING_DOWN = "ShuttingDown"
    GUEST_STOPPED = "GuestStopped"
    GUEST_CRASHED = "GuestCrashed"
    RESTART_BACK_OFF = "RestartBackOff"
    DISK_IO_ERROR = "DiskIOError"
    POWER_STATE_UNSUPPORTED = "PowerStateUnsupported"
    IMAGE_UNREACHABLE = "ImageUnreachable"
    IMAGE_REFUSED = "ImageRefused"
    IMAGE_CORRUPT = "ImageCorrupt"
    DISK_FULL = "DiskFull"
    DISK_FAILED = "DiskFailed"
    ROOT_DISK_LOST = "RootDiskLost"
    CONFIG_DRIVE_FAILED = "ConfigDriveFailed"
    USER_DATA_MISSING = "UserDataMissing"
    INVALID_WORK_OBJECT = "InvalidWorkObject"
    NETWORK_FAILED = "NetworkFailed"
    HYPERVISOR_FAILED = "HypervisorFailed"
    HYPERVISOR_UNAVAILABLE = "HypervisorUnavailable"
    INTERNAL_ERROR = "InternalError"


class NodeError(Exception):
    """A step failed. `reason` is for programs; the message says what happened and, where one can know, what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

"""Why conditions of the compute kinds are as they are."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The reasons in conditions of Instances, Flavors, KeyPairs and Hypervisors."""

    # All is well.
    READY = "Ready"
    VALID = "Valid"
    SCHEDULED = "Scheduled"
    CONNECTED = "Connected"
    NO_VOLUMES = "NoVolumes"
    RUNNING = "Running"
    STOPPED = "Stopped"
    RENEWED = "LeaseRenewed"

    # Work goes on.
    PENDING = "Pending"
    BUILDING = "Building"
    DOWNLOADING = "Downloading"
    APPLYING = "Applying"
    STARTING = "Starting"
    STOPPING = "Stopping"
    DELETING = "Deleting"

    # Something else must come first.
    FLAVOR_NOT_FOUND = "FlavorNotFound"
    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_NOT_ACTIVE = "ImageNotActive"
    KEY_PAIR_NOT_FOUND = "KeyPairNotFound"
    NETWORK_NOT_FOUND = "NetworkNotFound"
    NETWORK_NOT_READY = "NetworkNotReady"
    SECURITY_GROUP_NOT_FOUND = "SecurityGroupNotFound"
    PORT_NOT_FOUND = "PortNotFound"
    PORT_NOT_READY = "PortNotReady"
    PORT_IN_USE = "PortInUse"
    PORT_NAME_TAKEN = "PortNameTaken"
    USER_DATA_NOT_FOUND = "UserDataNotFound"
    TENANT_DISABLED = "TenantDisabled"
    NO_VALID_HOST = "NoValidHost"
    NODE_UNREACHABLE = "NodeUnreachable"
    AGENT_NOT_SEEN = "AgentNotSeen"
    AGENT_SILENT = "AgentSilent"

    # The user must change something.
    NOT_SUPPORTED = "NotSupported"
    INVALID_KEY = "InvalidKey"
    KEY_PAIR_INVALID = "KeyPairInvalid"
    USER_DATA_INVALID = "UserDataInvalid"
    FLAVOR_TOO_SMALL = "FlavorTooSmall"
    FLAVOR_TOO_LARGE = "FlavorTooLarge"
    IMAGE_UNUSABLE = "ImageUnusable"
    REFUSED_BY_API = "RefusedByAPI"

    # The guest.
    GUEST_STOPPED = "GuestStopped"
    GUEST_CRASHED = "GuestCrashed"
    NODE_ERROR = "NodeError"

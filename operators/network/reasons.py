"""Why an object of the network domain is as it is: the words in its conditions, for programs."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One word for each sentence."""

    # Networks
    SEGMENT_ALLOCATED = "SegmentAllocated"
    SEGMENT_TAKEN = "SegmentTaken"
    NO_FREE_SEGMENT = "NoFreeSegment"
    PHYSICAL_NETWORK_NOT_FOUND = "PhysicalNetworkNotFound"
    MTU_TOO_LARGE = "MTUTooLarge"

    # Subnets
    ADDRESSES_READY = "AddressesReady"
    SUBNET_POOL_NOT_SUPPORTED = "SubnetPoolNotSupported"
    OVERLAP = "Overlap"
    POOL_INVALID = "PoolInvalid"
    POOLS_OVERLAP = "PoolsOverlap"
    GATEWAY_INVALID = "GatewayInvalid"
    GATEWAY_IN_POOL = "GatewayInPool"
    GATEWAY_TAKEN = "GatewayTaken"
    MTU_TOO_SMALL = "MTUTooSmall"

    # References
    NETWORK_NOT_FOUND = "NetworkNotFound"
    NETWORK_NOT_READY = "NetworkNotReady"
    SUBNET_NOT_FOUND = "SubnetNotFound"
    SUBNET_NOT_READY = "SubnetNotReady"
    SECURITY_GROUP_NOT_FOUND = "SecurityGroupNotFound"

    # Addresses
    ADDRESS_TAKEN = "AddressTaken"
    ADDRESS_INVALID = "AddressInvalid"
    MAC_TAKEN = "MACTaken"
    NO_FREE_ADDRESS = "NoFreeAddress"
    IN_USE_BY_INSTANCE = "InUseByInstance"
    CURRENT = "Current"

    # Ports
    ALLOCATED = "Allocated"
    BINDING = "Binding"
    BOUND = "Bound"
    INACTIVE = "Inactive"
    BINDING_FAILED = "BindingFailed"

    # Security groups
    RULES_APPLIED = "RulesApplied"
    REMOTE_GROUP_NOT_FOUND = "RemoteGroupNotFound"
    RESOLVED = "Resolved"

    # Physical networks
    ON_NODES = "OnNodes"
    ON_NO_NODE = "OnNoNode"

    # Deletion
    IN_USE = "InUse"
    DELETING = "Deleting"

"""Why an image is not usable (yet): one enumeration, one exception."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The reasons of an Image's conditions."""

    ACTIVE = "Active"
    DEACTIVATED = "Deactivated"
    WAITING_FOR_TURN = "WaitingForTurn"
    SAVING = "Saving"
    IMPORTING = "Importing"
    AWAITING_UPLOAD = "AwaitingUpload"
    PROTECTED = "Protected"

    NOT_SUPPORTED = "NotSupported"
    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_NOT_ACTIVE = "ImageNotActive"

    FORBIDDEN_ADDRESS = "ForbiddenAddress"
    SOURCE_NOT_FOUND = "SourceNotFound"
    SOURCE_REFUSED = "SourceRefused"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    SOURCE_TRUNCATED = "SourceTruncated"
    BAD_REDIRECT = "BadRedirect"
    UPLOAD_INCOMPLETE = "UploadIncomplete"

    TOO_LARGE = "TooLarge"
    VIRTUAL_SIZE_TOO_LARGE = "VirtualSizeTooLarge"
    EXPANDS_BEYOND_LIMIT = "ExpandsBeyondLimit"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    FORMAT_MISMATCH = "FormatMismatch"
    UNSUPPORTED_FORMAT = "UnsupportedFormat"
    UNSUPPORTED_FEATURE = "UnsupportedFeature"
    BACKING_FILE = "BackingFile"
    EXTERNAL_FILE = "ExternalFile"
    ENCRYPTED = "Encrypted"
    CORRUPT = "Corrupt"
    INSPECTION_LIMIT = "InspectionLimit"

    SANDBOX_UNAVAILABLE = "SandboxUnavailable"
    STORE_FULL = "StoreFull"
    STORE_FAILED = "StoreFailed"
    STORE_LOST = "StoreLost"
    INTERNAL_ERROR = "InternalError"


class ImportFailure(Exception):
    """An import that did not end well. `message` is a sentence with its remedy, free of secrets.

    `permanent`: the same source will fail again, so the user must act; otherwise it is tried again with back-off.
    """

    def __init__(self, reason: Reason, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.permanent = permanent


def refused(reason: Reason, message: str) -> ImportFailure:
    """A failure that stays one until the user acts."""
    return ImportFailure(reason, message, permanent=True)


def transient(reason: Reason, message: str) -> ImportFailure:
    """A failure that may pass by itself."""
    return ImportFailure(reason, message, permanent=False)

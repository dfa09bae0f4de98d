"""What is to be done for an Image and what its status is to say: a pure function of what is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from crds.conditions import ConditionStatus, set_condition
from crds.image import Image, ImagePhase, ImageStatus
from crds.meta import NameRef
from crds.quantity import Quantity
from operators.access import may_use
from operators.image.failure import Reason
from operators.image.model import Done, Failed, ImportRequest, Job, Running, Stage, StoredImage
from operators.verdict import STALLED, Verdict, ready, stalled, summarized, waiting
from runtime.cache import Key

_OFFER_AGAIN = 60.0
"""Seconds; a Secret that somebody deleted is made anew, with another token."""


class Step(StrEnum):
    """What the executor does, beside writing the status."""

    OFFER_UPLOAD = "OfferUpload"
    """Make the Secret with the upload's URL and take uploads."""
    END_UPLOAD = "EndUpload"
    """Take no more uploads and delete the Secret."""
    START = "Start"
    """Start the import."""
    SETTLE = "Settle"
    """Forget the finished import: the status, once written, has all of it."""


@dataclass(frozen=True)
class Observed:
    """What the planner needs to know beside the Image.

    stored: whether the blob of the status is in the store; None if the store is not open (yet).
    arrived: whether an upload's bytes have come.
    original: the Image that spec.source.imageRef names, if it exists.
    trouble: why the store cannot be used, if so.
    """

    job: Job | None = None
    stored: bool | None = None
    arrived: bool = False
    original: Image | None = None
    trouble: str | None = None


@dataclass(frozen=True)
class Plan:
    """`steps` in their order; `again` in so many seconds."""

    status: ImageStatus
    steps: tuple[Step, ...] = ()
    again: float | None = None


def upload_secret_name(image: Image) -> str:
    """The name holds a part of the UID, so that it is never that of a user's, or of a former Image's Secret."""
    return f"{image.metadata.name[:230]}-upload-{image.metadata.uid[:8]}"


def request_of(image: Image) -> ImportRequest:
    """The import that makes the Image. Bytes that were stored once and got lost must be the same again."""
    return ImportRequest(
        key=Key(image.metadata.namespace or "", image.metadata.name),
        uid=image.metadata.uid,
        generation=image.metadata.generation or 0,
        url=image.spec.source.url,
        declared=image.spec.disk_format,
        sha256=image.spec.sha256 or image.status.sha256,
    )


def plan(image: Image, observed: Observed, service_url: str, now: datetime) -> Plan:
    """The plan for an Image that is not being deleted."""
    unsupported = _unsupported(image)
    if unsupported:
        return Plan(_status(image, now, ImagePhase.ERROR, stalled(Reason.NOT_SUPPORTED, unsupported)))
    if image.status.stored_sha256 is not None and observed.stored is not False:
        return _settled(image, image.status, observed, now)
    if isinstance(observed.job, Done):
        return _settled(image, _with(image.status, observed.job.stored, service_url), observed, now)
    if image.spec.source.image_ref is not None:
        return _copied(image, observed.original, now)
    return _importing(image, observed, now)


def plan_deletion(image: Image, now: datetime) -> ImageStatus | None:
    """What the status of a protected Image says while its deletion waits; None when it may go."""
    if not image.spec.protected:
        return None
    generation = image.metadata.generation
    conditions = set_condition(
        image.status.conditions,
        STALLED,
        ConditionStatus.TRUE,
        Reason.PROTECTED,
        "The image is to be deleted but protected. Set spec.protected to false to let it go.",
        generation,
        now,
    )
    return image.status.model_copy(update={"conditions": conditions, "observed_generation": generation})


def _unsupported(image: Image) -> str | None:
    source = image.spec.source
    remedy = "Use source.url, source.upload or source.imageRef."
    if source.instance_ref is not None:
        return f"spec.source.instanceRef is not supported in this release. {remedy}"
    if source.volume_ref is not None:
        return f"spec.source.volumeRef is not supported in this release. {remedy}"
    if image.spec.store_ref is not None:
        return "spec.storeRef is not supported in this release, which has one store. Leave it out."
    return None


def _with(status: ImageStatus, stored: StoredImage, service_url: str) -> ImageStatus:
    return status.model_copy(
        update={
            "size": Quantity(stored.size),
            "virtual_size": Quantity(stored.virtual_size),
            "sha256": stored.sha256,
            "stored_sha256": stored.stored_sha256,
            "detected_format": stored.format,
            "url": f"{service_url.rstrip('/')}/v1/images/{stored.stored_sha256}",
        }
    )


def _settled(image: Image, facts: ImageStatus, observed: Observed, now: datetime) -> Plan:
    """The bytes are in the store, and `facts` tells of them."""
    steps = [Step.END_UPLOAD] if image.spec.source.upload is not None and image.status.upload_secret_ref else []
    if observed.job is not None:
        steps.append(Step.SETTLE)
    base = image.model_copy(update={"status": facts.model_copy(update={"upload_secret_ref": None})})
    wanted = image.spec.sha256
    if wanted is not None and wanted != facts.sha256:
        message = f"The bytes have SHA-256 {facts.sha256}, not {wanted} as spec.sha256 says. Create a new Image."
        status = _status(base, now, ImagePhase.ERROR, stalled(Reason.CHECKSUM_MISMATCH, message))
    elif image.spec.deactivated:
        message = "The image is withheld from new instances. Set spec.deactivated to false to offer it again."
        status = _status(base, now, ImagePhase.DEACTIVATED, ready(Reason.DEACTIVATED, message), 100)
    else:
        message = "The image can be used."
        status = _status(base, now, ImagePhase.ACTIVE, ready(Reason.ACTIVE, message), 100)
    return Plan(status, tuple(steps))


def _importing(image: Image, observed: Observed, now: datetime) -> Plan:
    base = image.model_copy(update={"status": _without_stored(image.status)})
    upload = image.spec.source.upload is not None
    job = observed.job
    if isinstance(job, Running):
        return Plan(_running(base, job, observed.trouble, now))
    if isinstance(job, Failed):
        if upload and not observed.arrived:
            return _upload_again(base, job, now)
        if job.retry_at is not None:
            return _retrying(base, job, now)
        if job.generation < (image.metadata.generation or 0):
            return _started(base, observed.trouble, now)
        message = f"{job.message} A change of this Image's spec, as of its description, tries the same source again."
        return Plan(_status(base, now, ImagePhase.ERROR, stalled(job.reason, message)))
    if upload and not observed.arrived:
        return _awaiting_upload(base, now)
    if not upload and _stays_in_error(image):
        return Plan(image.status)
    return _started(base, observed.trouble, now)


def _stays_in_error(image: Image) -> bool:
    """An import that failed for good is not tried again by a restart of the operator, but by a change of the spec."""
    status = image.status
    return status.phase == ImagePhase.ERROR and status.observed_generation == image.metadata.generation


def _started(image: Image, trouble: str | None, now: datetime) -> Plan:
    return Plan(_running(image, Running(Stage.QUEUED), trouble, now), (Step.START,))


def _retrying(image: Image, job: Failed, now: datetime) -> Plan:
    if job.retry_at is None or now >= job.retry_at:
        steps: tuple[Step, ...] = (Step.START,)
        again = None
    else:
        steps, again = (), (job.retry_at - now).total_seconds()
    message = f"{job.message} Failed {job.failures} time{'s' if job.failures > 1 else ''}, trying again."
    status = _status(image, now, ImagePhase.QUEUED, waiting(job.reason, message))
    return Plan(status, steps, again)


def _awaiting_upload(image: Image, now: datetime) -> Plan:
    name = upload_secret_name(image)
    message = f"PUT the bytes to the URL in key url of Secret {name}, for example with curl -T."
    verdict = waiting(Reason.AWAITING_UPLOAD, f"Waits for the image's bytes. {message}")
    if image.status.sha256 is not None:
        verdict = waiting(Reason.STORE_LOST, f"The image's bytes are not in the store any more. {message}")
    status = _status(image, now, ImagePhase.QUEUED, verdict)
    return Plan(_offering(status, image), (Step.OFFER_UPLOAD,), _OFFER_AGAIN)


def _upload_again(image: Image, job: Failed, now: datetime) -> Plan:
    message = f"{job.message} The URL in Secret {upload_secret_name(image)} takes another upload."
    if job.retry_at is not None:
        status = _status(image, now, ImagePhase.QUEUED, waiting(job.reason, message))
    else:
        status = _status(image, now, ImagePhase.ERROR, stalled(job.reason, message))
    return Plan(_offering(status, image), (Step.OFFER_UPLOAD,), _OFFER_AGAIN)


def _offering(status: ImageStatus, image: Image) -> ImageStatus:
    return status.model_copy(update={"upload_secret_ref": NameRef(name=upload_secret_name(image))})


def _running(image: Image, job: Running, trouble: str | None, now: datetime) -> ImageStatus:
    if job.stage == Stage.SAVING:
        text = "The bytes are being received."
        return _status(image, now, ImagePhase.SAVING, waiting(Reason.SAVING, text), job.percent)
    if job.stage == Stage.IMPORTING:
        text = "The bytes are being inspected and converted."
        return _status(image, now, ImagePhase.IMPORTING, waiting(Reason.IMPORTING, text), job.percent)
    if trouble is not None:
        return _status(image, now, ImagePhase.QUEUED, waiting(Reason.STORE_FAILED, trouble))
    text = "Waits until one of the imports that run has ended."
    return _status(image, now, ImagePhase.QUEUED, waiting(Reason.WAITING_FOR_TURN, text))


def _copied(image: Image, original: Image | None, now: datetime) -> Plan:
    """A copy of an Image shares its blob, so there is nothing to do but to check that it may."""
    ref = image.spec.source.image_ref
    name = f"{ref.namespace or image.metadata.namespace}/{ref.name}" if ref is not None else ""
    base = image.model_copy(update={"status": _without_stored(image.status)})
    # Whether an Image that is not shared exists is not told.
    tenant = image.metadata.namespace or ""
    if original is None or not may_use(original.spec.access, original.metadata.namespace, tenant):
        text = f"There is no Image {name} that this tenant may use. Correct spec.source.imageRef, or have it shared."
        return Plan(_status(base, now, ImagePhase.QUEUED, waiting(Reason.IMAGE_NOT_FOUND, text)))
    facts = original.status
    if facts.phase != ImagePhase.ACTIVE or facts.stored_sha256 is None:
        text = f"Image {name} is {facts.phase}. The copy is made when it is Active."
        return Plan(_status(base, now, ImagePhase.QUEUED, waiting(Reason.IMAGE_NOT_ACTIVE, text)))
    if image.spec.disk_format != original.spec.disk_format:
        text = (
            f"spec.diskFormat says {image.spec.disk_format}, but Image {name} is {original.spec.disk_format}."
            f" Create a new Image with diskFormat {original.spec.disk_format}."
        )
        return Plan(_status(base, now, ImagePhase.ERROR, stalled(Reason.FORMAT_MISMATCH, text)))
    same = ("size", "virtual_size", "sha256", "stored_sha256", "detected_format", "url")
    return _settled(
        image, image.status.model_copy(update={field: getattr(facts, field) for field in same}), Observed(), now
    )


def _without_stored(status: ImageStatus) -> ImageStatus:
    """What is told of bytes that are (no longer) there; the checksum that they had stays, as the next must have it."""
    gone = dict.fromkeys(("size", "virtual_size", "stored_sha256", "detected_format", "url"))
    return status.model_copy(update=gone)


def _status(
    image: Image, now: datetime, phase: ImagePhase, verdict: Verdict, percent: int | None = None
) -> ImageStatus:
    return image.status.model_copy(
        update={
            "phase": phase,
            "progress": percent,
            "conditions": summarized(image.status.conditions, verdict, image.metadata.generation, now),
            "observed_generation": image.metadata.generation,
        }
    )

"""What the planner makes of an Image and of what is known of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crds.conditions import find_condition, is_true
from crds.image import Image, ImagePhase, ImageStatus
from crds.vocabulary import DiskFormat
from operators.image.collect import plan_sweep
from operators.image.failure import Reason
from operators.image.model import Done, Failed, Running, Stage, StoredImage
from operators.image.plan import Observed, Plan, Step, plan, plan_deletion, request_of, upload_secret_name

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SERVICE = "https://image.example:8774"
SOURCE_SHA, STORED_SHA = "a" * 64, "b" * 64
STORED = StoredImage(SOURCE_SHA, STORED_SHA, 1000, 5 << 20, DiskFormat.VMDK)
URL = {"url": "https://example.org/image"}


def image(source: dict[str, Any] = URL, *, namespace: str = "acme", generation: int = 1, **spec: Any) -> Image:
    return Image.model_validate(
        {
            "metadata": {"name": "debian", "namespace": namespace, "uid": "0123456789", "generation": generation},
            "spec": {"source": source, "diskFormat": "vmdk", **spec},
        }
    )


def with_status(of: Image, status: ImageStatus) -> Image:
    return of.model_copy(update={"status": status})


def decide(of: Image, **observed: Any) -> Plan:
    return plan(of, Observed(**observed), SERVICE, NOW)


def active(of: Image | None = None) -> Image:
    of = of or image()
    return with_status(of, decide(of, job=Done(STORED)).status)


def ready(of: Plan) -> tuple[bool, str]:
    condition = find_condition(of.status.conditions, "Ready")
    assert condition is not None
    assert of.status.observed_generation == condition.observed_generation
    assert (
        is_true(of.status.conditions, "Ready")
        + is_true(of.status.conditions, "Reconciling")
        + is_true(of.status.conditions, "Stalled")
        == 1
    )
    return condition.status == "True", condition.reason


def failed(reason: Reason = Reason.CORRUPT, *, generation: int = 1, retry_in: float | None = None) -> Failed:
    retry_at = None if retry_in is None else NOW + timedelta(seconds=retry_in)
    return Failed(reason, "It went wrong.", generation, 2, retry_at)


def test_a_new_image_is_queued_and_started() -> None:
    decided = decide(image())
    assert decided.steps == (Step.START,)
    assert decided.status.phase == ImagePhase.QUEUED
    assert ready(decided) == (False, Reason.WAITING_FOR_TURN)


@pytest.mark.parametrize(
    ("job", "phase", "reason", "percent"),
    [
        (Running(Stage.QUEUED), ImagePhase.QUEUED, Reason.WAITING_FOR_TURN, None),
        (Running(Stage.SAVING, 35), ImagePhase.SAVING, Reason.SAVING, 35),
        (Running(Stage.IMPORTING, 60), ImagePhase.IMPORTING, Reason.IMPORTING, 60),
    ],
)
def test_a_running_import_is_told(job: Running, phase: ImagePhase, reason: Reason, percent: int | None) -> None:
    decided = decide(image(), job=job)
    assert decided.steps == ()
    assert (decided.status.phase, decided.status.progress) == (phase, percent)
    assert ready(decided) == (False, reason)


def test_a_finished_import_becomes_active_and_is_settled() -> None:
    decided = decide(image(), job=Done(STORED))
    status = decided.status
    assert decided.steps == (Step.SETTLE,)
    assert (status.phase, status.progress, status.size, status.virtual_size) == (ImagePhase.ACTIVE, 100, 1000, 5 << 20)
    assert (status.sha256, status.stored_sha256) == (SOURCE_SHA, STORED_SHA)
    assert status.detected_format == DiskFormat.VMDK
    assert status.url == f"{SERVICE}/v1/images/{STORED_SHA}"
    assert ready(decided) == (True, Reason.ACTIVE)


@pytest.mark.parametrize("stored", [True, None])
def test_an_active_image_stays_as_it_is(stored: bool | None) -> None:
    settled = active()
    decided = plan(settled, Observed(stored=stored), SERVICE, NOW + timedelta(hours=1))
    assert decided == Plan(settled.status)


def test_deactivation_and_back() -> None:
    settled = active()
    withheld = settled.model_copy(update={"spec": image(deactivated=True).spec})
    decided = decide(withheld, stored=True)
    assert decided.status.phase == ImagePhase.DEACTIVATED
    assert ready(decided) == (True, Reason.DEACTIVATED)
    again = with_status(settled, decided.status)
    assert decide(again, stored=True).status == settled.status


def test_a_checksum_that_is_set_later_is_compared() -> None:
    settled = active()
    wrong = settled.model_copy(update={"spec": image(sha256="c" * 64).spec})
    decided = decide(wrong, stored=True)
    assert decided.status.phase == ImagePhase.ERROR
    assert ready(decided) == (False, Reason.CHECKSUM_MISMATCH)
    assert decided.status.stored_sha256 == STORED_SHA
    right = settled.model_copy(update={"spec": image(sha256=SOURCE_SHA).spec})
    assert decide(with_status(right, decided.status), stored=True).status.phase == ImagePhase.ACTIVE


def test_bytes_that_the_store_lost_are_fetched_again_and_must_be_the_same() -> None:
    decided = decide(active(), stored=False)
    assert decided.steps == (Step.START,)
    status = decided.status
    assert (status.stored_sha256, status.url, status.size) == (None, None, None)
    assert ready(decided) == (False, Reason.WAITING_FOR_TURN)
    assert request_of(with_status(image(), status)).sha256 == SOURCE_SHA


def test_a_failure_for_good_stalls_and_outlives_a_restart() -> None:
    decided = decide(image(), job=failed())
    assert decided.steps == ()
    assert decided.again is None
    assert decided.status.phase == ImagePhase.ERROR
    assert ready(decided) == (False, Reason.CORRUPT)
    assert is_true(decided.status.conditions, "Stalled")
    later = with_status(image(), decided.status)
    assert decide(later) == Plan(decided.status)


def test_a_change_of_the_spec_tries_again() -> None:
    before = decide(image(), job=failed())
    changed = with_status(image(generation=2), before.status)
    for job in (failed(generation=1), None):
        decided = decide(changed, job=job)
        assert decided.steps == (Step.START,)
        assert ready(decided) == (False, Reason.WAITING_FOR_TURN)
    assert decide(changed, job=failed(generation=2)).steps == ()


def test_a_failure_that_may_pass_is_tried_again_in_its_time() -> None:
    waiting = decide(image(), job=failed(Reason.SOURCE_UNAVAILABLE, retry_in=8))
    assert (waiting.steps, waiting.again) == ((), 8)
    assert waiting.status.phase == ImagePhase.QUEUED
    assert ready(waiting) == (False, Reason.SOURCE_UNAVAILABLE)
    assert "Failed 2 times" in waiting.status.conditions[0].message
    assert is_true(waiting.status.conditions, "Reconciling")
    assert decide(image(), job=failed(Reason.SOURCE_UNAVAILABLE, retry_in=0)).steps == (Step.START,)


def test_a_store_that_cannot_be_opened_is_told() -> None:
    decided = decide(image(), trouble="The image store cannot be opened.")
    assert ready(decided) == (False, Reason.STORE_FAILED)


def test_an_upload_is_offered_until_its_bytes_come() -> None:
    uploaded = image({"upload": {}})
    decided = decide(uploaded)
    assert decided.steps == (Step.OFFER_UPLOAD,)
    assert decided.status.upload_secret_ref is not None
    assert decided.status.upload_secret_ref.name == upload_secret_name(uploaded) == "debian-upload-01234567"
    assert ready(decided) == (False, Reason.AWAITING_UPLOAD)
    offered = with_status(uploaded, decided.status)
    assert decide(offered, job=Running(Stage.SAVING, 5)).status.upload_secret_ref is not None
    assert decide(offered, arrived=True).steps == (Step.START,)
    done = decide(offered, arrived=True, job=Done(STORED))
    assert done.steps == (Step.END_UPLOAD, Step.SETTLE)
    assert done.status.upload_secret_ref is None


@pytest.mark.parametrize(("job", "stalled"), [(failed(), True), (failed(Reason.UPLOAD_INCOMPLETE, retry_in=60), False)])
def test_an_upload_that_was_refused_may_be_repeated(job: Failed, stalled: bool) -> None:
    decided = decide(image({"upload": {}}), job=job)
    assert decided.steps == (Step.OFFER_UPLOAD,)
    assert ready(decided) == (False, job.reason)
    assert is_true(decided.status.conditions, "Stalled") is stalled
    assert "takes another upload" in decided.status.conditions[0].message
    # Also by an operator that was restarted meanwhile.
    assert decide(with_status(image({"upload": {}}), decided.status)).steps == (Step.OFFER_UPLOAD,)


def test_an_upload_that_waits_for_the_sandbox_is_tried_again() -> None:
    decided = decide(image({"upload": {}}), arrived=True, job=failed(Reason.SANDBOX_UNAVAILABLE, retry_in=0))
    assert decided.steps == (Step.START,)


def test_uploaded_bytes_that_the_store_lost_are_awaited_again() -> None:
    decided = decide(active(image({"upload": {}})), stored=False)
    assert decided.steps == (Step.OFFER_UPLOAD,)
    assert ready(decided) == (False, Reason.STORE_LOST)


@pytest.mark.parametrize(
    ("source", "spec", "field"),
    [
        ({"instanceRef": {"name": "web"}}, {}, "spec.source.instanceRef"),
        ({"volumeRef": {"name": "data"}}, {}, "spec.source.volumeRef"),
        (URL, {"storeRef": {"name": "s3"}}, "spec.storeRef"),
    ],
)
def test_what_is_not_supported_is_named(source: dict[str, Any], spec: dict[str, Any], field: str) -> None:
    decided = decide(image(source, **spec))
    assert decided.steps == ()
    assert ready(decided) == (False, Reason.NOT_SUPPORTED)
    assert is_true(decided.status.conditions, "Stalled")
    assert field in decided.status.conditions[0].message


COPY = {"imageRef": {"name": "debian", "namespace": "infra"}}


@pytest.mark.parametrize(
    ("access", "may"),
    [
        ({}, False),
        ({"scope": "Shared", "tenants": ["globex"]}, False),
        ({"scope": "Shared", "tenants": ["acme"]}, True),
        ({"scope": "Community"}, True),
        ({"scope": "Public"}, True),
    ],
)
def test_a_copy_shares_the_blob_if_it_may(access: dict[str, Any], may: bool) -> None:
    original = active(image(namespace="infra", access=access))
    decided = decide(image(COPY), original=original)
    if not may:
        missing = decide(image(COPY))
        assert decided == missing, "an Image that is not shared must look as one that does not exist"
        assert ready(missing) == (False, Reason.IMAGE_NOT_FOUND)
        return
    assert ready(decided) == (True, Reason.ACTIVE)
    assert decided.status.stored_sha256 == STORED_SHA
    # It outlives the original.
    assert decide(with_status(image(COPY), decided.status), stored=True).status == decided.status


def test_a_copy_waits_for_its_original_and_must_agree_with_it() -> None:
    waiting = decide(image(COPY), original=image(namespace="infra", access={"scope": "Public"}))
    assert ready(waiting) == (False, Reason.IMAGE_NOT_ACTIVE)
    original = active(image(namespace="infra", access={"scope": "Public"}))
    other = image(COPY)
    other = other.model_copy(update={"spec": other.spec.model_copy(update={"disk_format": DiskFormat.QCOW2})})
    assert ready(decide(other, original=original)) == (False, Reason.FORMAT_MISMATCH)
    wrong = decide(image(COPY, sha256="c" * 64), original=original)
    assert ready(wrong) == (False, Reason.CHECKSUM_MISMATCH)


def test_a_protected_image_waits_to_be_deleted() -> None:
    held = plan_deletion(image(protected=True), NOW)
    assert held is not None
    stalled = find_condition(held.conditions, "Stalled")
    assert stalled is not None
    assert stalled.reason == Reason.PROTECTED
    assert plan_deletion(image(), NOW) is None


def test_blobs_are_deleted_when_unused_for_the_grace() -> None:
    grace = timedelta(seconds=600)
    first = plan_sweep(["a", "b"], {"a"}, {}, NOW, grace)
    assert (first.unused, first.expired) == ({"b": NOW}, [])
    used_again = plan_sweep(["a", "b"], {"a", "b"}, first.unused, NOW + grace, grace)
    assert (used_again.unused, used_again.expired) == ({}, [])
    due = plan_sweep(["a", "b"], {"a"}, first.unused, NOW + grace, grace)
    assert (due.unused, due.expired) == ({}, ["b"])
    assert plan_sweep(["a", "b"], {"a"}, first.unused, NOW + grace / 2, grace).expired == []

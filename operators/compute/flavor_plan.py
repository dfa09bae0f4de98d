"""Flavors: what of them this release can give."""

from __future__ import annotations

from datetime import datetime

from crds.compute import Flavor
from crds.meta import Status
from operators.compute.reasons import Reason
from operators.verdict import Verdict, ready, stalled, summarized


def unsupported(flavor: Flavor) -> str | None:
    """The field that this release cannot realise, if there is one."""
    if flavor.spec.ephemeral_disk:
        return "spec.ephemeralDisk"
    if flavor.spec.swap:
        return "spec.swap"
    return None


def judge(flavor: Flavor) -> Verdict:
    field = unsupported(flavor)
    if field is None:
        return ready(Reason.VALID, "Instances can be made with the flavor.")
    return stalled(
        Reason.NOT_SUPPORTED,
        f"Flavor {flavor.metadata.name}: {field} is not supported by this release: create a flavor without it.",
    )


def plan(flavor: Flavor, now: datetime) -> tuple[Status, Verdict]:
    verdict, generation = judge(flavor), flavor.metadata.generation
    conditions = summarized(flavor.status.conditions, verdict, generation, now)
    return Status(observed_generation=generation, conditions=conditions), verdict

"""Statuses are written only when they differ, and told of when somebody must act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crds.conditions import find_condition
from crds.meta import Resource, Status
from operators.verdict import STALLED, State, Verdict
from runtime.cluster import Cluster
from runtime.events import Recorder
from runtime.kind import kind_of


async def write_status(
    cluster: Cluster, resource: Resource, status: Status, *, only_if_unchanged: bool = False
) -> bool:
    """Writes what differs from the status that `resource` was seen with; True if anything did. Never to a successor.

    With `only_if_unchanged` the write fails with Conflict if the object is another one, or changed, since it was seen.
    """
    old = _without_empty(resource.status.to_dict())  # type: ignore[attr-defined]  # callers pass kinds with a status
    meta = resource.metadata
    seen = meta.resource_version if only_if_unchanged else None
    return await cluster.patch_status(
        kind_of(type(resource)),
        meta.name,
        meta.namespace,
        old,
        _without_empty(status.to_dict()),
        seen,
        meta.uid or None,
    )


async def announce(recorder: Recorder, resource: Resource, verdict: Verdict) -> None:
    """An Event, if the verdict is that the user must act, and the object was not seen to say so already."""
    before = find_condition(resource.status.conditions, STALLED)  # type: ignore[attr-defined]  # as above
    if verdict.state is State.STALLED and (before is None or before.reason != verdict.reason):
        meta = resource.metadata.to_dict()
        await recorder.record(kind_of(type(resource)), meta, verdict.reason, verdict.message, warning=True)


def _without_empty(status: Mapping[str, Any]) -> dict[str, Any]:
    """An empty list or map means the same as none; the API has no null."""
    return {name: value for name, value in status.items() if value not in ([], {})}

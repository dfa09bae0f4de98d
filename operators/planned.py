"""Kinds that have a schema but no controller in this release: their objects say that nothing comes of them."""

from __future__ import annotations

from collections.abc import Sequence

from crds import compute, identity, image, network, storage
from crds.meta import Controller as Filler
from crds.meta import Resource, Status
from operators.domain import Context, Domain
from operators.status import announce, write_status
from operators.verdict import Verdict, stalled, summarized
from runtime.cache import Key
from runtime.controller import Controller
from runtime.kind import kind_of

NO_CONTROLLER = "NoController"
"""As the definition's own first status has it, before an operator has seen the object (crds/manifest.py)."""


def planned_kinds(kinds: Sequence[type[Resource]]) -> list[type[Resource]]:
    """Those of `kinds` whose controller comes in a later release."""
    return [kind for kind in kinds if kind.DEFINITION.controller is Filler.PLANNED]


def verdict_of(obj: Resource) -> Verdict:
    """That nothing is made of the object."""
    kind = type(obj).__name__
    return stalled(
        NO_CONTROLLER,
        f"{kind} {obj.metadata.name}: this release has no controller for {kind}, so nothing is made of it:"
        " delete it, or keep it for a release that has one.",
    )


def planned_controllers(context: Context, kinds: Sequence[type[Resource]]) -> list[Controller]:
    """One controller for each planned kind among `kinds`."""
    return [_controller(context, kind) for kind in planned_kinds(kinds)]


def planned_domain(context: Context) -> Domain:
    """The planned kinds of every group but storage, which has a domain of its own."""
    groups = (identity, image, network, compute)
    return Domain("planned", planned_controllers(context, [kind for group in groups for kind in group.KINDS]))


def build(context: Context) -> Domain:
    """As every domain's `build`."""
    return planned_domain(context)


def storage_domain(context: Context) -> Domain:
    """The storage kinds: all of them are planned."""
    return Domain("storage", planned_controllers(context, storage.KINDS))


def _controller(context: Context, resource: type[Resource]) -> Controller:
    cluster, kind = context.cluster, kind_of(resource)
    cache = cluster.watch_resource(resource)

    async def reconcile(key: Key) -> None:
        obj = cache.get(key.name, key.namespace)
        if obj is None or obj.metadata.deletion_timestamp is not None:
            return
        status: Status = obj.status.model_copy()  # type: ignore[attr-defined]  # every planned kind has a status
        verdict = verdict_of(obj)
        status.conditions = summarized(status.conditions, verdict, obj.metadata.generation, context.now())
        status.observed_generation = obj.metadata.generation
        if await write_status(cluster, obj, status):
            await announce(context.recorder, obj, verdict)

    controller = Controller(f"planned-{kind.plural}", reconcile, workers=1)
    cache.on_change(lambda key, old, new: controller.enqueue(key))
    return controller

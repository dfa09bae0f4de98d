"""Carries out what was planned for instances."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import datetime

from crds.compute import Hypervisor, HypervisorAllocation, Instance, InstanceStatus
from crds.network import Port
from crds.node import NodeInstance
from operators.compute.instance import deletion as gone
from operators.compute.instance import plan as todo
from operators.compute.instance import status as told
from operators.compute.instance.caches import Caches
from operators.compute.instance.events import events_between
from operators.compute.instance.rollup import building, roll_up
from operators.compute.instance.userdata import read_user_data
from operators.compute.instance.wakeups import wake
from operators.compute.instance.world import Problem, UserData, World
from operators.compute.names import FINALIZER, INSTANCE_LABEL, node_namespace, user_data_secret
from operators.compute.reasons import Reason
from operators.compute.scheduler.hosts import host_of
from operators.compute.scheduler.record import allocate, release
from operators.domain import Context
from operators.status import write_status
from operators.verdict import stalled, waiting
from runtime.cache import Key
from runtime.client import AlreadyExists, ApiError, Forbidden, Invalid, NotFound, Unavailable
from runtime.cluster import merge_diff, trimmed
from runtime.controller import Controller
from runtime.kind import SECRET, Kind, kind_of

log = logging.getLogger(__name__)

INSTANCE, PORT, NODE_INSTANCE = kind_of(Instance), kind_of(Port), kind_of(NodeInstance)

_ROUNDS = 12
"""More than the steps from nothing to a work object: a plan that has not settled by then waits for events."""
_SECRET_AGAIN = 5.0
"""Seconds between two looks for a user-data Secret that is missing: Secrets of tenants are not watched."""
_TELL_AFTER = 3
"""Failures in a row after which the user is told of what may pass by itself."""


class Instances:
    """The controller of Instances: `controller` is what runs."""

    def __init__(self, context: Context, caches: Caches, workers: int = 8) -> None:
        self._cluster = context.cluster
        self._recorder = context.recorder
        self._now = context.now
        self._caches = caches
        # One decision after the other: each sees what the one before it took.
        self._deciding = asyncio.Lock()
        self._scheduling: dict[str, datetime] = {}
        self._without_host: dict[Key, bool] = {}
        self.controller = Controller("instance", self.reconcile, workers=workers, on_error=self.tell_error)
        wake(caches, self.controller.enqueue)
        caches.hypervisors.on_change(self._hypervisor_changed)
        caches.records.on_change(self._record_changed)

    async def reconcile(self, key: Key) -> float | None:
        user_data: UserData | None = None
        for _ in range(_ROUNDS):
            instance = self._caches.instances.get(key.name, key.namespace)
            if instance is None:
                self._without_host.pop(key, None)
                return None
            if instance.metadata.deletion_timestamp is not None:
                return await self._delete(instance)
            if user_data is None:
                user_data = await self._user_data(instance)
            planned = todo.plan(self._world(instance, user_data))
            if any(isinstance(action, todo.Allocate | todo.Release) for action in planned.actions):
                async with self._deciding:
                    planned = todo.plan(self._world(instance, user_data))
                    await self._carry_out(instance, planned, user_data)
            else:
                await self._carry_out(instance, planned, user_data)
            if not planned.actions:
                return await self._show(key, instance, planned, user_data)
        return 0.5

    async def _show(self, key: Key, instance: Instance, planned: todo.Plan, user_data: UserData) -> float | None:
        if planned.status is not None:
            await self._write(instance, planned.status)
            if told.waits_for_room(planned.status):
                hints = instance.spec.scheduler_hints
                self._without_host[key] = bool(hints and hints.same_host)
            else:
                self._without_host.pop(key, None)
        if user_data.problem is not None:
            return min(planned.again or _SECRET_AGAIN, _SECRET_AGAIN)
        return planned.again

    def _world(self, instance: Instance, user_data: UserData) -> World:
        world = self._caches.world(instance, user_data)
        return replace(world, scheduling_since=self._scheduling.get(instance.metadata.uid))

    async def _carry_out(self, instance: Instance, planned: todo.Plan, user_data: UserData) -> None:
        ports = [self._make_port(action.port) for action in planned.actions if isinstance(action, todo.MakePort)]
        await asyncio.gather(*ports)
        for action in planned.actions:
            await self._do(instance, action, user_data)

    async def _do(self, instance: Instance, action: todo.Action, user_data: UserData) -> None:
        cluster, meta = self._cluster, instance.metadata
        match action:
            case todo.AddFinalizer():
                await cluster.add_finalizer(INSTANCE, meta.to_dict(), FINALIZER)
            case todo.MakePort():
                pass  # made with the others, all at once
            case todo.RegroupPort(port):
                refs = [ref.to_dict() for ref in port.spec.security_group_refs or ()]
                seen = {"resourceVersion": port.metadata.resource_version}
                patch = {"metadata": seen, "spec": {"securityGroupRefs": refs}}
                await cluster.merge_patch(PORT, port.metadata.name, port.metadata.namespace, patch)
            case todo.DropPort(port):
                await self._drop_port(port)
            case todo.Allocate(node, allocation):
                self._scheduling.setdefault(meta.uid, self._now())
                record = self._caches.records.get(node)
                if record is None:
                    raise Unavailable(0, "NoRecord", f"HypervisorAllocation {node} is not there (yet)")
                await allocate(cluster, record, allocation)
                log.info("%s/%s: goes to node %s", meta.namespace, meta.name, node)
            case todo.Release(node):
                await self._release(meta.uid, node)
            case todo.Bind(status):
                await self._write(instance, status)
                self._scheduling.pop(meta.uid, None)
            case todo.MakeWork(work):
                await self._make_work(work, user_data)
            case todo.UpdateWork(work, spec):
                difference = merge_diff(work.spec.to_dict(), spec.to_dict())
                patch = {"metadata": {"resourceVersion": work.metadata.resource_version}, "spec": difference}
                await cluster.merge_patch(NODE_INSTANCE, work.metadata.name, work.metadata.namespace, patch)

    async def _make_port(self, port: Port) -> None:
        meta = port.metadata
        try:
            await self._cluster.create(PORT, {"metadata": meta.to_dict(), "spec": port.spec.to_dict()})
        except AlreadyExists:
            await self._look_up(PORT, meta.name, meta.namespace)

    async def _make_work(self, work: NodeInstance, user_data: UserData) -> None:
        meta = work.metadata
        if work.spec.user_data_secret_name is not None:
            secret = {
                "metadata": {
                    "name": work.spec.user_data_secret_name,
                    "namespace": meta.namespace,
                    "labels": {INSTANCE_LABEL: work.spec.instance_ref.name},
                },
                "data": {"userData": user_data.encoded},
            }
            try:
                await self._cluster.create(SECRET, secret)
            except AlreadyExists:
                name = work.spec.user_data_secret_name
                await self._cluster.merge_patch(SECRET, name, meta.namespace, {"data": secret["data"]})
        try:
            await self._cluster.create(NODE_INSTANCE, {"metadata": meta.to_dict(), "spec": work.spec.to_dict()})
        except AlreadyExists:
            await self._look_up(NODE_INSTANCE, meta.name, meta.namespace)

    async def _delete(self, instance: Instance) -> float | None:
        meta = instance.metadata
        self._scheduling.pop(meta.uid, None)
        self._without_host.pop(Key(meta.namespace or "", meta.name), None)
        for _ in range(_ROUNDS):
            planned = gone.plan_deletion(self._caches.world(instance))
            moved = False
            for step in planned.steps:
                match step:
                    case gone.DropWork(work):
                        name, namespace, uid = work.metadata.name, work.metadata.namespace, work.metadata.uid
                        await self._cluster.delete(NODE_INSTANCE, name, namespace, uid=uid)
                    case gone.ConfirmGone(nodes):
                        if not await self._confirm_gone(instance, nodes):
                            moved = True
                            break
                    case todo.Release(node):
                        async with self._deciding:
                            await self._release(meta.uid, node)
                        moved = True
                    case todo.DropPort(port):
                        await self._drop_port(port)
                    case gone.RemoveFinalizer():
                        await self._cluster.remove_finalizer(INSTANCE, meta.to_dict(), FINALIZER)
                        log.info("%s/%s: gone", meta.namespace, meta.name)
            if not moved:
                if planned.status is not None:
                    await self._write(instance, planned.status)
                return planned.again
        return 0.5

    async def _confirm_gone(self, instance: Instance, nodes: tuple[str, ...]) -> bool:
        """Whether no node has a work object, by the API's own word: the cache of a new leader may lag behind."""
        uid = instance.metadata.uid
        for node in nodes:
            if await self._look_up(NODE_INSTANCE, uid, node_namespace(node)):
                return False
            if instance.spec.user_data_secret_ref is not None:
                await self._cluster.delete(SECRET, user_data_secret(uid), node_namespace(node))
        return True

    async def _drop_port(self, port: Port) -> None:
        meta = port.metadata
        await self._cluster.delete(PORT, meta.name, meta.namespace, uid=meta.uid)

    async def _release(self, uid: str, node: str) -> None:
        record = self._caches.records.get(node)
        if record is not None:
            await release(self._cluster, record, uid)

    async def _look_up(self, kind: Kind, name: str, namespace: str | None) -> bool:
        """Brings the cache up to what the API has; whether there is such an object."""
        try:
            found = await self._cluster.client.get(kind, name, namespace)
        except NotFound:
            return False
        self._cluster.caches[kind].observe(trimmed(found))
        return True

    async def _user_data(self, instance: Instance) -> UserData:
        """The content of the Secret, while it still matters."""
        if self._caches.work.find("compute/instance", instance.metadata.uid):
            return UserData()
        return await read_user_data(self._cluster.client, instance)

    async def _write(self, instance: Instance, status: InstanceStatus) -> None:
        if not await write_status(self._cluster, instance, status, only_if_unchanged=True):
            return
        for story in events_between(instance.status, status):
            await self._recorder.record(
                INSTANCE, instance.metadata.to_dict(), story.reason, story.note, warning=story.warning
            )

    async def tell_error(self, key: Key, error: Exception, failures: int) -> None:
        """A condition for what the API refuses, at once if it will refuse it again, else when it lasts."""
        refused = isinstance(error, Invalid | Forbidden)
        instance = self._caches.instances.get(key.name, key.namespace)
        if instance is None or not (refused or failures >= _TELL_AFTER):
            return
        if instance.metadata.deletion_timestamp is not None:
            return
        if refused:
            verdict = stalled(Reason.REFUSED_BY_API, f"The API refused what the instance needs: {error}")
        elif isinstance(error, ApiError):
            verdict = waiting(Reason.PENDING, f"A request to the API failed and is tried again: {error}")
        else:
            verdict = waiting(Reason.PENDING, "The operator failed, and tries again: its log says why.")
        world, node, problem = self._caches.world(instance), instance.status.node_name, Problem(verdict)
        if node is None:
            await self._write(instance, told.pending(world, [problem]))
        else:
            found = roll_up(world.work[0]) if world.work else building(node)
            await self._write(instance, told.with_node(world, node, found, [problem]))

    def _hypervisor_changed(self, key: Key, old: Hypervisor | None, new: Hypervisor | None) -> None:
        """What an agent tells of its guests makes no room; what the scheduler looks at may."""
        if new is not None and (old is None or _seen_by_scheduler(old) != _seen_by_scheduler(new)):
            for waiting_key in list(self._without_host):
                self.controller.enqueue(waiting_key)

    def _record_changed(self, key: Key, old: HypervisorAllocation | None, new: HypervisorAllocation | None) -> None:
        """Room was made on a node; or an instance took its place, beside which another wants to be."""
        grew = len(new.spec.allocations if new else ()) > len(old.spec.allocations if old else ())
        for waiting_key, wants_company in list(self._without_host.items()):
            if not grew or old is None or wants_company:
                self.controller.enqueue(waiting_key)


def _seen_by_scheduler(hypervisor: Hypervisor) -> tuple[object, ...]:
    return host_of(hypervisor, None), hypervisor.status.phase

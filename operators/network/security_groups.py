"""The controller of SecurityGroups and their slices."""

from __future__ import annotations

from crds.conditions import ConditionStatus, set_condition
from crds.network import Network, Port, SecurityGroup, SecurityGroupPhase
from crds.node import NodeInstance, SecurityGroupSlice, SliceMember
from operators.domain import Context
from operators.network.deletion import User, in_use, in_use_conditions
from operators.network.group_plan import ResolvedRules, member_of, plan_slices, resolve_rules
from operators.network.names import FINALIZER
from operators.network.reasons import Reason
from operators.network.slice_writer import delete_slice, write_slices
from operators.network.state import (
    GROUP_OF,
    NETWORK_OF,
    REMOTE,
    SECURITY_GROUP,
    State,
    groups_of,
    key_of,
    remote_groups,
    slice_group,
)
from operators.status import write_status
from operators.verdict import ready, summarized, waiting
from runtime.cache import Key
from runtime.client import NotFound
from runtime.controller import Controller


class SecurityGroups:
    """Keeps each group's slices: its rules always, its members if a rule of any group names it.

    One look at a group brings in every change since the last one, so that many ports at once cost few writes.
    """

    def __init__(self, context: Context, state: State) -> None:
        self._context = context
        self._cluster = context.cluster
        self._state = state
        self.controller = Controller("securitygroups", self.reconcile, workers=4)
        state.groups.on_change(self._group_changed)
        state.ports.on_change(self._port_changed)
        state.networks.on_change(self._network_changed)
        state.node_instances.on_change(self._node_instance_changed)
        state.group_slices.on_change(self._slice_changed)

    def _enqueue(self, keys: set[Key] | list[Key]) -> None:
        for key in keys:
            self.controller.enqueue(key)

    def _group_changed(self, key: Key, old: SecurityGroup | None, new: SecurityGroup | None) -> None:
        self.controller.enqueue(key)
        if (old and old.metadata.uid) != (new and new.metadata.uid):
            self._enqueue([key_of(group) for group in self._state.groups.find(REMOTE, key)])
        before = remote_groups(old) if old else set()
        after = remote_groups(new) if new else set()
        self._enqueue(before ^ after)

    def _port_changed(self, key: Key, old: Port | None, new: Port | None) -> None:
        def told(port: Port | None) -> tuple[object, ...] | None:
            return (member_of(port), groups_of(port), port.metadata.deletion_timestamp) if port else None

        if told(old) != told(new):
            self._enqueue({group for port in (old, new) if port for group in groups_of(port)})

    def _network_changed(self, key: Key, old: Network | None, new: Network | None) -> None:
        if old is not None and new is not None and old.spec.port_security != new.spec.port_security:
            for port in self._state.ports.find(NETWORK_OF, key):
                self._enqueue(groups_of(port))

    def _node_instance_changed(self, key: Key, old: NodeInstance | None, new: NodeInstance | None) -> None:
        if old is None or new is not None:
            return
        for carried in old.spec.ports:
            port = self._state.port_by_uid(carried.uid)
            if port is not None and port.metadata.deletion_timestamp is not None:
                self._enqueue(groups_of(port))

    def _slice_changed(self, key: Key, old: SecurityGroupSlice | None, new: SecurityGroupSlice | None) -> None:
        for found in (old, new):
            if found is not None:
                self.controller.enqueue(slice_group(found))

    async def reconcile(self, key: Key) -> float | None:
        group = self._state.groups.get(key.name, key.namespace)
        slices = self._state.group_slices.find(GROUP_OF, key)
        leftover = [s for s in slices if group is None or s.spec.group_uid != group.metadata.uid]
        if leftover and await self._gone(key, leftover[0].spec.group_uid):
            for old in leftover:
                await delete_slice(self._cluster, old)
        if group is None:
            return None
        current = {s.spec.shard: s for s in slices if s.spec.group_uid == group.metadata.uid}
        if group.metadata.deletion_timestamp is not None:
            return await self._delete(group, current)
        await self._cluster.add_finalizer(SECURITY_GROUP, group.metadata.to_dict(), FINALIZER)
        rules = resolve_rules(group, lambda name: self._uid(name, key.namespace))
        changes = plan_slices(group, rules.rules, self._members(key), current, self._context.settings.slices_namespace)
        await write_slices(self._cluster, changes, current, lambda s: len(s.spec.members))
        await self._tell(group, rules)
        return None

    def _uid(self, name: str, namespace: str) -> str | None:
        group = self._state.groups.get(name, namespace)
        return group.metadata.uid if group is not None else None

    def _members(self, key: Key) -> list[SliceMember]:
        """The ports in the group, if a rule names it: nobody else asks who they are."""
        if not self._state.groups.find(REMOTE, key):
            return []
        ports = self._state.ports.find(GROUP_OF, key)
        in_it = (port for port in ports if self._state.guarded(port) and not self._state.leaving(port))
        return [member for port in in_it if (member := member_of(port)) is not None]

    async def _tell(self, group: SecurityGroup, rules: ResolvedRules) -> None:
        now, generation = self._context.now(), group.metadata.generation
        if rules.missing:
            names = ", ".join(rules.missing)
            verdict = waiting(
                Reason.REMOTE_GROUP_NOT_FOUND,
                f"Rules that name SecurityGroup {names} let nothing through, because it does not exist: create it, or"
                " change the rules. All other rules are applied.",
            )
            resolved = (ConditionStatus.FALSE, verdict.reason, verdict.message)
        else:
            verdict = ready(Reason.RULES_APPLIED, "The nodes are told the group's rules.")
            resolved = (ConditionStatus.TRUE, Reason.RESOLVED, "Every group that the rules name exists.")
        conditions = summarized(group.status.conditions, verdict, generation, now)
        conditions = set_condition(conditions, "RulesResolved", *resolved, generation, now)
        status = group.status.model_copy(
            update={
                "phase": SecurityGroupPhase.ACTIVE,
                "rules": len(group.spec.rules),
                "observed_generation": generation,
                "conditions": conditions,
            }
        )
        await write_status(self._cluster, group, status)

    async def _delete(self, group: SecurityGroup, current: dict[int, SecurityGroupSlice]) -> float | None:
        name, namespace = group.metadata.name, group.metadata.namespace or ""
        users = [
            User("Port", namespace, port.metadata.name) for port in self._state.ports.find(GROUP_OF, key_of(group))
        ]
        message = in_use(f"SecurityGroup {name}", namespace, users)
        if message is None:
            for old in current.values():
                await delete_slice(self._cluster, old)
            await self._cluster.remove_finalizer(SECURITY_GROUP, group.metadata.to_dict(), FINALIZER)
            return None
        # While ports are in the group, those that leave it must still be seen to go.
        rules = resolve_rules(group, lambda other: self._uid(other, namespace))
        changes = plan_slices(
            group, rules.rules, self._members(key_of(group)), current, self._context.settings.slices_namespace
        )
        await write_slices(self._cluster, changes, current, lambda s: len(s.spec.members))
        generation, now = group.metadata.generation, self._context.now()
        status = group.status.model_copy(
            update={
                "phase": SecurityGroupPhase.DELETING,
                "observed_generation": generation,
                "conditions": in_use_conditions(group.status.conditions, message, generation, now),
            }
        )
        await write_status(self._cluster, group, status)
        return 60.0

    async def _gone(self, key: Key, uid: str) -> bool:
        """Whether no group of this UID exists, by the apiserver's word and not the cache's."""
        if not key.name:
            return False  # not made by this operator
        try:
            found = await self._cluster.client.get(SECURITY_GROUP, key.name, key.namespace)
        except NotFound:
            return True
        return bool(found["metadata"]["uid"] != uid)

"""The controller of Tenants."""

from __future__ import annotations

from typing import Any

from crds.identity import Tenant
from crds.meta import ObjectMeta
from crds.network import SecurityGroup
from operators.domain import Context
from operators.identity import tenant_plan as plan
from operators.identity.names import DEFAULT_GROUP, FINALIZER
from operators.identity.roles import TENANT_INDEX, slim, tenants_of
from operators.identity.tenant_plan import NamespaceState
from operators.status import announce, write_status
from runtime.cache import Cache, Key
from runtime.client import AlreadyExists
from runtime.controller import Controller
from runtime.kind import NAMESPACE, ROLE_BINDING, kind_of

Object = dict[str, Any]

TENANT = kind_of(Tenant)
SECURITY_GROUP = kind_of(SecurityGroup)

_LOOK_AGAIN = 600.0


class Tenants:
    """Keeps each Tenant's namespace, its members' RoleBindings and its default security group as the spec has them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._cluster = context.cluster
        self._tenants = self._cluster.watch_resource(Tenant)
        self._namespaces: Cache[Object] = self._cluster.watch(NAMESPACE)
        self._groups = self._cluster.watch_resource(SecurityGroup)
        self._bindings = self._cluster.watch(ROLE_BINDING, slim, {TENANT_INDEX: tenants_of})
        self.controller = Controller("tenants", self.reconcile, workers=4)
        self._tenants.on_change(lambda key, old, new: self.controller.enqueue(key))
        self._namespaces.on_change(lambda key, old, new: self._wake(key.name))
        self._bindings.on_change(lambda key, old, new: self._wake(key.namespace))
        self._groups.on_change(lambda key, old, new: self._wake_for_group(key, old, new))

    def _wake(self, tenant: str) -> None:
        if self._tenants.get(tenant) is not None:
            self.controller.enqueue(Key("", tenant))

    def _wake_for_group(self, key: Key, old: SecurityGroup | None, new: SecurityGroup | None) -> None:
        if key.name == DEFAULT_GROUP and (old is None) != (new is None):
            self._wake(key.namespace)

    async def reconcile(self, key: Key) -> float | None:
        tenant = self._tenants.get(key.name)
        if tenant is None:
            return None
        if tenant.metadata.deletion_timestamp is not None:
            return await self._delete(tenant)
        # Before the namespace is made: what is made under a finalizer is never forgotten.
        await self._cluster.add_finalizer(TENANT, _meta(tenant.metadata), FINALIZER)
        state = plan.namespace_state(tenant.metadata.name, self._namespaces.get(tenant.metadata.name))
        if state is NamespaceState.ABSENT:
            state = await self._create_namespace(tenant)
        if state is NamespaceState.OURS:
            await self._fill_namespace(tenant)
        verdict = plan.verdict(tenant.metadata.name, state)
        await announce(self._context.recorder, tenant, verdict)
        await write_status(self._cluster, tenant, plan.status(tenant, state, self._context.now()))
        return _LOOK_AGAIN

    async def _create_namespace(self, tenant: Tenant) -> NamespaceState:
        name = tenant.metadata.name
        try:
            await self._cluster.create(NAMESPACE, {"metadata": {"name": name, "labels": plan.namespace_labels(tenant)}})
        except AlreadyExists:  # not in the cache yet
            found = await self._cluster.client.get(NAMESPACE, name)
            return plan.namespace_state(name, found)
        return NamespaceState.OURS

    async def _fill_namespace(self, tenant: Tenant) -> None:
        name = tenant.metadata.name
        namespace = self._namespaces.get(name)
        labels = plan.namespace_labels(tenant)
        if namespace is not None and not labels.items() <= (namespace["metadata"].get("labels") or {}).items():
            await self._cluster.merge_patch(NAMESPACE, name, None, {"metadata": {"labels": labels}})
        bindings = plan.plan_bindings(plan.role_bindings(tenant), self._bindings.find(TENANT_INDEX, name))
        for binding in bindings.delete:
            await self._cluster.delete(ROLE_BINDING, binding, name)
            # Gone at once, and the next look must not delete its successor on old evidence.
            seen = self._bindings.get(binding, name)
            if seen is not None:
                self._bindings.forget(seen)
        for desired in bindings.write:
            await self._cluster.apply(ROLE_BINDING, desired)
        # Neutron refuses the deletion of this group; here it comes back, as made anew.
        if self._groups.get(DEFAULT_GROUP, name) is None:
            try:
                await self._cluster.create(SECURITY_GROUP, plan.default_group(name).to_dict())
            except AlreadyExists:
                return  # the watch is about to bring it

    async def _delete(self, tenant: Tenant) -> float | None:
        name = tenant.metadata.name
        namespace = self._namespaces.get(name)
        state = plan.namespace_state(name, namespace)
        if namespace is None or state in (NamespaceState.ABSENT, NamespaceState.TAKEN):
            await self._cluster.remove_finalizer(TENANT, _meta(tenant.metadata), FINALIZER)
            return None
        if state is NamespaceState.OURS:
            await self._cluster.delete(NAMESPACE, name, uid=namespace["metadata"]["uid"])
        await write_status(self._cluster, tenant, plan.deleting_status(tenant, namespace, self._context.now()))
        return 60.0


def _meta(meta: ObjectMeta) -> Object:
    return meta.to_dict()

"""Tenants (namespace, members, default security group) and the agents' identities."""

from operators.domain import Context, Domain
from operators.identity.nodes import Nodes
from operators.identity.tenants import Tenants


def build(context: Context) -> Domain:
    nodes = Nodes(context)
    tenants = Tenants(context)
    return Domain("identity", [tenants.controller, nodes.controller], tasks=[nodes.ensure_shared_namespaces])


__all__ = ["build"]

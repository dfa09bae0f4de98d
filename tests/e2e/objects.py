"""Manifests that tests vary."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def _object(group: str, kind: str, name: str, namespace: str | None, spec: Object) -> Object:
    meta: Object = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": f"{group}.kumulus.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}


def tenant(name: str) -> list[Object]:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kumulus.dev/tenant": name}},
    }
    return [namespace, _object("identity", "Tenant", name, None, {})]


def image(namespace: str, name: str = "tiny", **spec: Any) -> Object:
    source = {"url": "http://20.0.2.1:8080/tiny.qcow2"}
    return _object("image", "Image", name, namespace, {"source": source, "diskFormat": "qcow2", **spec})


def network(namespace: str, name: str = "internal", **spec: Any) -> Object:
    return _object("network", "Network", name, namespace, spec)


def subnet(namespace: str, name: str = "internal-v4", cidr: str = "10.0.1.0/24", **spec: Any) -> Object:
    body = {"networkRef": {"name": "internal"}, "cidr": cidr, "gateway": {"mode": "None"}, **spec}
    return _object("network", "Subnet", name, namespace, body)


def port(namespace: str, name: str, **spec: Any) -> Object:
    return _object("network", "Port", name, namespace, {"networkRef": {"name": "internal"}, **spec})


def open_group(namespace: str, name: str = "open") -> Object:
    """Lets everything in; what is refused then is refused by anti-spoofing or isolation."""
    rules = [
        {"name": "in", "direction": "Ingress", "etherType": "IPv4"},
        {"name": "out", "direction": "Egress", "etherType": "IPv4"},
    ]
    return _object("network", "SecurityGroup", name, namespace, {"rules": rules})


def key_pair(namespace: str, public_key: str, name: str = "key") -> Object:
    return _object("compute", "KeyPair", name, namespace, {"publicKey": public_key})


def instance(namespace: str, name: str, *, networks: list[Object] | None = None, **spec: Any) -> Object:
    body: Object = {
        "flavorRef": {"name": "m1.tiny"},
        "imageRef": {"name": "tiny"},
        "networks": networks if networks is not None else [internal_nic()],
        **spec,
    }
    return _object("compute", "Instance", name, namespace, body)


def internal_nic(group: str = "open", **more: Any) -> Object:
    return {"name": "eth0", "networkRef": {"name": "internal"}, "securityGroupRefs": [{"name": group}], **more}


def public_nic(group: str = "open") -> Object:
    reference = {"name": "public", "namespace": "infra"}
    return {"name": "eth1", "networkRef": reference, "securityGroupRefs": [{"name": group}]}


def world_of(namespace: str, public_key: str) -> list[Object]:
    """All that an instance of a tenant refers to."""
    return [
        *tenant(namespace),
        image(namespace),
        network(namespace),
        subnet(namespace),
        open_group(namespace),
        key_pair(namespace, public_key),
    ]

"""Manifests in a short form, for tables of tests:

    Network net: {}
    Subnet sub: {networkRef: {name: net}, cidr: 10.1.0.0/24}

is a Network and a Subnet, each with its spec. Of a Secret the body is its stringData, of a Namespace its labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import yaml

import crds
from runtime.kind import NAMESPACE, SECRET, Kind, kind_of

Object = dict[str, Any]
KINDS: dict[str, Kind] = {resource.__name__: kind_of(resource) for resource in crds.KINDS} | {
    kind.kind: kind for kind in (NAMESPACE, SECRET)
}


@dataclass(frozen=True)
class Named:
    """An object by kind, name and namespace (None: cluster-wide)."""

    kind: Kind
    name: str
    namespace: str | None

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.name}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """As kubectl's arguments."""
        where = (f"--namespace={self.namespace}",) if self.namespace else ()
        return (f"{self.kind.plural}.{self.kind.group}".rstrip("."), self.name, *where)


def named(text: str, namespace: str) -> Named:
    """The object that `Kind name` stands for."""
    word, name = text.split()
    kind = KINDS[word]
    return Named(kind, name, namespace if kind.namespaced else None)


def name_of(obj: Mapping[str, Any]) -> Named:
    """What a manifest is of."""
    return Named(KINDS[obj["kind"]], obj["metadata"]["name"], obj["metadata"].get("namespace"))


def manifests(text: str, namespace: str, **values: str) -> list[Object]:
    """The manifests of `text`, in its order, after `$name` was replaced by each value of that name."""
    short: Mapping[str, Any] = yaml.safe_load(Template(text).substitute(values)) or {}
    return [_manifest(named(key, namespace), body or {}) for key, body in short.items()]


def as_yaml(objects: Sequence[Object]) -> str:
    """What kubectl reads from its standard input."""
    return "\n---\n".join(json.dumps(obj) for obj in objects)  # JSON is YAML, and quick


def _manifest(obj: Named, body: Object) -> Object:
    metadata: Object = {"name": obj.name} | ({"namespace": obj.namespace} if obj.namespace else {})
    manifest = {"apiVersion": obj.kind.api_version, "kind": obj.kind.kind, "metadata": metadata}
    if obj.kind is NAMESPACE:
        metadata["labels"] = body
    elif obj.kind is SECRET:
        manifest["stringData"] = body
    else:
        manifest["spec"] = body
    return manifest

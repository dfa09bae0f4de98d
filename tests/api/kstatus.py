"""What Kubernetes' tools make of an object's conditions, and what all kinds of Kumulus have in common in them.

https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

Object = Mapping[str, Any]


class Told(StrEnum):
    """An object's state, in the order in which it is decided."""

    TERMINATING = "Terminating"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    CURRENT = "Current"


def conditions(obj: Object) -> dict[str, Mapping[str, Any]]:
    """The object's conditions by type."""
    return {one["type"]: one for one in (obj.get("status") or {}).get("conditions") or ()}


def kstatus(obj: Object) -> Told:
    """As `kubectl wait`-like tools, Flux and Argo CD read it."""
    meta, told = obj["metadata"], conditions(obj)
    if meta.get("deletionTimestamp"):
        return Told.TERMINATING
    if (obj.get("status") or {}).get("observedGeneration") != meta["generation"]:
        return Told.IN_PROGRESS
    if told.get("Reconciling", {}).get("status") == "True":
        return Told.IN_PROGRESS
    if told.get("Stalled", {}).get("status") == "True":
        return Told.FAILED
    return Told.CURRENT if told.get("Ready", {}).get("status") == "True" else Told.IN_PROGRESS


def faults(obj: Object) -> list[str]:
    """What is wrong in how an object that is not being deleted tells of itself; empty when it is well told."""
    told = conditions(obj)
    ready = told.get("Ready")
    if ready is None:
        return ["no condition Ready"]
    found = [f"{type_}: {fault}" for type_, one in told.items() for fault in _faults_of(one)]
    generation = obj["metadata"]["generation"]
    found += [f"{type_}: of no generation" for type_, one in told.items() if one.get("observedGeneration") is None]
    if (obj["status"].get("observedGeneration") or 0) > generation:
        found.append("observedGeneration of the future")
    summaries = [type_ for type_ in ("Reconciling", "Stalled") if type_ in told]
    for type_ in summaries:
        if told[type_]["status"] != "True":
            found.append(f"{type_} stays although it does not hold")
        if (told[type_]["reason"], told[type_]["message"]) != (ready["reason"], ready["message"]):
            found.append(f"{type_} and Ready give different reasons")
    expected = 0 if ready["status"] == "True" else 1
    if len(summaries) != expected:
        found.append(f"Ready is {ready['status']} beside {summaries or 'neither Reconciling nor Stalled'}")
    return found


def _faults_of(condition: Mapping[str, Any]) -> list[str]:
    found = []
    if not re.fullmatch(r"[A-Z][A-Za-z]+", condition["reason"]):
        found.append(f"reason {condition['reason']!r} is not CamelCase")
    message = condition["message"]
    if not re.match(r"[A-Z]|spec\.|https?:|[0-9a-f.:]+[ /]", message):  # or the field or value that it is about
        found.append(f"message does not begin as a sentence: {message!r}")
    if not message.endswith("."):
        found.append(f"message is no sentence: {message!r}")
    return found

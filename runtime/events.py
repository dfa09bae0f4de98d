"""Kubernetes Events, for transitions only: the story that `kubectl describe` tells."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from runtime.client import ApiError, Client
from runtime.kind import EVENT, Kind
from runtime.leader import micro_time

log = logging.getLogger(__name__)

_NOTE_MAX = 1024


class Recorder:
    """Writes Events as `controller`. A lost Event harms nothing: it is logged and forgotten."""

    def __init__(self, client: Client, controller: str, instance: str) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance

    async def record(
        self, kind: Kind, meta: Mapping[str, Any], reason: str, note: str, *, action: str = "", warning: bool = False
    ) -> None:
        """One Event about the object whose metadata is given; `reason` is CamelCase, `note` a sentence."""
        # Events about cluster-scoped objects live in `default`, as the API's convention has it.
        namespace = meta.get("namespace") or "default"
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": f"{meta['name'][:200]}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
            "eventTime": micro_time(datetime.now(UTC)),
            "reportingController": self._controller,
            "reportingInstance": self._instance[:128],
            "action": action or reason,
            "reason": reason,
            "type": "Warning" if warning else "Normal",
            "note": note[:_NOTE_MAX],
            "regarding": {
                "apiVersion": kind.api_version,
                "kind": kind.kind,
                "name": meta["name"],
                "uid": meta.get("uid"),
                **({"namespace": meta["namespace"]} if meta.get("namespace") else {}),
            },
        }
        try:
            await self._client.create(EVENT, event)
        except ApiError as error:
            log.info("%s: event %s not written: %s", meta["name"], reason, error)

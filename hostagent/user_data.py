"""The user-data of a guest: from its work object, or from the Secret that the work object names."""

from __future__ import annotations

import asyncio
import base64
import binascii

from crds.node import NodeInstance
from hostagent.errors import NodeError, Reason
from hostagent.ledger import Ledger
from hostagent.metadata.facts import Guest
from runtime.client import ApiError, Client, NotFound
from runtime.kind import SECRET

KEY = "userData"


class UserData:
    """Reads a Secret once per generation of the work object, and keeps it in the ledger for when the API is away."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self._read: dict[str, tuple[int | None, bytes]] = {}

    async def guest(self, work: NodeInstance) -> Guest:
        """The work object with its user-data. Raises NodeError when the Secret is not there or unusable."""
        if work.spec.user_data is not None:
            return Guest(work, work.spec.user_data.encode())
        if work.spec.user_data_secret_name is None:
            return Guest(work)
        uid, generation = work.metadata.name, work.metadata.generation
        known = self._read.get(uid)
        if known is not None and known[0] == generation:
            return Guest(work, known[1])
        content = await self._fetch(work, work.spec.user_data_secret_name)
        self._read[uid] = (generation, content)
        return Guest(work, content)

    def forget(self, uid: str) -> None:
        """The guest is gone."""
        self._read.pop(uid, None)

    async def _fetch(self, work: NodeInstance, name: str) -> bytes:
        uid = work.metadata.name
        try:
            secret = await self._client.get(SECRET, name, work.metadata.namespace)
        except NotFound as error:
            raise NodeError(
                Reason.USER_DATA_MISSING, f"The Secret {name} with the user-data does not exist."
            ) from error
        except ApiError as error:
            kept = await asyncio.to_thread(self._ledger.user_data, uid)
            if kept is not None:
                return kept
            raise NodeError(
                Reason.USER_DATA_MISSING, f"The Secret {name} with the user-data cannot be read: {error}"
            ) from error
        try:
            content = base64.b64decode((secret.get("data") or {})[KEY], validate=True)
        except (KeyError, binascii.Error) as error:
            raise NodeError(
                Reason.USER_DATA_MISSING, f"The Secret {name} has no key {KEY}: put the user-data there."
            ) from error
        await asyncio.to_thread(self._ledger.keep_user_data, uid, content)
        return content

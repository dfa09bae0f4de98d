"""Uploads that are awaited: each Image's Secret with the URL and its one-time token, and who may use it.

The token is in that Secret and nowhere else; this process keeps its SHA-256 to refuse strangers without asking the
apiserver. Deleting the Secret withdraws the token; an upload that was taken does too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crds.image import Image
from operators.image.model import ImportRequest
from operators.image.plan import request_of, upload_secret_name
from runtime.client import AlreadyExists, NotFound
from runtime.cluster import Cluster
from runtime.kind import SECRET

log = logging.getLogger(__name__)

_TOKEN_BYTES = 32
_MIN_TOKEN = 32  # characters


@dataclass(frozen=True)
class _Offer:
    digest: bytes
    secret: str
    request: ImportRequest


class Uploads:
    """`ca` is a file with the authority of the image service's certificate, told to users if it exists."""

    def __init__(self, cluster: Cluster, service_url: str, ca: Path) -> None:
        self._cluster = cluster
        self._url = service_url.rstrip("/")
        self._ca = ca
        self._offers: dict[str, _Offer] = {}

    async def offer(self, image: Image) -> None:
        """Makes the Image's Secret unless it is there, and takes uploads for it. Raises an `ApiError`."""
        name, namespace = upload_secret_name(image), image.metadata.namespace or ""
        secret = await self._read(name, namespace)
        if secret is None:
            try:
                secret = await self._cluster.create(SECRET, self._secret(image, name))
            except AlreadyExists:
                secret = await self._cluster.client.get(SECRET, name, namespace)
        token = _token(secret)
        if len(token) < _MIN_TOKEN:
            await self._cluster.delete(SECRET, name, namespace)
            secret = await self._cluster.create(SECRET, self._secret(image, name))
            token = _token(secret)
        self._offers[image.metadata.uid] = _Offer(_digest(token), name, request_of(image))

    async def withdraw(self, image: Image) -> None:
        """Takes no more uploads for the Image and deletes its Secret."""
        self._offers.pop(image.metadata.uid, None)
        await self._cluster.delete(SECRET, upload_secret_name(image), image.metadata.namespace)

    async def admit(self, uid: str, token: str) -> ImportRequest | None:
        """The import that an upload with this token is for; None if there is none. Raises an `ApiError`."""
        offer = self._offers.get(uid)
        # Compared also when there is no offer, so that the time tells nothing.
        digest = offer.digest if offer else bytes(hashlib.sha256().digest_size)
        if not hmac.compare_digest(_digest(token), digest) or offer is None:
            return None
        secret = await self._read(offer.secret, offer.request.key.namespace)
        if secret is None or not hmac.compare_digest(_digest(_token(secret)), digest):
            self._offers.pop(uid, None)
            return None
        return offer.request

    async def _read(self, name: str, namespace: str) -> dict[str, Any] | None:
        try:
            return await self._cluster.client.get(SECRET, name, namespace)
        except NotFound:
            return None

    def _secret(self, image: Image, name: str) -> dict[str, Any]:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        meta = image.metadata
        data = {"token": token, "url": f"{self._url}/v1/uploads/{meta.uid}?token={token}"}
        if self._ca.is_file():
            data["ca.crt"] = self._ca.read_text()
        owner = {"apiVersion": image.api_version, "kind": image.kind, "name": meta.name, "uid": meta.uid}
        return {
            "metadata": {
                "name": name,
                "namespace": meta.namespace,
                "labels": {"app.kubernetes.io/managed-by": "kumulus"},
                "ownerReferences": [owner],
            },
            "type": "Opaque",
            "stringData": data,
        }


def _token(secret: dict[str, Any]) -> str:
    try:
        return base64.b64decode((secret.get("data") or {}).get("token", "")).decode()
    except ValueError:
        return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()

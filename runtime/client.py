"""Requests to the apiserver: raw JSON in and out, typed errors, a timeout on each, a rate limit over all.

The transport, TLS and credentials (kubeconfig, in-cluster token and its renewal) are `kubernetes.aio`'s; its generated
models are left out, because they would parse every object into classes that nobody reads.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import kopf
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from runtime.kind import Kind
from runtime.rate import TokenBucket

Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_PAGE = 500


class ApiError(Exception):
    """The apiserver refused a request, or could not be reached (`status` 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


class NotFound(ApiError):
    """The object, or its namespace, does not exist, by the apiserver's own word."""


class AlreadyExists(ApiError):
    """An object of that name exists: whoever made it holds what the name stands for."""


class Conflict(ApiError):
    """The object changed since it was read; read it again and decide anew."""


class Forbidden(ApiError):
    """RBAC or an admission policy refused."""


class Invalid(ApiError):
    """The object does not pass validation."""


class Unavailable(ApiError):
    """No answer, a time-out, too many requests, a fault of the server, or a kind that it does not know: try later."""


def error_for(status: int, body: bytes | str) -> ApiError:
    """The typed error for an HTTP answer that carries a `metav1.Status`, or plain text from a proxy before it."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    reason, message, about = "", text[:500], ""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        reason, message = str(answer.get("reason") or ""), str(answer.get("message") or message)
        about = str((answer.get("details") or {}).get("name") or "")
    if status == 404:
        # Absence is acted upon, so only a server that names what it does not have is believed: not a proxy without a
        # backend, nor an apiserver that does not (yet) know the kind.
        return (NotFound if about else Unavailable)(status, reason, message)
    if status == 409:
        return (AlreadyExists if reason == "AlreadyExists" else Conflict)(status, reason, message)
    if status in (401, 403):
        return Forbidden(status, reason, message)
    if status in (400, 422):
        return Invalid(status, reason, message)
    if status == 429 or status >= 500:
        return Unavailable(status, reason, message)
    return ApiError(status, reason, message)


class Client:
    """One connection pool to one apiserver. Every method raises an `ApiError`."""

    def __init__(self, api: ApiClient, *, requests_per_second: float = 300, burst: int = 600) -> None:
        self._api = api
        self._bucket = TokenBucket(requests_per_second, burst)

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None) -> Client:
        """A client for the given kubeconfig, or for the pod's service account when there is none."""
        configuration = Configuration()
        # Retries belong to the controllers' back-off, which also tells the user through a condition.
        configuration.retries = False
        if kubeconfig is not None:
            await kube_config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
        else:
            kube_config.load_incluster_config(client_configuration=configuration)
        return cls(ApiClient(configuration))

    def connection(self) -> Callable[[], Awaitable[kopf.ConnectionInfo]]:
        """What kopf's login handler returns: the same server and credentials, a token as fresh as it can be."""

        async def info() -> kopf.ConnectionInfo:
            configuration = self._api.configuration
            scheme, token = None, None
            for setting in (await configuration.auth_settings()).values():
                if setting["in"] == "header" and setting["value"]:
                    scheme, _, token = str(setting["value"]).partition(" ")
            return kopf.ConnectionInfo(
                server=configuration.host,
                ca_path=configuration.ssl_ca_cert,
                certificate_path=configuration.cert_file,
                private_key_path=configuration.key_file,
                scheme=scheme,
                token=token,
            )

        return info

    async def close(self) -> None:
        await self._api.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        deadline: float = 30,
    ) -> Object:
        """One request; `path` begins with `/api`. Returns the decoded JSON object."""
        await self._bucket.take()
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = await self._headers() | {"Content-Type": content_type}
        try:
            answer = await self._api.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=aiohttp.ClientTimeout(total=deadline)
            )
            data = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(0, "Unreachable", f"{method} {path}: {error!r}") from error
        if not 200 <= answer.status < 300:
            raise error_for(answer.status, data)
        try:
            decoded = json.loads(data)
        except ValueError:
            decoded = None
        if not isinstance(decoded, dict):
            raise Unavailable(answer.status, "BadAnswer", f"{method} {path}: the answer is not a JSON object")
        return decoded

    async def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "kumulus"}
        for setting in (await self._api.configuration.auth_settings()).values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        return headers

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object:
        return await self.request("GET", kind.path(namespace, name))

    async def list(
        self, kind: Kind, namespace: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[Object], int]:
        """All objects, read in pages, and the list's resourceVersion."""
        query = {"limit": str(_PAGE)}
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        items: list[Object] = []
        while True:
            page = await self.request("GET", kind.path(namespace), query=query)
            for item in page.get("items", []):
                # Items of a list carry neither; an object must say what it is.
                item.setdefault("apiVersion", kind.api_version)
                item.setdefault("kind", kind.kind)
                items.append(item)
            token = page["metadata"].get("continue")
            if not token:
                return items, int(page["metadata"]["resourceVersion"])
            query["continue"] = token

    async def watch(self, kind: Kind, namespace: str | None, query: Mapping[str, str]) -> AsyncIterator[Object]:
        """The events of one watch request, until the server ends it. Controllers have caches instead."""
        path = f"{kind.path(namespace)}?{urlencode({'watch': 'true', **query})}"
        configuration = self._api.configuration
        answer = await self._api.rest_client.request(
            "GET", configuration.host + path, headers=await self._headers(), _request_timeout=aiohttp.ClientTimeout()
        )
        if answer.status != 200:
            raise error_for(answer.status, await answer.read())
        try:
            async for line in answer.response.content:
                yield json.loads(line)
        finally:
            answer.response.close()

    async def create(self, kind: Kind, obj: Object) -> Object:
        return await self.request("POST", kind.path(obj["metadata"].get("namespace")), body=obj)

    async def replace(self, kind: Kind, obj: Object, subresource: str = "") -> Object:
        """Writes the whole object; its `metadata.resourceVersion`, when set, is the precondition."""
        meta = obj["metadata"]
        return await self.request("PUT", kind.path(meta.get("namespace"), meta["name"], subresource), body=obj)

    async def merge_patch(
        self, kind: Kind, name: str, namespace: str | None, patch: Object, subresource: str = ""
    ) -> Object:
        """RFC 7396. Put `metadata.resourceVersion` into the patch to make it conditional."""
        path = kind.path(namespace, name, subresource)
        return await self.request("PATCH", path, body=patch, content_type=MERGE_PATCH)

    async def json_patch(
        self, kind: Kind, name: str, namespace: str | None, patch: Sequence[Object], subresource: str = ""
    ) -> Object:
        """RFC 6902; a `test` operation makes it conditional."""
        path = kind.path(namespace, name, subresource)
        return await self.request("PATCH", path, body=list(patch), content_type=JSON_PATCH)

    async def apply(self, kind: Kind, obj: Object, field_manager: str = "kumulus") -> Object:
        """Server-side apply, taking over fields that another manager holds."""
        meta = obj["metadata"]
        return await self.request(
            "PATCH",
            kind.path(meta.get("namespace"), meta["name"]),
            query={"fieldManager": field_manager, "force": "true"},
            body=obj,
            content_type=APPLY_PATCH,
        )

    async def delete(
        self, kind: Kind, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> Object | None:
        """Asks for deletion, of the object with that UID if given. None when it is not there (any more)."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            return await self.request("DELETE", kind.path(namespace, name), body=options)
        except NotFound:
            return None
        except Conflict as error:
            if uid is not None and error.status == 409:
                return None  # another object bears the name by now; the one that was meant is gone
            raise

    async def sleep_until_reachable(self, *, every: float = 1.0) -> None:
        """Returns once the apiserver answers `/version`; an agent starts also while it does not."""
        while True:
            try:
                await self.request("GET", "/version", deadline=5)
            except Unavailable:
                await asyncio.sleep(every)
            else:
                return

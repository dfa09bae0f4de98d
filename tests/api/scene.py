"""A tenant with all operators and a node behind it, and a web server with an image; what tests do with it, by kubectl.

At the end everything in it is deleted, and nothing may be left.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template

from all_operators import Cloud, Kubectl, all_operators, settings_in, until
from compute_cloud import KEY, RECORD, WORK
from image_rig import make_image
from kstatus import Told, kstatus
from opnet_cloud import GROUP_SLICE, IP_ALLOCATION, MAC_ALLOCATION, NETWORK_SLICE, SEGMENT
from shorthand import KINDS, Named, Object, as_yaml, manifests, name_of, named

import crds
from crds.meta import Controller
from lab.api import ApiServer
from operators.settings import Settings
from runtime.kind import EVENT, Kind

_HOLDERS: dict[Kind, Callable[[Object], str]] = {
    IP_ALLOCATION: lambda spec: spec["holder"]["uid"],
    MAC_ALLOCATION: lambda spec: spec["holder"]["uid"],
    SEGMENT: lambda spec: spec["holder"]["uid"],
    NETWORK_SLICE: lambda spec: spec["networkUID"],
    GROUP_SLICE: lambda spec: spec["groupUID"],
    WORK: lambda spec: spec["instanceRef"]["uid"],
}
"""Kinds whose objects are held by another, and that one's UID, from the spec."""


_OF_TENANTS = ",".join(
    f"{kind.DEFINITION.plural}.{kind.DEFINITION.api_group}"
    for kind in crds.KINDS
    if kind.DEFINITION.namespaced
    and kind.DEFINITION.group != "node"
    and kind.DEFINITION.controller in (Controller.PRESENT, Controller.PLANNED)
)
"""The kinds whose objects tenants make, as kubectl takes them; not the records of what is allocated."""


class Web(BaseHTTPRequestHandler):
    """An image at /disk, a trap at /redirect, nothing elsewhere."""

    disk = b""

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/user-data")
            self.end_headers()
        elif self.path == "/disk":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.disk)))
            self.end_headers()
            self.wfile.write(self.disk)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@dataclass
class Scene:
    """A tenant, and what is done in it. `values` are those of the short form's `$names`."""

    kubectl: Kubectl
    cloud: Cloud
    tenant: str
    values: dict[str, str]
    before: frozenset[str] = frozenset()

    def objects(self, *texts: str) -> list[Object]:
        """The manifests of each text; of an object that several texts have, the last."""
        found = {name_of(obj): obj for text in texts for obj in manifests(text, self.tenant, **self.values)}
        return list(found.values())

    def words(self, words: Sequence[str]) -> list[str]:
        return [Template(word).substitute(self.values) for word in words]

    def named(self, text: str) -> Named:
        return named(Template(text).substitute(self.values), self.tenant)

    def apply(self, *texts: str) -> None:
        self.cloud.apply(self.objects(*texts))

    def delete(self, *texts: str) -> None:
        """Deletes what the texts are of, and waits until it is gone."""
        gone = [name_of(obj) for obj in self.objects(*texts)]
        for obj in gone:
            self.cloud.delete(obj.kind, obj.name, obj.namespace)
        for obj in gone:
            until(lambda obj=obj: not self.get(obj), lambda obj=obj: f"{obj} does not go: {self.get(obj)}")

    def by_kubectl(self, *arguments: str, given: Sequence[str]) -> None:
        """`kubectl apply`, or another command that takes manifests."""
        self.kubectl.ok(*arguments, "-f", "-", given=as_yaml(self.objects(*given)))

    def clear(self) -> None:
        """Deletes the tenants whose names begin with this one's, and waits until nothing is left in them.

        Not until their namespaces are gone: Kubernetes takes some ten seconds for that.
        """
        tenants = self._ours("Tenant")
        for name in tenants:
            self.kubectl.ok("delete", _OF_TENANTS, "--all", "--wait=false", f"--namespace={name}")
        for kind in ("Flavor", "PhysicalNetwork", "Tenant"):
            self.kubectl.ok("delete", kind, "--ignore-not-found", "--wait=false", "none", *self._ours(kind))

        def left() -> list[str]:
            found = [obj for kind in ("Instance", "Port", "Network") for obj in self.cloud.list(KINDS[kind])]
            inside = [obj["metadata"] for obj in found if obj["metadata"]["namespace"] in tenants]
            return [meta["name"] for meta in inside] + self.leaks()

        until(lambda: not left(), lambda: f"left: {left()}")

    def _ours(self, kind: str) -> list[str]:
        names = [obj["metadata"]["name"] for obj in self.cloud.list(KINDS[kind])]
        return [name for name in names if name.startswith(self.tenant)]

    def get(self, obj: Named) -> Object:
        return self.cloud.get(obj.kind, obj.name, obj.namespace) or {}

    def until_current(self, *texts: str) -> None:
        """Waits until every object of Kumulus among these is Ready."""
        for obj in map(name_of, self.objects(*texts)):
            if obj.kind.group:

                def current(obj: Named = obj) -> bool:
                    seen = self.get(obj)
                    return bool(seen) and kstatus(seen) is Told.CURRENT

                until(current, lambda obj=obj: f"{obj} is not ready: {self.get(obj).get('status')}")

    def versions(self, texts: str) -> dict[Named, str]:
        """The resourceVersions of these objects; every one must be Ready."""
        seen = {obj: self.get(obj) for obj in map(name_of, self.objects(texts))}
        assert {str(obj): kstatus(found) for obj, found in seen.items() if kstatus(found) is not Told.CURRENT} == {}
        return {obj: found["metadata"]["resourceVersion"] for obj, found in seen.items()}

    def held_by(self, uid: str) -> list[str]:
        """What is allocated to the object with this UID."""
        return [what for what, holder in self._holdings() if holder == uid]

    def leaks(self) -> list[str]:
        """What is allocated to objects that are no more, and was not when the scene began."""
        holdings = self._holdings()
        kinds = ("Network", "Subnet", "Port", "SecurityGroup", "Instance")
        alive = {obj["metadata"]["uid"] for kind in kinds for obj in self.cloud.list(KINDS[kind])}
        return [what for what, holder in holdings if holder not in alive and what not in self.before]

    def _holdings(self) -> list[tuple[str, str]]:
        """Everything that is allocated, with its holder's UID."""
        found = []
        for kind, holder in _HOLDERS.items():
            found += [(f"{kind.kind} {obj['metadata']['name']}", holder(obj["spec"])) for obj in self.cloud.list(kind)]
        for record in self.cloud.list(RECORD):
            places = record["spec"].get("allocations") or []
            found += [(f"place of {one['name']} on {record['metadata']['name']}", one["uid"]) for one in places]
        return found

    def warnings(self, obj: Named) -> set[str]:
        """The reasons of the Warning Events about an object."""
        events = self.cloud.list(EVENT, obj.namespace or "default")
        about = [
            one for one in events if (one["regarding"]["kind"], one["regarding"]["name"]) == (obj.kind.kind, obj.name)
        ]
        return {one["reason"] for one in about if one["type"] == "Warning"}


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serves what `Web` says; the URL, without a slash at its end."""
    Web.disk = make_image(folder / "disk")
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def scene_of(
    apiserver: ApiServer,
    folder: Path,
    prefix: str,
    operators: Callable[[ApiServer, Settings], AbstractContextManager[object]] = all_operators,
) -> Iterator[Scene]:
    """A scene in a new tenant that is Ready. All tenants whose names begin with its name are cleared at the end."""
    tenant = f"{prefix}-{uuid.uuid4().hex[:6]}"
    kubectl = Kubectl(apiserver.kubeconfig)
    settings = settings_in(folder)
    with web_server(folder) as web, Cloud(apiserver, f"{tenant}-node") as cloud, operators(apiserver, settings):
        values = {
            "T": tenant,
            "WEB": web,
            "TLS": settings.image_service_url,  # its certificate is of an authority that nobody else trusts
            "KEY": KEY,
            "CUT": " ".join([KEY.split()[0], KEY.split()[1][:60]]),
            "LONG": "x" * 65537,
            "SUM": hashlib.sha256(Web.disk).hexdigest(),
        }
        scene = Scene(kubectl, cloud, tenant, values)
        scene.before = frozenset(scene.leaks())
        try:
            scene.apply("Tenant $T: {}")
            scene.until_current("Tenant $T: {}")
            yield scene
        finally:
            scene.clear()

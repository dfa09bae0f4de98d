"""Kubeconfig files with the certificates inside, so that one file is all a client needs."""

import base64
from collections.abc import Sequence
from pathlib import Path

import yaml

from lab import pki
from lab.pki import Pair, write_private


def write_kubeconfig(path: Path, *, server: str, ca_cert: Path, user: str, pair: Pair) -> Path:
    """Write a kubeconfig for ``user`` (its client certificate ``pair``) at the API server ``server`` (a https URL)."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "kumulus-lab", "cluster": {"server": server, "certificate-authority-data": _data(ca_cert)}}
        ],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": _data(pair.cert), "client-key-data": _data(pair.key)},
            }
        ],
        "contexts": [{"name": "kumulus-lab", "context": {"cluster": "kumulus-lab", "user": user}}],
        "current-context": "kumulus-lab",
    }
    write_private(path, yaml.safe_dump(content, sort_keys=False).encode())
    return path


def says(path: Path, *, server: str, user: str, groups: Sequence[str]) -> bool:
    """Whether the kubeconfig at ``path``, of write_kubeconfig, is for this server, user and set of groups."""
    content = yaml.safe_load(path.read_text())
    certificate = base64.b64decode(content["users"][0]["user"]["client-certificate-data"])
    present = content["clusters"][0]["cluster"]["server"], *pki.identity(certificate)
    return present == (server, user, frozenset(groups))


def client_environment(folder: Path) -> dict[str, str]:
    """What kubectl and helm are told, so that they keep nothing in the user's home of a cluster that will be gone."""
    return {"KUBECACHEDIR": str(folder / "kube-cache")}


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()

"""`kumulus-lab up --api-only`: an API server that stays until `down`, for whoever wants one outside a test."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from lab import binaries
from lab.api import ApiServer, running, tools_of
from lab.errors import LabError
from lab.layout import Layout
from lab.locking import locked
from lab.probe import is_ready
from lab.progress import step


def api_folder(name: str) -> Path:
    """/run/kumulus-lab-api/<name> for root; for others below $XDG_RUNTIME_DIR, or /tmp when there is none."""
    if os.geteuid() == 0:
        return Path("/run/kumulus-lab-api") / name
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "kumulus-lab-api" if runtime else Path(f"/tmp/kumulus-lab-api-{os.getuid()}")  # noqa: S108  # checked to be ours
    return base / name


def api_only_is_up(name: str) -> bool:
    """Whether there is one to take down, running or not."""
    return api_folder(name).exists()


def api_only_is_ready(name: str) -> bool:
    """Whether it answers: false also when whoever started it was killed in the middle."""
    kubeconfig = api_only_kubeconfig(name)
    if not kubeconfig.exists():
        return False
    url = urlsplit(yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"])
    return is_ready(url.hostname or "", url.port or 0, ApiServer(api_folder(name)).ca_cert)


def api_only_kubeconfig(name: str) -> Path:
    return api_folder(name) / "admin.kubeconfig"


def api_only_tools(name: str) -> Path | None:
    """The folder with ready-made tools that it was brought up with."""
    record = _tools_record(api_folder(name))
    return Path(record.read_text()) if record.exists() else None


def api_only_up(layout: Layout, with_controller_manager: bool, bin_dir: Path | None) -> Path:
    """Start it unless it runs, and return the administrator's kubeconfig. Raises LabError."""
    folder = api_folder(layout.name)
    if not folder.exists():
        binaries.ensure(tools_of(with_controller_manager), bin_dir)  # minutes: before anybody waits for the lock
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.parent.stat().st_uid != os.geteuid():
        raise LabError(f"{folder.parent} belongs to another user")
    with locked(folder.parent, "an API server", mode=0o700):
        return _start(layout, folder, with_controller_manager, bin_dir)


def _start(layout: Layout, folder: Path, with_controller_manager: bool, bin_dir: Path | None) -> Path:
    name = layout.name
    if folder.exists():
        if api_only_is_ready(name):
            if with_controller_manager and "kube-controller-manager" not in running(folder).values():
                raise LabError(f"it is up without kube-controller-manager: run `{layout.command('down')}` first")
            return api_only_kubeconfig(name)
        ApiServer(folder, detached=True).stop()
    folder.mkdir(mode=0o700)
    if bin_dir is not None:
        _tools_record(folder).write_text(str(bin_dir.absolute()))
    api = ApiServer(folder, with_controller_manager=with_controller_manager, detached=True, bin_dir=bin_dir)
    with step("etcd and kube-apiserver are ready"):
        api.start()
    return api.kubeconfig


def api_only_down(name: str) -> None:
    folder = api_folder(name)
    with locked(folder.parent, "an API server", create=False):
        ApiServer(folder, detached=True).stop()
        if folder.parent.exists() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _tools_record(folder: Path) -> Path:
    return folder / "bin-dir"

"""`kumulus-lab up --api-only`: an API server that stays until `down`, for whoever wants one outside a test."""

import os
from pathlib import Path

from lab.api import ApiServer, recorded_pids
from lab.errors import LabError
from lab.progress import step


def api_folder(name: str) -> Path:
    """/run/kumulus-lab-api/<name> for root; for others below $XDG_RUNTIME_DIR, or /tmp when there is none."""
    if os.geteuid() == 0:
        return Path("/run/kumulus-lab-api") / name
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "kumulus-lab-api" if runtime else Path(f"/tmp/kumulus-lab-api-{os.getuid()}")  # noqa: S108  # checked to be ours
    return base / name


def api_only_is_up(name: str) -> bool:
    return api_folder(name).exists()


def api_only_kubeconfig(name: str) -> Path:
    return api_folder(name) / "admin.kubeconfig"


def api_only_up(name: str, with_controller_manager: bool, bin_dir: Path | None) -> Path:
    """Start it unless it runs, and return the administrator's kubeconfig. Raises LabError."""
    folder = api_folder(name)
    if folder.exists():
        if recorded_pids(folder):
            return api_only_kubeconfig(name)
        api_only_down(name)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.parent.stat().st_uid != os.geteuid():
        raise LabError(f"{folder.parent} belongs to another user")
    folder.mkdir(mode=0o700)
    api = ApiServer(folder, with_controller_manager=with_controller_manager, detached=True, bin_dir=bin_dir)
    with step("etcd and kube-apiserver are ready"):
        api.start()
    return api.kubeconfig


def api_only_down(name: str) -> None:
    folder = api_folder(name)
    ApiServer(folder, detached=True).stop()
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()

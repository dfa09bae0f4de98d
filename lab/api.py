"""etcd and kube-apiserver on 127.0.0.1, for tests of the API: no root, no namespaces, several side by side.

    with ApiServer() as api:
        client_for(api.kubeconfig)

Ready some 2 s after start. TLS and RBAC are on, as in the lab's cluster.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from lab.binaries import API_TOOLS, ensure
from lab.controlplane import ADMIN, ControlPlane, ca_pair
from lab.errors import LabError
from lab.layout import user_file_name
from lab.probe import is_ready, wait_for

_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")

_ATTEMPTS = 3
_READY_TIMEOUT = 30.0


class ApiServer:
    """An API server with its etcd.

    directory: where its files go; a temporary one, removed by stop(), when not given.
    with_controller_manager: namespaces get deleted, garbage is collected, aggregated ClusterRoles are filled.
    detached: the processes outlive this one (and stop() of another process, given the same directory, ends them);
    otherwise they end with the thread that called start(), also when it is killed.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        with_controller_manager: bool = False,
        detached: bool = False,
        bin_dir: Path | None = None,
    ) -> None:
        self.directory = directory or Path(tempfile.mkdtemp(prefix="kumulus-api-"))
        self._with_controller_manager = with_controller_manager
        self._detached = detached
        self._bin_dir = bin_dir
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._plane: ControlPlane | None = None

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.directory / "admin.kubeconfig"

    @property
    def plane(self) -> ControlPlane:
        if self._plane is None:
            raise LabError("the API server has not been started")
        return self._plane

    @property
    def url(self) -> str:
        return self.plane.url

    @property
    def ca_cert(self) -> Path:
        return ca_pair(self.directory).cert

    @property
    def pids(self) -> dict[str, int]:
        """Process id by program."""
        return {name: process.pid for name, process in self._processes.items()}

    def user_kubeconfig(self, name: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig whose client certificate says that its holder is user ``name`` in ``groups``."""
        file = self.directory / "users" / f"{user_file_name(name)}.kubeconfig"
        return self.plane.kubeconfig(file, name, groups)

    def log(self, program: str) -> Path:
        return self.directory / "logs" / f"{program}.log"

    def start(self) -> "ApiServer":
        paths = ensure(tools_of(self._with_controller_manager), self._bin_dir)
        self.log("").parent.mkdir(parents=True, exist_ok=True)
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                if self._try_start(paths):
                    return self
                # A port that was free may have been taken before etcd or the API server bound it.
                self._end_processes()
                if attempt == _ATTEMPTS:
                    raise LabError(f"the API server did not start:\n{self._last_words()}")
            raise AssertionError("unreachable")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the processes and remove the directory."""
        self._end_processes()
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def restart_apiserver(self) -> None:
        """Kill kube-apiserver without warning and start it again on the same port: clients see the API go and come."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()
        paths = ensure(API_TOOLS, self._bin_dir)
        self._spawn("kube-apiserver", self.plane.apiserver(paths["kube-apiserver"], advertise=False))
        if not self._wait_ready():
            raise LabError(f"the API server did not come back:\n{self._last_words()}")

    def __enter__(self) -> "ApiServer":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _try_start(self, paths: dict[str, Path]) -> bool:
        api, etcd, peer, manager = _free_ports(4)
        self._plane = ControlPlane(
            folder=self.directory,
            data=self.directory / "etcd",
            address="127.0.0.1",
            api_port=api,
            etcd_port=etcd,
            etcd_peer_port=peer,
            controller_manager_port=manager,
        )
        shutil.rmtree(self._plane.data, ignore_errors=True)
        self._plane.prepare()
        self._plane.kubeconfig(self.kubeconfig, ADMIN, ["system:masters"])
        self._spawn("etcd", self._plane.etcd(paths["etcd"]))
        self._spawn("kube-apiserver", self._plane.apiserver(paths["kube-apiserver"], advertise=False))
        if not self._wait_ready():
            return False
        if self._with_controller_manager:
            argv = self._plane.controller_manager(paths["kube-controller-manager"])
            self._spawn("kube-controller-manager", argv)
        return True

    def _spawn(self, program: str, argv: list[str]) -> None:
        prefix = [] if self._detached else ["setpriv", "--pdeathsig", "KILL", "--"]
        with self.log(program).open("ab") as log:
            self._processes[program] = subprocess.Popen(
                [*prefix, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_ready(self) -> bool:
        """False as soon as a process has ended."""
        plane = self.plane
        alive = True

        def settled() -> bool:
            nonlocal alive
            alive = all(process.poll() is None for process in self._processes.values())
            return not alive or is_ready("127.0.0.1", plane.api_port, plane.ca.cert)

        wait_for(settled, _READY_TIMEOUT, f"the API server is not ready:\n{self._last_words()}")
        return alive

    def _end_processes(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        if self._detached:
            wait_for(self._none_left, 10, f"processes of {self.directory} do not end")

    def _none_left(self) -> bool:
        found = running(self.directory)
        for pid in found:
            # It may have ended between the look and the signal.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    def _last_words(self) -> str:
        logs = [self.log(program) for program in ("etcd", "kube-apiserver")]
        return "\n".join(line for log in logs if log.exists() for line in log.read_text().splitlines()[-8:])


def tools_of(with_controller_manager: bool) -> list[str]:
    return [*API_TOOLS, *(["kube-controller-manager"] if with_controller_manager else [])]


def running(directory: Path) -> dict[int, str]:
    """Program by pid of an API server of ``directory``, whoever started it, told by the files that they were given.

    No record of them could be complete: whoever starts them may be killed before it writes one.
    """
    mark = f"={directory}/".encode()
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        # The process may end while it is looked at; one that we may not look at is another user's.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            command, *words = (process / "cmdline").read_bytes().split(b"\0")
            program = Path(os.fsdecode(command)).name
            if program in _PROGRAMS and any(mark in word for word in words):
                found[int(process.name)] = program
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()

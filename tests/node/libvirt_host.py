"""A libvirtd of a test's own: in its own mount and network namespace, its files in a temporary folder.

Its socket lies in that folder, so the test reaches it from outside. Guests are emulated (no KVM) and have no network.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

_QEMU_CONF = """\
security_driver = "none"
cgroup_controllers = []
namespaces = []
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
"""
_LIBVIRTD_CONF = """\
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "3:stderr"
"""
_FOLDERS = {
    "run": "/run/libvirt",
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
_READY_WITHIN = 30.0


class LibvirtHost:
    """`start()`, `kill()` (SIGKILL; guests go on), `stop()` (guests too)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._daemon: subprocess.Popen[bytes] | None = None
        for name in _FOLDERS:
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "etc/qemu.conf").write_text(_QEMU_CONF)
        (directory / "etc/libvirtd.conf").write_text(_LIBVIRTD_CONF)

    @property
    def socket(self) -> Path:
        return self.directory / "run/libvirt-sock"

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.socket}"

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        binds = [word for name, target in _FOLDERS.items() for word in ("--bind", str(self.directory / name), target)]
        with (self.directory / "libvirtd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [
                    *(
                        "bwrap",
                        "--die-with-parent",
                        "--unshare-net",
                        "--dev-bind",
                        "/",
                        "/",
                        *binds,
                        "--cap-add",
                        "ALL",
                        "--",
                    ),
                    *("libvirtd", "-p", "/run/libvirt/libvirtd.pid", "-f", "/etc/libvirt/libvirtd.conf"),
                ],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + _READY_WITHIN
        while not self.socket.exists():
            assert self._daemon.poll() is None, (self.directory / "libvirtd.log").read_text()
            assert time.monotonic() < deadline, "libvirtd does not come up"
            time.sleep(0.05)

    def kill(self) -> None:
        """libvirtd ends as by a crash; its guests do not notice."""
        self._end(signal.SIGKILL)

    def ended(self) -> None:
        """Waits until somebody else has ended libvirtd."""
        assert self._daemon is not None
        self._daemon.wait(20)

    def _end(self, number: signal.Signals) -> None:
        # bwrap, which is what was started, passes no signal on; it ends when libvirtd has.
        assert self._daemon is not None
        os.kill(int((self.directory / "run/libvirtd.pid").read_text()), number)
        self._daemon.wait(20)

    def guests(self) -> list[int]:
        """The process IDs of running guests."""
        found = []
        for path in (self.directory / "run/qemu").glob("*-*.pid"):
            pid = int(path.read_text())
            if Path(f"/proc/{pid}").exists():
                found.append(pid)
        return found

    def stop(self) -> None:
        for pid in self.guests():
            os.kill(pid, signal.SIGKILL)
        if self._daemon is not None and self._daemon.poll() is None:
            self._end(signal.SIGTERM)

"""Running dnsmasq: found again after a restart of the agent, reloaded by SIGHUP, ended. The files are `dhcp.py`'s."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hostagent.network import netns
from hostagent.network.dhcp import (
    CONFIGURATION_PREFIX,
    HOSTS,
    LOADED,
    OPTIONS,
    PID,
    configuration_name,
    loaded_hash,
)
from hostagent.network.errors import DataPlaneError
from hostagent.network.state import DhcpFiles, DhcpProcess

START_SECONDS = 10
END_SECONDS = 5


def find(directory: Path, namespace: Path) -> DhcpProcess | None:
    """The dnsmasq of a network, if it runs in the network's namespace with a configuration of this directory."""
    inode = netns.inode(namespace)
    for pid in _candidates(directory):
        configuration = _configuration(pid, directory)
        if configuration is not None and _namespace_inode(pid) == inode:
            return DhcpProcess(pid, configuration, _loaded(directory, pid))
    return None


def _candidates(directory: Path) -> Iterator[int]:
    """The one that its file names; where the file is missing or old, any."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        yield int((directory / PID).read_text())
    if directory.is_dir():
        yield from _all_processes()


def _loaded(directory: Path, pid: int) -> str:
    """What the process was last told to read; a note about another process says nothing."""
    try:
        noted_pid, _, noted = (directory / LOADED).read_text().partition(" ")
    except FileNotFoundError:
        return ""
    return noted.strip() if noted_pid == str(pid) else ""


def _all_processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _configuration(pid: int, directory: Path) -> str | None:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    prefix = f"--conf-file={directory}/{CONFIGURATION_PREFIX}".encode()
    for argument in arguments:
        if argument.startswith(prefix):
            return CONFIGURATION_PREFIX + argument[len(prefix) :].decode()
    return None


def _namespace_inode(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino  # noqa: PTH116 (a Path would resolve to the same call)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def start(files: DhcpFiles, launcher: tuple[str, ...]) -> int:
    """Start it in the calling thread's namespace, detached, and return its process number once it answers requests."""
    directory = Path(files.directory)
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    Path(files.leases).parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    (directory / LOADED).unlink(missing_ok=True)
    (directory / PID).unlink(missing_ok=True)
    _write_tables(files)
    name = configuration_name(files)
    _write(directory / name, files.arguments)
    for old in directory.glob(f"{CONFIGURATION_PREFIX}*.conf"):
        if old.name != name:
            old.unlink()
    program = shutil.which("dnsmasq", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin") or "dnsmasq"
    # It makes itself a daemon: what returns is its parent, after the sockets are open.
    result = subprocess.run(
        [*launcher, program, f"--conf-file={directory / name}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        start_new_session=True,
        check=False,
    )
    if result.returncode != 0:
        raise DataPlaneError(f"dnsmasq does not start: {result.stderr.strip()}")
    pid = int((directory / PID).read_text())
    _note_loaded(files, pid)
    return pid


def reload(files: DhcpFiles, pid: int) -> None:
    """Give a running dnsmasq new bindings and options. The note comes last, so that a crash before it repeats the
    signal."""
    _write_tables(files)
    os.kill(pid, signal.SIGHUP)
    _note_loaded(files, pid)


def stop(pid: int) -> None:
    """End it and wait until it is gone. No error when it already is."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], [], [], END_SECONDS)[0]:
                return
    finally:
        os.close(descriptor)
    raise DataPlaneError(f"dnsmasq {pid} does not end")


def remove_files(directory: Path, leases: Path) -> None:
    if directory.is_dir():
        shutil.rmtree(directory)
    leases.unlink(missing_ok=True)


def _write_tables(files: DhcpFiles) -> None:
    directory = Path(files.directory)
    _write(directory / HOSTS, files.hosts)
    _write(directory / OPTIONS, files.options)


def _note_loaded(files: DhcpFiles, pid: int) -> None:
    _write(Path(files.directory) / LOADED, f"{pid} {loaded_hash(files)}\n")


def _write(path: Path, text: str) -> None:
    """Whole or not at all; readable for dnsmasq's own user."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.chmod(0o644)
    temporary.replace(path)

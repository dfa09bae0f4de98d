"""The lab's processes, each kept alive by its own runsv(8): killed, it is back within a second.

A service is named ``etcd`` or, when it belongs to a node, ``node1/libvirtd``. Its folder is <run>/services/<name>, its
log <run>/logs/<name>.log. The command runs in the lab's cgroup, so that `down` finds it and all that it started.
"""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import cgroups
from lab.command import run
from lab.errors import LabError
from lab.hosts import enter
from lab.layout import Layout
from lab.pki import write_private
from lab.probe import wait_for

# Where runsv(8)'s status file says "u" or "d": what was asked for, also in the second between two tries to start it.
_WANTED = 17

_DEFAULT_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True)
class ServiceState:
    """``pid`` is None while the process is not running; ``wanted`` is whether runsv is to keep it running."""

    name: str
    pid: int | None
    wanted: bool


def add(
    layout: Layout, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None, host: str | None = None
) -> None:
    """Define the service and start it, in ``host`` or in the machine's own namespaces; its log is Layout.log(name).

    A service that runs already is restarted only if its command or environment changed. Values of ``env`` go to
    files of mode 0600, not to the command line; they must be single lines.
    """
    folder = layout.services / name
    log = layout.log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    # A killed process leaves its temporary files, keys among them: they go with the lab.
    temporary = layout.data / "tmp"
    temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = _DEFAULT_ENVIRONMENT | {"TMPDIR": str(temporary)} | dict(env or {})
    changed = _write_environment(folder / "env", environment)
    prefix = enter(layout, host) if host else []
    command = ["env", "-i", "chpst", "-e", str(folder / "env"), *prefix, *(str(word) for word in argv)]
    script = f"#!/bin/sh\nexec >>{shlex.quote(str(log))} 2>&1\nexec {shlex.join(command)}\n"
    run_file = folder / "run"
    if not run_file.exists() or run_file.read_text() != script:
        changed = True
        unfinished = folder / "run.new"
        unfinished.write_text(script)
        unfinished.chmod(0o700)
        unfinished.rename(run_file)
    if not _is_supervised(folder):
        _supervise(layout, folder)
    elif changed:
        run(["sv", "-w", "20", "force-restart", folder], timeout=40)
    else:
        up(layout, name)


def remove(layout: Layout, name: str) -> None:
    """Stop the service (SIGTERM, after 20 s SIGKILL) and forget it. Its log stays."""
    folder = _folder(layout, name)
    if _is_supervised(folder):
        run(["sv", "-w", "20", "force-shutdown", folder], timeout=40)
        wait_for(lambda: not _is_supervised(folder), 10, f"runsv of {name} does not end")
    shutil.rmtree(folder)


def up(layout: Layout, name: str) -> None:
    """Start the service, if it does not run, and keep it running."""
    folder = _folder(layout, name)
    if not _is_supervised(folder):
        _supervise(layout, folder)
    run(["sv", "-w", "10", "up", folder])


def down(layout: Layout, name: str) -> None:
    """Stop the service, SIGTERM and after 20 s SIGKILL, and leave it stopped."""
    try:
        run(["sv", "-w", "20", "force-stop", _folder(layout, name)], timeout=40)
    except LabError:
        # sv(8) also fails when it had to send SIGKILL.
        wait_for(lambda: pid(layout, name) is None, 10, f"{name} does not end")


def kill(layout: Layout, name: str, signum: int = signal.SIGKILL) -> int:
    """Send the process a signal and return the pid that it had."""
    process = pid(layout, name)
    if process is None:
        raise LabError(f"{name} is not running")
    os.kill(process, signum)
    return process


def pid(layout: Layout, name: str) -> int | None:
    """The service's process, None while it has none."""
    path = _folder(layout, name) / "supervise/pid"
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text else None


def names(layout: Layout) -> list[str]:
    """Every service of the lab, in alphabetical order."""
    if not layout.services.exists():
        return []
    return sorted(str(path.parent.relative_to(layout.services)) for path in layout.services.rglob("run"))


def state(layout: Layout, name: str) -> ServiceState:
    status = _folder(layout, name) / "supervise/status"
    content = status.read_bytes() if status.exists() else b""
    return ServiceState(name, pid(layout, name), wanted=content[_WANTED : _WANTED + 1] == b"u")


def wait_ready(layout: Layout, name: str, check: Callable[[], bool], timeout: float = 30) -> None:
    """Wait until ``check()`` holds. Raises LabError with the end of the service's log."""
    try:
        wait_for(check, timeout, f"{name} is not ready")
    except LabError as error:
        log = layout.log(name)
        last = "\n".join(log.read_text(errors="replace").splitlines()[-10:]) if log.exists() else ""
        raise LabError(f"{error}; the end of {log}:\n{last}") from error


def wait_restarted(layout: Layout, name: str, old_pid: int, timeout: float = 10) -> int:
    """Wait until the service runs as another process than ``old_pid`` and return the new pid."""
    wait_for(lambda: pid(layout, name) not in (None, old_pid), timeout, f"{name} does not come back")
    new_pid = pid(layout, name)
    if new_pid is None:
        raise LabError(f"{name} came back and ended again; see {layout.log(name)}")
    return new_pid


def _folder(layout: Layout, name: str) -> Path:
    folder = layout.services / name
    if not (folder / "run").exists():
        raise LabError(f"the lab has no component {name!r}; it has: {', '.join(names(layout)) or 'none'}")
    return folder


def _write_environment(folder: Path, values: Mapping[str, str]) -> bool:
    """Write an envdir (chpst(8)); True if anything changed."""
    for key, value in values.items():
        if "\n" in value or "\0" in value:
            raise LabError(f"environment variable {key} must be a single line")
    wanted = {key: value.encode() + b"\n" for key, value in values.items()}
    present = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
    if wanted == present:
        return False
    for key in present.keys() - wanted.keys():
        (folder / key).unlink()
    for key, content in wanted.items():
        write_private(folder / key, content)
    return True


def _supervise(layout: Layout, folder: Path) -> None:
    group = cgroups.create(layout.name)
    launcher = Path(__file__).parent / "supervise"
    with (layout.logs / "runsv.log").open("ab") as log:
        subprocess.run(
            # --fork: the machine's init becomes its parent, so that no process of ours needs to wait for it.
            ["setsid", "--fork", str(launcher), str(group / "cgroup.procs"), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )
    wait_for(lambda: _is_supervised(folder), 10, f"runsv of {folder.name} does not start; see {layout.logs}/runsv.log")


def _is_supervised(folder: Path) -> bool:
    """Whether a runsv runs for ``folder``: it alone holds the reading end of this FIFO open."""
    try:
        os.close(os.open(folder / "supervise/ok", os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True

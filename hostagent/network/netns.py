"""Network namespaces by path, as `ip netns` keeps them, entered by single threads. Sources: setns(2), ip-netns(8)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from hostagent.network.errors import DataPlaneError

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 1 << 20
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _thread_namespace() -> str:
    return f"/proc/self/task/{threading.get_native_id()}/ns/net"


def open_current() -> int:
    """A descriptor of the calling thread's namespace."""
    return os.open(_thread_namespace(), os.O_RDONLY | os.O_CLOEXEC)


def open_path(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def enter(descriptor: int) -> None:
    """Move the calling thread for good."""
    _call("setns", descriptor, _CLONE_NEWNET)


@contextlib.contextmanager
def inside(path: Path) -> Iterator[None]:
    """The calling thread is in the namespace for the time of the block; processes started there are too."""
    home = open_current()
    try:
        target = open_path(path)
        try:
            enter(target)
        finally:
            os.close(target)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)


def exists(path: Path) -> bool:
    """Whether the path is a namespace, not just the empty file that a crash between creating and mounting leaves."""
    try:
        return path.stat().st_dev != path.parent.stat().st_dev
    except FileNotFoundError:
        return False


def inode(path: Path) -> int:
    return path.stat().st_ino


def create(path: Path) -> None:
    """Make a namespace and bind it to the path; nothing happens when it is there."""
    if exists(path):
        return
    _prepare_directory(path.parent)
    path.touch(mode=0o444)
    failures: list[OSError] = []

    # A thread of its own, since what unshare(2) leaves behind must not be the namespace of any later work.
    def make() -> None:
        try:
            _call("unshare", _CLONE_NEWNET)
            _call("mount", _thread_namespace().encode(), str(path).encode(), None, _MS_BIND, None)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=make, name="netns-create")
    thread.start()
    thread.join()
    if failures:
        path.unlink(missing_ok=True)
        raise DataPlaneError(f"cannot make the network namespace {path}: {failures[0]}; the agent must be privileged")


def delete(path: Path) -> None:
    """Unbind the path. The namespace ends with the last process, socket or path that is in it."""
    with contextlib.suppress(FileNotFoundError):
        if exists(path):
            _call("umount2", str(path).encode(), _MNT_DETACH)
        path.unlink()


def _prepare_directory(directory: Path) -> None:
    """As `ip netns` does it: mounts in the directory must reach the mount namespaces of others."""
    directory.mkdir(parents=True, exist_ok=True)
    name = str(directory).encode()
    if _libc.mount(b"", name, b"none", _MS_SHARED | _MS_REC, None) == 0:
        return
    _call("mount", name, name, b"none", _MS_BIND | _MS_REC, None)
    _call("mount", b"", name, b"none", _MS_SHARED | _MS_REC, None)


def release_directory(directory: Path) -> None:
    """Undo what `create` did to a directory, once no namespace is left in it."""
    if directory.is_dir() and not any(directory.iterdir()) and _is_mount_point(directory):
        _call("umount2", str(directory).encode(), _MNT_DETACH)


def _is_mount_point(directory: Path) -> bool:
    """os.path.ismount does not see a directory that is bound to itself."""
    resolved = str(directory.resolve())
    return any(line.split()[4] == resolved for line in Path("/proc/self/mountinfo").read_text().splitlines())

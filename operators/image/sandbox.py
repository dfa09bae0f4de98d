"""Programs that read hostile bytes: without privileges, network, other files, or much of anything.

bubblewrap (https://github.com/containers/bubblewrap) makes the namespaces. Who runs it decides how privileges go:
an unprivileged caller stays who it is, in a user namespace; root, whose user namespace would still be root for the
kernel, becomes `nobody` by setpriv inside. Limits are setrlimit(2)'s; the clock on the wall is ours.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from operators.image.failure import ImportFailure, Reason, refused, transient

INPUT = "/in/image"
OUTPUT = "/out"

_NOBODY = 65534
_MAX_TEXT = 1 << 20
_SETUP = (b"bwrap: ", b"setpriv: ", b"prlimit: ")


@dataclass(frozen=True)
class Limits:
    """Seconds of wall clock and of CPU; bytes of address space, and of any file written."""

    wall: float
    cpu: int
    memory: int = 2 << 30
    file_size: int = 0
    files: int = 64


@dataclass(frozen=True)
class Outcome:
    """How a program ended: its exit code (128 + signal when killed) and at most 1 MiB of each stream."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def exceeded(self) -> bool:
        """Whether a limit of setrlimit(2) ended it."""
        return self.code in (128 + signal.SIGXCPU, 128 + signal.SIGXFSZ, 128 + signal.SIGKILL)


def command(
    program: Sequence[str], source: Path | None, output: Path | None, limits: Limits, *, root: bool
) -> list[str]:
    """The argv that runs `program`, which sees `source` as /in/image (read only) and `output` as the folder /out."""
    argv = ["bwrap", "--die-with-parent", "--new-session", "--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin"]
    argv += ["--setenv", "LC_ALL", "C", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    argv += ["--unshare-cgroup-try", "--hostname", "sandbox", "--chdir", "/"]
    if root:
        argv += ["--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):  # what setpriv needs to give up all
            argv += ["--cap-add", capability]
    else:
        argv += ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY), "--cap-drop", "ALL"]
    argv += ["--ro-bind", "/usr", "/usr", *_usr_links(), "--dev", "/dev"]
    if source is not None:
        argv += ["--perms", "0755", "--dir", "/in", "--ro-bind", str(source), INPUT]
    if output is not None:
        argv += ["--bind", str(output), OUTPUT]
    argv += ["--remount-ro", "/dev", "--remount-ro", "/", "--"]
    if root:
        argv += ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--inh-caps=-all"]
        argv += ["--bounding-set=-all", "--no-new-privs", "--"]
    argv += ["prlimit", f"--as={limits.memory}", f"--cpu={limits.cpu}", f"--fsize={limits.file_size}"]
    argv += [f"--nofile={limits.files}", "--core=0", "--"]
    return [*argv, *program]


def _usr_links() -> list[str]:
    argv: list[str] = []
    for name in ("bin", "sbin", "lib", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            argv += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            argv += ["--ro-bind", str(path), str(path)]
    return argv


async def run(
    program: Sequence[str],
    *,
    source: Path | None = None,
    output: Path | None = None,
    limits: Limits,
    on_output: Callable[[bytes], None] | None = None,
) -> Outcome:
    """Runs a program to its end; `on_output` gets what it writes to stdout, as it comes.

    `source` must be readable by anybody who can reach it; `output` becomes the sandbox user's.

    Raises `ImportFailure`: SandboxUnavailable (it never runs without), InspectionLimit when the wall clock runs out.
    When cancelled, nothing of it is left running.
    """
    root = os.geteuid() == 0
    if root and output is not None:
        os.chown(output, _NOBODY, _NOBODY)
    try:
        process = await asyncio.create_subprocess_exec(
            *command(program, source, output, limits, root=root),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
        )
    except OSError as error:
        raise _unavailable(str(error)) from error
    assert process.stdout is not None  # noqa: S101 - asked for
    assert process.stderr is not None  # noqa: S101 - asked for
    reading = asyncio.gather(_drain(process.stdout, on_output), _drain(process.stderr, None))
    try:
        async with asyncio.timeout(limits.wall):
            stdout, stderr = await reading
            code = await process.wait()
    except TimeoutError:
        raise refused(
            Reason.INSPECTION_LIMIT,
            f"Reading the image took longer than {limits.wall:.0f} s. Convert it to a plain qcow2 and import that.",
        ) from None
    finally:
        reading.cancel()
        if process.returncode is None:
            process.kill()  # bwrap's child, the first of its PID namespace, dies with it, and all others with that
            await process.wait()
    if code != 0 and stderr.startswith(_SETUP):
        raise _unavailable(stderr.decode(errors="replace").strip().splitlines()[0])
    return Outcome(code if code >= 0 else 128 - code, stdout, stderr)


async def _drain(stream: asyncio.StreamReader, on_output: Callable[[bytes], None] | None) -> bytes:
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        if on_output is not None:
            on_output(chunk)
        kept += chunk[: _MAX_TEXT - len(kept)]
    return bytes(kept)


def _unavailable(why: str) -> ImportFailure:
    return transient(
        Reason.SANDBOX_UNAVAILABLE,
        f"The sandbox that images are inspected in cannot be made: {why}. The administrator must install bubblewrap and"
        " let this process make namespaces.",
    )

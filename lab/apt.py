"""The Debian packages that the lab runs on, and what they do not bring: what is there is left alone."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import accounts
from lab.errors import LabError
from lab.progress import step

PACKAGES = Path(__file__).parent / "packages.txt"
GUEST_PACKAGES = Path(__file__).parent / "guests" / "packages.txt"

_POLICY = Path("/usr/sbin/policy-rc.d")
# The second line tells a policy that a killed run left behind from one that the machine's owner made.
POLICY_TEXT = "#!/bin/sh\n# kumulus-lab: no daemon starts while it installs packages\nexit 101\n"


def parse(text: str) -> list[str]:
    """The names in a package list: one a line, `#` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def missing(packages: Iterable[str], installed: str) -> list[str]:
    """The packages that ``installed`` (lines "name state" of dpkg-query) does not show as installed."""
    present = {line.split()[0] for line in installed.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in present]


def ensure(lists: Iterable[Path] = (PACKAGES,)) -> None:
    """Install what is missing of the packages named in the files ``lists``. Raises LabError."""
    if shutil.which("apt-get") is None:
        raise LabError("the lab runs on Debian 12: this machine has no apt-get")
    wanted = [package for path in lists for package in parse(path.read_text())]
    absent = missing(wanted, _installed())
    if absent:
        _install(absent)
    accounts.ensure()


def _install(absent: list[str]) -> None:
    if os.geteuid() != 0:
        raise LabError(f"run as root: these packages are missing: {' '.join(absent)}")
    with step(f"install {len(absent)} Debian packages"), no_daemon_starts():
        install = ["install", "-y", "-q", "--no-install-recommends", *absent]
        if _apt(install).returncode == 0:
            return
        # Package lists that are absent or older than the archive.
        updated = _apt(["update", "-q"])
        result = _apt(install)
        if result.returncode != 0:
            said = f"{updated.stderr}{result.stderr}".strip()
            raise LabError(f"apt-get could not install {' '.join(absent)}:\n{said}")


@contextmanager
def no_daemon_starts(policy: Path = _POLICY) -> Iterator[None]:
    """Keep the machine's own libvirtd and dnsmasq from starting: the lab's nodes have theirs.

    Debian's invoke-rc.d and deb-systemd-invoke ask policy-rc.d whether they may; a policy that the machine has already
    stays in force. One run at a time, so that none takes away the policy under another.
    """
    descriptor = os.open(policy.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if policy.exists() and policy.read_text(errors="replace") != POLICY_TEXT:
            yield
            return
        with tempfile.TemporaryDirectory() as scratch:
            draft = Path(scratch) / policy.name
            draft.write_text(POLICY_TEXT)
            draft.chmod(0o755)
            shutil.copy2(draft, policy)
        try:
            yield
        finally:
            policy.unlink()
    finally:
        os.close(descriptor)


def _installed() -> str:
    argv = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _apt(argv: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    # Another apt-get on the machine may hold the lock; seconds.
    words = ["apt-get", "-o", "DPkg::Lock::Timeout=600", *argv]
    return subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

"""Debian packages as the machine is configured to fetch them: no mirror is named here."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lab.guests.command import BuildError, run

RELEASE = "bookworm"
"""Debian 12: what both guests are made of, whatever else the machine has configured."""
_CODENAMES = (RELEASE, f"{RELEASE}-updates", f"{RELEASE}-security")

_FIELDS = ("ORIGIN", "CODENAME", "REPO_URI", "RELEASE", "COMPONENT")


@dataclass(frozen=True)
class Source:
    """One archive of Debian: the parts of a line of sources.list(5)."""

    uri: str
    suite: str
    components: tuple[str, ...]

    def line(self) -> str:
        """Return the source as one line of sources.list(5)."""
        return f"deb {self.uri} {self.suite} {' '.join(self.components)}"


def parse_index_targets(text: str) -> list[Source]:
    """Return Debian's own archives of RELEASE from the output of `apt-get indextargets` in the format of `_FIELDS`.

    Archives of anyone else (Origin is what their signed Release file says) and of other releases are left out.
    """
    components: dict[tuple[str, str], list[str]] = {}
    for line in text.splitlines():
        if line.count("|") != len(_FIELDS) - 1:
            continue
        origin, codename, uri, suite, component = line.split("|")
        if origin != "Debian" or codename not in _CODENAMES or component != "main":
            continue
        found = components.setdefault((uri, suite), [])
        if component not in found:
            found.append(component)
    return [Source(uri, suite, tuple(found)) for (uri, suite), found in components.items()]


def configured_sources() -> list[Source]:
    """Return the Debian archives that apt on this machine uses; fetches apt's lists first when there are none.

    Raises BuildError when the machine has no source for RELEASE.
    """
    form = "|".join(f"$({name})" for name in _FIELDS)
    argv = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    sources = parse_index_targets(run(argv).decode())
    if not sources:
        run(["apt-get", "update"])
        sources = parse_index_targets(run(argv).decode())
    if not sources:
        raise BuildError(f"apt on this machine has no source for Debian {RELEASE}: add one below /etc/apt")
    return sources


def transport_options() -> list[str]:
    """Return apt's settings of how to reach the archives (proxies, retries, date checks) as `Name "value";` words."""
    wanted = re.compile(r'^Acquire::(https?::.*|Retries|Check-Valid-Until|Check-Date) "[^"]+";$')
    return [line for line in run(["apt-config", "dump"]).decode().splitlines() if wanted.match(line)]


def download(package: str, folder: Path) -> Path:
    """Fetch the newest version of `package` into `folder` and return the .deb. Raises BuildError."""
    # As root also for the fetch: the sandbox user cannot write into a folder of ours.
    argv = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
    try:
        run(argv, cwd=folder)
    except BuildError:
        # Lists older than the archive name a version that is gone.
        run(["apt-get", "update"])
        run(argv, cwd=folder)
    return next(folder.glob(f"{package}_*.deb"))


def dependencies(package: str, prefix: str) -> list[str]:
    """Return the direct dependencies of `package` whose names start with `prefix`."""
    argv = ["apt-cache", "--no-recommends", "--no-suggests", "depends", package]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        text = run(argv, environment=environment).decode()
    except BuildError:
        run(["apt-get", "update"])
        text = run(argv, environment=environment).decode()
    return re.findall(rf"^\s*Depends: ({re.escape(prefix)}\S*)$", text, re.MULTILINE)


def unpack(deb: Path, folder: Path) -> None:
    """Unpack the files of a package below `folder`, running none of its scripts."""
    run(["dpkg-deb", "-x", deb, folder])

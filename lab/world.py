"""The host `world`: what stands for the rest of the Internet. A web server with guest images, and an ssh client."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import services
from lab.hosts import enter
from lab.layout import WORLD, Layout

ADDRESS = "20.0.2.1"
WEB_PORT = 8080

# Guests of a lab come and go with the same addresses, so their host keys are neither checked nor kept.
_SSH_OPTIONS = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "LogLevel": "ERROR",
    "ConnectTimeout": "5",
    "ServerAliveInterval": "5",
}


def folder(layout: Layout) -> Path:
    """What the web server serves."""
    return layout.data / "web"


def serve(layout: Layout, images: Sequence[Path] = ()) -> str:
    """Start the web server, put the files into its folder under their own names, and return its URL."""
    web = folder(layout)
    web.mkdir(parents=True, exist_ok=True)
    for image in images:
        target = web / image.name
        if target.exists() and _same(target, image):
            continue
        unfinished = target.with_suffix(".new")
        # One that a killed run left may be a link into the cache: never write into it.
        unfinished.unlink(missing_ok=True)
        try:
            os.link(image, unfinished)
        except OSError:  # on another file system
            shutil.copy2(image, unfinished)
        unfinished.replace(target)
    argv = [sys.executable, "-m", "http.server", str(WEB_PORT), f"--bind={ADDRESS}", f"--directory={web}"]
    services.add(layout, f"{WORLD}/web", argv, host=WORLD)
    return f"http://{ADDRESS}:{WEB_PORT}"


def _same(served: Path, image: Path) -> bool:
    """Whether one is a link to the other or a copy of it."""
    first, second = served.stat(), image.stat()
    return os.path.samestat(first, second) or (
        (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns)
    )


def ssh_argv(layout: Layout, key: Path, user: str, address: str) -> list[str]:
    """The words that log into a guest from `world`; add a command, or nothing for a shell."""
    words = [f"-o{name}={value}" for name, value in (_SSH_OPTIONS | {"BatchMode": "yes"}).items()]
    return [*enter(layout, WORLD), "ssh", "-i", str(key), *words, f"{user}@{address}"]


def ssh_config(path: Path, key: Path, user: str, guests: Mapping[str, str]) -> Path:
    """Write an ssh_config(5) by which `ssh -F path NAME`, in `world`, logs into the guest NAME; returns `path`.

    guests: address by name.
    """
    options = _SSH_OPTIONS | {"User": user, "IdentityFile": str(key)}
    lines = [f"Host {name}\n  HostName {address}" for name, address in guests.items()]
    lines += ["Host *", *(f"  {option} {value}" for option, value in options.items())]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text("\n".join(lines) + "\n")
    return path


def key_pair(path: Path) -> Path:
    """An ed25519 key at `path` (and `path`.pub), made unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "kumulus-lab", "-f", path], check=True)
    return path

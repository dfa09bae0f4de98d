"""The host `world`: what stands for the rest of the Internet. A web server with guest images, and an ssh client."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import services
from lab.hosts import enter
from lab.layout import WORLD, Layout

ADDRESS = "20.0.2.1"
WEB_PORT = 8080


def folder(layout: Layout) -> Path:
    """What the web server serves."""
    return layout.data / "web"


def serve(layout: Layout, images: Sequence[Path] = ()) -> str:
    """Start the web server, put the files into its folder under their own names, and return its URL."""
    web = folder(layout)
    web.mkdir(parents=True, exist_ok=True)
    for image in images:
        target = web / image.name
        if target.exists() and target.stat().st_size == image.stat().st_size:
            continue
        unfinished = target.with_suffix(".new")
        try:
            os.link(image, unfinished)
        except OSError:  # on another file system
            shutil.copyfile(image, unfinished)
        unfinished.replace(target)
    argv = [sys.executable, "-m", "http.server", str(WEB_PORT), f"--bind={ADDRESS}", f"--directory={web}"]
    services.add(layout, f"{WORLD}/web", argv, host=WORLD)
    return f"http://{ADDRESS}:{WEB_PORT}"


def ssh_argv(layout: Layout, key: Path, user: str, address: str) -> list[str]:
    """The words that log into a guest from `world`; add a command, or nothing for a shell.

    Guests of a lab come and go with the same addresses, so their host keys are neither checked nor kept.
    """
    options = {
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
        "BatchMode": "yes",
        "ConnectTimeout": "5",
    }
    words = [f"-o{name}={value}" for name, value in options.items()]
    return [*enter(layout, WORLD), "ssh", "-i", str(key), *words, f"{user}@{address}"]


def key_pair(path: Path) -> Path:
    """An ed25519 key at `path` (and `path`.pub), made unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "kumulus-lab", "-f", path], check=True)
    return path

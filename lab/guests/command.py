"""Run a program of the host for a build; what it printed is shown only when it fails."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import LabError


class BuildError(LabError):
    """An image could not be built; the message says which program failed and what it printed."""


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Run `argv` to its end and return its standard output. Raises BuildError with the end of its standard error."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(words, cwd=cwd, input=stdin, env=environment, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise BuildError(f"{words[0]} is not installed (lab/guests/packages.txt lists what a build needs)") from error
    if done.returncode != 0:
        printed = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise BuildError("\n".join([f"{words[0]} ended with status {done.returncode}:", *printed[-20:]]))
    return done.stdout

"""Running programs: an argument list in, its output out, and what it said on failure in the exception."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import LabError


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run ``argv`` to its end and return its standard output. Raises LabError with the program's own words.

    ``env`` is beside this process's environment. ``timeout`` in seconds.
    """
    words = [str(word) for word in argv]
    try:
        result = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=None if env is None else os.environ | env,
        )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed: run `kumulus-lab setup`") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(words)} did not end within {timeout:.0f} s") from error
    if result.returncode != 0:
        raise LabError(f"{' '.join(words)} failed: {result.stderr.strip() or f'status {result.returncode}'}")
    return result.stdout

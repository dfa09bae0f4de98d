"""Progress on standard error: a line per step with the time that it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print ``text`` with the seconds that the block took, or with the word failed."""
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"  {text:<58} failed after {time.monotonic() - begin:.1f} s")
        raise
    say(f"  {text:<58} {time.monotonic() - begin:5.1f} s")

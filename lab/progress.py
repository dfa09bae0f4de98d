"""Progress on standard error: a line per step with the time that it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_WIDTH = 62


def say(text: str) -> None:
    # Over what step() left open on a terminal.
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print ``text`` with the seconds that the block took, or with the word failed.

    On a terminal the text is there from the beginning, so that one sees what is worked on.
    """
    if sys.stderr.isatty():
        print(f"  {text} ...", end="", file=sys.stderr, flush=True)
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"  {text:<{_WIDTH}} failed after {time.monotonic() - begin:.1f} s")
        raise
    say(f"  {text:<{_WIDTH}} {time.monotonic() - begin:7.1f} s")

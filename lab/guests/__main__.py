"""`python -m lab.guests build tiny|debian|all` and `path tiny|debian`."""

import argparse
import sys
import time

from lab.guests import GUESTS, BuildError, build, image_path


def main() -> int:
    """Run the command line; the path of each image goes to standard output, everything else to standard error."""
    parser = argparse.ArgumentParser(prog="python -m lab.guests", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build an image unless it is in the cache, and print its path")
    building.add_argument("name", choices=[*GUESTS, "all"])
    showing = commands.add_parser("path", help="print the path of an image; status 1 when it is not built")
    showing.add_argument("name", choices=list(GUESTS))
    words = parser.parse_args()

    if words.command == "path":
        path = image_path(words.name)
        print(path)
        return 0 if path.exists() else 1
    for name in GUESTS if words.name == "all" else [words.name]:
        started = time.monotonic()
        try:
            path = build(name)
        except BuildError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        seconds = time.monotonic() - started
        print(f"{name}: {path.stat().st_size / 1e6:.0f} MB, {seconds:.0f} s", file=sys.stderr)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where built images are kept, and when one is built again.

$XDG_CACHE_HOME/kumulus/guests/<hash of the recipe>/<name>.qcow2. The recipe is every file that can change the image:
the modules and files listed in GUESTS. A lock per image makes parallel builds wait for one; the image appears by
rename, so a file at that path is always whole.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.guests import debian, tiny
from lab.pruning import mark_used, prune

HERE = Path(__file__).resolve().parent
SHARED_RECIPE = ("apt.py", "command.py", "disk.py", "extlinux.py")


@dataclass(frozen=True)
class Guest:
    """One image: how it is made and from which files (relative to this package)."""

    name: str
    make: Callable[[Path, Path, Path], None]
    """make(files, work, target): build from `files`, use the empty folder `work`, leave the qcow2 at `target`."""
    recipe: tuple[str, ...]


GUESTS = {
    "tiny": Guest("tiny", tiny.make, ("tiny.py", "initramfs.py", "files/tiny", *SHARED_RECIPE)),
    "debian": Guest("debian", debian.make, ("debian.py", "files/debian", *SHARED_RECIPE)),
}


def recipe_hash(root: Path, recipe: tuple[str, ...]) -> str:
    """Return 16 hex digits over the names, modes and contents of the recipe's files."""
    digest = hashlib.sha256()
    for path in sorted(set(_recipe_files(root, recipe))):
        executable = os.access(path, os.X_OK)
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)}\0{executable}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _recipe_files(root: Path, recipe: tuple[str, ...]) -> Iterator[Path]:
    for entry in recipe:
        path = root / entry
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.is_file())
        else:
            yield path


def cache_root() -> Path:
    """Return the folder of all guest images."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kumulus" / "guests"


def image_path(name: str) -> Path:
    """Return where the image `name` of the present recipe is, or will be once built. KeyError: no such guest."""
    guest = GUESTS[name]
    return cache_root() / recipe_hash(HERE, guest.recipe) / f"{name}.qcow2"


def build(name: str) -> Path:
    """Build the image `name` unless it is in the cache, and return its path. Raises BuildError.

    Images of other recipes that nobody used for a month go when a new one was built.
    """
    target = image_path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark_used(target.parent)
    if target.exists():
        return target
    with _locked(target.with_suffix(".lock")):
        if target.exists():
            return target
        # What a killed build left: nobody else builds while we hold the lock.
        for abandoned in target.parent.glob(f".{name}-*"):
            shutil.rmtree(abandoned)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as folder:
            work = Path(folder)
            # mmdebstrap and apt drop privileges for parts of their work.
            work.chmod(0o755)
            made = work / "image.qcow2"
            GUESTS[name].make(HERE / "files" / name, work, made)
            made.rename(target)
    prune(cache_root())
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

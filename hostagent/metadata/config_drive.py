"""The config drive: an ISO 9660 file system labelled config-2 with the OpenStack tree.

Source: https://docs.openstack.org/nova/latest/user/metadata.html#config-drives, whose genisoimage options these are.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from hostagent import durable
from hostagent.errors import NodeError, Reason
from hostagent.metadata import openstack
from hostagent.metadata.facts import Guest

LABEL = "config-2"
_TIMEOUT = 60
_PROGRAMS = (("genisoimage",), ("mkisofs",), ("xorriso", "-as", "mkisofs"))


def tree(guest: Guest, seed: bytes) -> dict[str, bytes]:
    """The files of the drive by relative path: two versions, as much as cloud-init looks for."""
    return {
        f"openstack/{version}/{name}": content
        for version in ("2018-08-27", "latest")
        for name, content in openstack.documents(guest, version=version, seed=seed).items()
    }


def make(files: dict[str, bytes], target: Path) -> None:
    """Writes the drive to `target`, replacing it at once. Blocks. Raises NodeError."""
    temporary = durable.partial(target)
    with tempfile.TemporaryDirectory(dir=target.parent, suffix=durable.PARTIAL) as directory:
        root = Path(directory)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        # User-data holds secrets, so nobody else may read the drive, not even while it is written.
        argv = [*_program(), "-o", str(temporary), "-allow-lowercase", "-allow-multidot", "-l", "-quiet", "-J", "-r"]
        try:
            subprocess.run(
                [*argv, "-V", LABEL, str(root)], check=True, capture_output=True, timeout=_TIMEOUT, umask=0o077
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            temporary.unlink(missing_ok=True)
            output = (error.stderr or b"").decode(errors="replace").strip()
            raise NodeError(
                Reason.CONFIG_DRIVE_FAILED, f"The config drive could not be made: {output or error}"
            ) from error
    temporary.chmod(0o600)
    durable.publish(temporary, target)


def _program() -> tuple[str, ...]:
    for argv in _PROGRAMS:
        if shutil.which(argv[0]):
            return argv
    raise NodeError(
        Reason.CONFIG_DRIVE_FAILED, "No program that makes ISO images is on the node: install genisoimage or xorriso."
    )

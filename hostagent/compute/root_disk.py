"""The root disk: a qcow2 overlay on a cached image (https://www.qemu.org/docs/master/tools/qemu-img.html)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hostagent import durable
from hostagent.errors import NodeError, Reason

_TIMEOUT = 60


async def make_overlay(base: Path, base_format: str, target: Path, size: int) -> None:
    """Makes `target` as an overlay of `size` bytes on `base`, whole or not at all. Raises NodeError."""
    temporary = durable.partial(target)
    formats = ("-f", "qcow2", "-F", base_format)
    argv = ("qemu-img", "create", "-q", *formats, "-b", str(base), str(temporary), str(int(size)))
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, stderr = await process.communicate()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise NodeError(Reason.DISK_FAILED, f"qemu-img did not make the root disk within {_TIMEOUT} s") from error
    if process.returncode != 0:
        raise _failure(stderr.decode(errors="replace").strip())
    await asyncio.to_thread(_publish, temporary, target)


def _publish(temporary: Path, target: Path) -> None:
    temporary.chmod(0o600)
    durable.publish(temporary, target)


def _failure(message: str) -> NodeError:
    if "No space left" in message:
        return NodeError(
            Reason.DISK_FULL,
            f"The disk of the node is full, so the root disk could not be made: {message}. Make room on it.",
        )
    return NodeError(Reason.DISK_FAILED, f"The root disk could not be made: {message}")

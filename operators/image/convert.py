"""From bytes that came to bytes that are stored: inspected twice, and always a plain qcow2 in the end."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crds.quantity import format_quantity
from crds.vocabulary import DiskFormat
from operators.image import formats, sandbox
from operators.image.failure import ImportFailure, Reason, refused, transient
from operators.image.formats import ImageFacts
from operators.image.formats.facts import backing_file, corrupt, encrypted, external_file, whole_sectors
from operators.image.sandbox import INPUT, OUTPUT, Limits
from operators.image.threads import in_thread

_PROGRESS = re.compile(rb"\((\d{1,3})\.\d+/100%\)")
_INFO = Limits(wall=120, cpu=60)
_CHECK = Limits(wall=1800, cpu=900)
_CONVERT = Limits(wall=6 * 3600, cpu=3 * 3600)


@dataclass(frozen=True)
class ConvertLimits:
    """Bytes: of the disk that a guest sees, and of the file that is stored."""

    max_virtual_size: int
    max_stored_size: int


async def look(path: Path, declared: DiskFormat, limits: ConvertLimits) -> ImageFacts:
    """Our own inspection of the bytes. Raises `ImportFailure`."""

    def read() -> ImageFacts:
        with path.open("rb") as file:
            return formats.inspect(file)

    facts = await in_thread(read)
    formats.check(facts, declared, limits.max_virtual_size)
    return facts


async def make_plain(
    source: Path,
    declared: DiskFormat,
    work: Path,
    limits: ConvertLimits,
    on_percent: Callable[[int], None],
) -> tuple[Path, ImageFacts]:
    """The file to store, `source` itself if it is plain already or a new one in the folder `work`, and its facts.

    `source` is of the format `declared`, as the user says. Raises `ImportFailure`.
    """
    facts = await look(source, declared, limits)
    driver = _driver(facts.format)
    await _cross_check(source, driver, facts)
    sound = driver == "raw" or await _is_sound(source, driver)
    if facts.plain and sound:
        return source, facts
    result = await _convert(source, driver, work, limits, on_percent)
    stored = await look(result, DiskFormat.QCOW2, limits)
    if not stored.plain or stored.virtual_size != facts.virtual_size:
        raise corrupt("its conversion gave a disk of another size")
    return result, stored


def _driver(format: DiskFormat) -> str:
    """QEMU's name of the driver; always passed, never probed."""
    return "raw" if format == DiskFormat.ISO else str(format)


async def _cross_check(source: Path, driver: str, facts: ImageFacts) -> None:
    """Compares our facts with QEMU's reading of the same bytes: what two parsers see differently is an attack."""
    program = ["qemu-img", "info", "--output=json", "-f", driver, INPUT]
    outcome = await sandbox.run(program, source=source, limits=_INFO)
    info = _answer(outcome)
    specific = info.get("format-specific", {}).get("data", {})
    problem: ImportFailure | None = None
    if info.get("format") != driver:
        problem = corrupt(f"QEMU reads it as {info.get('format')}")
    elif "backing-filename" in info or "full-backing-filename" in info:
        problem = backing_file("QEMU sees a backing file")
    elif "data-file" in specific or any(e.get("filename") != INPUT for e in specific.get("extents", ())):
        problem = external_file("QEMU sees a further file")
    elif info.get("encrypted") or "encrypt" in specific:
        problem = encrypted("QEMU sees an encryption")
    elif whole_sectors(int(info.get("virtual-size", -1))) != facts.virtual_size:
        problem = corrupt(f"QEMU reads a disk of {info.get('virtual-size')} bytes instead of {facts.virtual_size}")
    if problem is not None:
        raise problem


async def _is_sound(source: Path, driver: str) -> bool:
    """Whether the tables have no flaw at all, not even leaks. Raises `ImportFailure` if they are corrupt."""
    program = ["qemu-img", "check", "--output=json", "-f", driver, INPUT]
    outcome = await sandbox.run(program, source=source, limits=_CHECK)
    if outcome.code == 3:  # leaked clusters alone, by qemu-img(1)
        return False
    found = _answer(outcome, codes=(0, 2))
    if outcome.code == 2 or found.get("corruptions") or found.get("check-errors"):
        raise corrupt("qemu-img check finds errors in its tables")
    return True


async def _convert(
    source: Path, driver: str, work: Path, limits: ConvertLimits, on_percent: Callable[[int], None]
) -> Path:
    # A folder that the sandbox's user owns, below one that others cannot enter.
    output = work / "out"
    output.mkdir(mode=0o700)

    def progress(text: bytes) -> None:
        seen = _PROGRESS.findall(text)
        if seen:
            on_percent(min(int(seen[-1]), 100))

    size = limits.max_stored_size
    program = ["qemu-img", "convert", "-p", "-f", driver, "-O", "qcow2", "-o", "compat=1.1", INPUT, f"{OUTPUT}/image"]
    outcome = await sandbox.run(
        program, source=source, output=output, limits=replace(_CONVERT, file_size=size), on_output=progress
    )
    result = output / "image"
    if outcome.code != 0:
        if shutil.disk_usage(work).free < 64 << 20 or b"No space left" in outcome.stderr:
            raise transient(
                Reason.STORE_FULL,
                "The image store is full. Delete images that nobody needs, or ask the administrator to enlarge it.",
            )
        if b"File too large" in outcome.stderr or outcome.code == 153:
            raise refused(
                Reason.EXPANDS_BEYOND_LIMIT,
                f"Unpacked, the image takes more than {format_quantity(size)}. Offer it as a compressed qcow2, or"
                " shrink it.",
            )
        raise _unreadable(outcome)
    # A program that was taken over could have left a link in its folder; nobody writes there any more.
    kind = result.lstat()
    if not stat.S_ISREG(kind.st_mode) or kind.st_nlink != 1:
        raise corrupt("its conversion did not give a file")
    on_percent(100)
    return result


def _answer(outcome: sandbox.Outcome, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    if outcome.code not in codes:
        raise _unreadable(outcome)
    try:
        answer = json.loads(outcome.stdout)
    except ValueError:
        raise corrupt("qemu-img cannot describe it") from None
    return answer if isinstance(answer, dict) else {}


def _unreadable(outcome: sandbox.Outcome) -> ImportFailure:
    if outcome.exceeded:
        return refused(
            Reason.INSPECTION_LIMIT,
            "Reading the image takes more CPU or memory than allowed. Convert it to a plain qcow2 and import that.",
        )
    lines = outcome.stderr.decode(errors="replace").strip().splitlines()
    said = lines[-1].replace(INPUT, "the image")[:300] if lines else f"exit code {outcome.code}"
    return corrupt(f"it cannot be read ({said})")

"""The sandbox on the real kernel: what a program in it cannot do. And conversions in it, by the real qemu-img."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from crds.vocabulary import DiskFormat
from operators.image import convert, sandbox
from operators.image.convert import ConvertLimits, make_plain
from operators.image.failure import ImportFailure, Reason
from operators.image.sandbox import Limits

MIB = 1 << 20
LIMITS = Limits(wall=20, cpu=10)
CONVERT = ConvertLimits(max_virtual_size=1 << 30, max_stored_size=64 * MIB)

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content of the image\n")
    path.chmod(0o644)
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / "output"
    path.mkdir()
    return path


async def shell(script: str, **options: object) -> sandbox.Outcome:
    return await sandbox.run(["sh", "-c", script], limits=LIMITS, **options)  # type: ignore[arg-type]  # passed on


async def test_it_sees_its_input_and_nobodys_else(image: Path) -> None:
    outcome = await shell(
        "cat /in/image; ls /; ls /etc /root /home /proc /sys /var /run; cat /etc/shadow", source=image
    )
    assert outcome.stdout.decode().split("\n", 1) == [
        "content of the image",
        "bin\ndev\nin\nlib\nlib64\nsbin\nusr\n",
    ]
    assert b"/etc/shadow: No such file" in outcome.stderr


async def test_it_is_nobody_and_cannot_become_more(image: Path) -> None:
    outcome = await shell("id -u; id -G; setpriv --dump; touch /x /usr/x /in/x; echo x > /in/image", source=image)
    lines = outcome.stdout.decode().splitlines()
    assert lines[:2] == ["65534", "65534"]
    text = "\n".join(lines)
    assert "no_new_privs: 1" in text
    assert "Capability bounding set: [none]" in text
    assert "Inheritable capabilities: [none]" in text
    assert outcome.stderr.count(b"Read-only file system") == 4
    assert image.read_bytes() == b"content of the image\n"


async def test_the_kernel_too_takes_it_for_nobody(output: Path) -> None:
    """Its files belong to a user without rights outside, not to the root that started it."""
    if os.geteuid() != 0:
        pytest.skip("an unprivileged caller stays itself")
    outcome = await sandbox.run(["touch", "/out/file"], output=output, limits=Limits(wall=20, cpu=10, file_size=MIB))
    assert outcome.code == 0
    assert (output / "file").stat().st_uid == 65534


async def test_it_has_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = (
            "import socket,sys\n"
            "print(len(socket.if_nameindex()))\n"
            f"try: socket.create_connection(('127.0.0.1', {port}), 2)\n"
            "except OSError as error: print(error.strerror)\n"
        )
        outcome = await sandbox.run(["/usr/bin/python3", "-c", script], limits=LIMITS)
    names = outcome.stdout.decode().splitlines()
    # lo alone (and what the kernel adds to every network namespace), with nobody behind it.
    assert names[1:] == ["Connection refused"] or names[1:] == ["Network is unreachable"], outcome


async def test_it_sees_no_process_but_its_own() -> None:
    outcome = await shell("echo $$; kill -0 1 && echo sees init; kill -9 -1; echo survived")
    assert outcome.code in (0, 128 + 9)
    assert int(outcome.stdout.split()[0]) < 10


async def test_memory_is_limited() -> None:
    program = ["/usr/bin/python3", "-c", "bytearray(1 << 30)"]
    outcome = await sandbox.run(program, limits=Limits(wall=20, cpu=10, memory=256 << 20))
    assert outcome.code == 1
    assert b"MemoryError" in outcome.stderr


async def test_files_are_limited_in_size_and_number(output: Path) -> None:
    limits = Limits(wall=20, cpu=10, file_size=MIB)
    outcome = await sandbox.run(["dd", "if=/dev/zero", "of=/out/big", "bs=64k"], output=output, limits=limits)
    assert outcome.code != 0
    assert (output / "big").stat().st_size == MIB
    program = ["/usr/bin/python3", "-c", "x = [open('/dev/null') for _ in range(100)]"]
    outcome = await sandbox.run(program, limits=limits)
    assert b"Too many open files" in outcome.stderr


async def test_cpu_is_limited() -> None:
    outcome = await sandbox.run(["sh", "-c", "while :; do :; done"], limits=Limits(wall=20, cpu=1))
    assert outcome.exceeded


def running(marker: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (process / "cmdline").read_bytes().decode(errors="replace").split("\0"):
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


async def gone(marker: str) -> bool:
    deadline = time.monotonic() + 10
    while running(marker):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def test_the_wall_clock_is_limited_and_nothing_is_left() -> None:
    marker = "30.0625001"
    with pytest.raises(ImportFailure) as caught:
        await sandbox.run(["sh", "-c", f"sleep {marker} & sleep {marker}"], limits=Limits(wall=0.7, cpu=10))
    assert caught.value.reason == Reason.INSPECTION_LIMIT
    assert await gone(marker)


async def test_cancelled_it_leaves_nothing() -> None:
    marker = "30.0625002"
    task = asyncio.create_task(sandbox.run(["sleep", marker], limits=LIMITS))
    async with asyncio.timeout(10):
        while not running(marker):
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await gone(marker)


async def test_its_words_are_limited() -> None:
    outcome = await shell("yes | head -c 3000000")
    assert len(outcome.stdout) == 1 << 20


async def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImportFailure) as caught:
        await sandbox.run(["touch", "/out/x"], output=output, limits=LIMITS)
    assert (caught.value.reason, caught.value.permanent) == (Reason.SANDBOX_UNAVAILABLE, False)
    assert "bubblewrap" in caught.value.message


async def test_a_sandbox_that_cannot_be_set_up_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImportFailure) as caught:
        await sandbox.run(["true"], source=tmp_path / "missing", limits=LIMITS)
    assert caught.value.reason == Reason.SANDBOX_UNAVAILABLE


def test_an_unprivileged_caller_gets_a_user_namespace() -> None:
    argv = sandbox.command(["id", "-u"], None, None, LIMITS, root=False)
    if os.geteuid() == 0:
        result = subprocess.run(argv, user=1, group=1, extra_groups=[], capture_output=True, cwd="/", check=False)
    else:
        result = subprocess.run(argv, capture_output=True, check=False)
    assert result.stdout == b"65534\n", result.stderr


# Conversions


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(MIB) + b"kumulus " * (MIB // 8) + bytes(3 * MIB))
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def contents(qcow2: Path, tmp_path: Path) -> str:
    back = tmp_path / "back.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", qcow2, back)
    return hashlib.sha256(back.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("format", "options"),
    [
        (DiskFormat.RAW, []),
        (DiskFormat.VMDK, []),
        (DiskFormat.VMDK, ["-o", "subformat=streamOptimized"]),
        (DiskFormat.VDI, []),
        (DiskFormat.VHDX, []),
        (DiskFormat.QCOW2, ["-o", "compat=0.10"]),
    ],
)
async def test_every_format_becomes_a_plain_qcow2(
    raw: Path, work: Path, tmp_path: Path, format: DiskFormat, options: list[str]
) -> None:
    source = tmp_path / "source"
    qemu_img("convert", "-f", "raw", "-O", format, *options, raw, source)
    percents: list[int] = []
    result, facts = await make_plain(source, format, work, CONVERT, percents.append)
    assert result != source
    assert (facts.format, facts.virtual_size, facts.plain) == (DiskFormat.QCOW2, 5 * MIB, True)
    assert contents(result, tmp_path) == hashlib.sha256(raw.read_bytes()).hexdigest()
    assert percents[-1] == 100


async def test_an_iso_becomes_a_plain_qcow2(work: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(32769) + b"CD001" + bytes(100_001))
    result, facts = await make_plain(source, DiskFormat.ISO, work, CONVERT, lambda percent: None)
    assert facts.format == DiskFormat.QCOW2
    assert contents(result, tmp_path)


async def test_a_plain_qcow2_is_kept_as_it_is(raw: Path, work: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, source)
    result, _ = await make_plain(source, DiskFormat.QCOW2, work, CONVERT, lambda percent: None)
    assert result == source


async def test_snapshots_are_left_behind(raw: Path, work: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, source)
    qemu_img("snapshot", "-c", "first", source)
    result, facts = await make_plain(source, DiskFormat.QCOW2, work, CONVERT, lambda percent: None)
    assert result != source
    assert facts.plain


async def refusal(source: Path, format: DiskFormat, work: Path, limits: ConvertLimits = CONVERT) -> ImportFailure:
    with pytest.raises(ImportFailure) as caught:
        await make_plain(source, format, work, limits, lambda percent: None)
    return caught.value


async def test_an_image_that_expands_beyond_the_limit(work: Path, tmp_path: Path) -> None:
    raw, source = tmp_path / "bomb.raw", tmp_path / "source"
    raw.write_bytes(b"\x01" * (16 * MIB))
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, source)
    assert source.stat().st_size < MIB
    failure = await refusal(source, DiskFormat.VMDK, work, ConvertLimits(1 << 30, 4 * MIB))
    assert (failure.reason, failure.permanent) == (Reason.EXPANDS_BEYOND_LIMIT, True)


async def test_a_virtual_size_beyond_the_limit(work: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    qemu_img("create", "-q", "-f", "qcow2", source, "2G")
    assert (await refusal(source, DiskFormat.QCOW2, work)).reason == Reason.VIRTUAL_SIZE_TOO_LARGE


async def test_corrupt_tables_are_found(raw: Path, work: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, source)
    content = bytearray(source.read_bytes())
    (l1,) = struct.unpack_from(">Q", content, 40)
    struct.pack_into(">Q", content, l1, 0x8000_0000_0000_0000 | (1 << 40))
    source.write_bytes(content)
    failure = await refusal(source, DiskFormat.QCOW2, work)
    assert (failure.reason, failure.permanent) == (Reason.CORRUPT, True)


async def test_a_truncated_image_is_found(raw: Path, work: Path, tmp_path: Path) -> None:
    for format in (DiskFormat.QCOW2, DiskFormat.VMDK, DiskFormat.VDI, DiskFormat.VHDX):
        source = tmp_path / f"source-{format}"
        qemu_img("convert", "-f", "raw", "-O", format, raw, source)
        os.truncate(source, source.stat().st_size // 2)
        failure = await refusal(source, format, work)
        assert failure.permanent, format
        shutil.rmtree(work / "out", ignore_errors=True)


async def test_what_qemu_reads_differently_is_refused(raw: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole in our own inspection, here a wrong size, is caught by the comparison with QEMU's."""
    honest = convert.look

    async def mistaken(path: Path, declared: DiskFormat, limits: ConvertLimits) -> convert.ImageFacts:
        facts = await honest(path, declared, limits)
        return convert.ImageFacts(facts.format, facts.virtual_size + 512)

    monkeypatch.setattr(convert, "look", mistaken)
    failure = await refusal(raw, DiskFormat.RAW, work)
    assert "instead of" in failure.message


async def test_a_link_left_by_a_program_that_was_taken_over_is_not_followed(
    raw: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = sandbox.run

    async def hijacked(program: list[str], **options: object) -> sandbox.Outcome:
        if "convert" in program:
            program = ["ln", "-s", "/etc/shadow", "/out/image"]
        return await honest(program, **options)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(sandbox, "run", hijacked)
    failure = await refusal(raw, DiskFormat.RAW, work)
    assert "did not give a file" in failure.message

"""The directory store, on a real directory."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from pathlib import Path

import pytest

from operators.image.failure import ImportFailure, Reason
from operators.image.sink import Received, Sink, disk_errors, hash_file
from operators.image.store import DirectoryStore

CONTENT = b"blob" * 100
SHA = hashlib.sha256(CONTENT).hexdigest()


async def put(store: DirectoryStore, content: bytes = CONTENT) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    with store.work() as folder:
        (folder / "x").write_bytes(content)
        await store.commit(folder / "x", sha256)
    return sha256


def entries(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "lock")


async def test_a_blob_is_stored_once_and_read_only(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    async with store.open():
        assert await put(store) == await put(store) == SHA
        assert entries(tmp_path / "store") == [f"blobs/{SHA}.qcow2"]
        blob = store.blob(SHA)
        assert blob is not None
        assert blob.read_bytes() == CONTENT
        assert blob.stat().st_mode & 0o777 == 0o444
        assert store.blobs() == [SHA]


async def test_others_cannot_enter_the_store(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path / "store").open():
        assert (tmp_path / "store").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["", "..", "../lock", "a" * 63, "A" * 64, f"{SHA}.qcow2", f"{SHA}\n", f"../{SHA}"])
async def test_only_checksums_name_blobs(tmp_path: Path, name: str) -> None:
    store = DirectoryStore(tmp_path)
    async with store.open():
        await put(store)
        assert store.blob(name) is None


async def test_a_pinned_blob_is_not_deleted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    async with store.open():
        await put(store)
        await put(store)
        assert not await store.delete(SHA)
        store.unpin(SHA)
        assert not await store.delete(SHA)
        store.unpin(SHA)
        assert await store.delete(SHA)
        assert entries(tmp_path) == []


async def test_a_failed_commit_leaves_nothing_pinned(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    async with store.open():
        with pytest.raises(ImportFailure):
            await store.commit(tmp_path / "missing", SHA)
        assert await store.delete(SHA)
        assert entries(tmp_path) == []


async def test_what_a_crash_left_is_cleared_and_what_had_come_is_kept(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    async with store.open():
        with store.work() as folder:
            (folder / "complete").write_bytes(CONTENT)
            await store.keep_incoming("uid-1", folder / "complete")
        await put(store)
    partial = tmp_path / "tmp" / "half"
    partial.mkdir()
    (partial / "download").write_bytes(b"half")
    (tmp_path / "tmp" / f"{SHA}.staged").write_bytes(b"half")
    successor = DirectoryStore(tmp_path)
    async with successor.open():
        assert entries(tmp_path) == [f"blobs/{SHA}.qcow2", "incoming/uid-1"]
        assert successor.arrived() == ["uid-1"]
        successor.drop_incoming("uid-1")
        successor.drop_incoming("uid-1")
        assert successor.arrived() == []


async def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    first, second = DirectoryStore(tmp_path), DirectoryStore(tmp_path)
    async with first.open():

        async def wait() -> None:
            async with second.open():
                pass

        waiting = asyncio.create_task(wait())
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        assert not second.opened.is_set()
    await asyncio.wait_for(waiting, 5)


def fail_at_work(store: DirectoryStore) -> None:
    with store.work() as folder:
        (folder / "x").write_bytes(b"x")
        raise ValueError("x")


async def test_work_is_removed_also_on_failure(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    async with store.open():
        with pytest.raises(ValueError, match="x"):
            fail_at_work(store)
        assert entries(tmp_path) == []


async def test_a_sink_counts_hashes_and_limits(tmp_path: Path) -> None:
    async with Sink(tmp_path / "a", 500) as sink:
        for start in range(0, len(CONTENT), 100):
            await sink.write(CONTENT[start : start + 100])
        received = await sink.finish()
        with pytest.raises(ImportFailure) as caught:
            await sink.write(bytes(101))
    assert caught.value.reason == Reason.TOO_LARGE
    assert received == Received(400, SHA) == hash_file(tmp_path / "a")


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.ENOSPC, Reason.STORE_FULL), (errno.EDQUOT, Reason.STORE_FULL), (errno.EIO, Reason.STORE_FAILED)],
)
def test_errors_of_the_disk_are_told_and_may_pass(code: int, reason: Reason) -> None:
    with pytest.raises(ImportFailure) as caught, disk_errors():
        raise OSError(code, os.strerror(code))
    assert (caught.value.reason, caught.value.permanent) == (reason, False)

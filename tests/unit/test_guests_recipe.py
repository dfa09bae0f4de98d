"""What the guest images' builder decides without touching the machine, and its cache."""

import struct
import threading
from pathlib import Path

import pytest

from lab.guests import apt, cache, disk, extlinux, initramfs
from lab.guests.command import BuildError, run

INDEX_TARGETS = """\
Debian|bookworm|http://mirror.example/debian/|bookworm|main
Debian|bookworm|http://mirror.example/debian/|bookworm|main
Debian|bookworm|http://mirror.example/debian/|bookworm|non-free-firmware
Debian|bookworm-security|http://mirror.example/debian-security/|bookworm-security|main
Debian Backports|bookworm-backports|http://mirror.example/debian/|bookworm-backports|main
Debian|trixie|http://mirror.example/debian/|trixie|main
Someone|nodistro|https://packages.example/|nodistro|main
not a line of the format
"""


def test_sources_are_debians_own_of_the_release_once_each() -> None:
    assert [source.line() for source in apt.parse_index_targets(INDEX_TARGETS)] == [
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian-security/ bookworm-security main",
    ]


def test_libraries_of_ldd_include_the_loader_and_not_the_vdso() -> None:
    printed = """\
\tlinux-vdso.so.1 (0x00007fd501ff1000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007fd501e95000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007fd501ff3000)
"""
    assert initramfs.libraries(printed) == ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]
    assert initramfs.libraries("\tstatically linked\n") == []


def test_modules_are_listed_once_in_order_of_loading() -> None:
    listings = [
        "insmod /k/lib/virtio.ko \ninsmod /k/lib/virtio_ring.ko \ninsmod /k/lib/virtio_pci.ko force_legacy=0\n",
        "builtin ext4\ninsmod /k//lib/virtio.ko \ninsmod /k/lib/virtio_net.ko \n",
    ]
    assert initramfs.module_files(listings) == [
        "/k/lib/virtio.ko",
        "/k/lib/virtio_ring.ko",
        "/k/lib/virtio_pci.ko",
        "/k/lib/virtio_net.ko",
    ]


def test_master_boot_record_has_one_active_partition_that_ends_with_the_disk() -> None:
    sector = disk.master_boot_record(b"\xfa" * 512, disk_mib=48)
    assert len(sector) == 512
    assert sector[:440] == b"\xfa" * 440
    assert sector[510:] == b"\x55\xaa"
    status, kind, first, count = struct.unpack("<B3xB3xII", sector[446:462])
    assert (status, kind, first) == (0x80, 0x83, 2048)
    assert (first + count) * 512 == 48 * 1024 * 1024
    assert sector[462:510] == bytes(48)


def test_files_that_extlinux_reads_have_no_holes(tmp_path: Path) -> None:
    sparse = tmp_path / "boot/initrd"
    sparse.parent.mkdir()
    with sparse.open("wb") as file:
        file.truncate(1 << 20)
    (tmp_path / "boot/link").symlink_to("initrd")
    sparse.chmod(0o600)
    assert sparse.stat().st_blocks == 0
    extlinux.fill_holes(tmp_path / "boot")
    assert sparse.stat().st_blocks * 512 >= 1 << 20
    assert sparse.read_bytes() == bytes(1 << 20)
    assert sparse.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "boot/link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "boot").iterdir()) == ["initrd", "link"]


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "files/init").write_text("other"),
        lambda root: (root / "files/init").chmod(0o755),
        lambda root: (root / "files/more").write_text(""),
        lambda root: (root / "make.py").write_text("other"),
    ],
    ids=["content", "mode", "new file", "module"],
)
def test_recipe_hash_changes_with_every_file_of_the_recipe(tmp_path: Path, change: object) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/init").write_text("one")
    (tmp_path / "make.py").write_text("one")
    (tmp_path / "other.py").write_text("one")
    recipe = ("make.py", "files")
    before = cache.recipe_hash(tmp_path, recipe)
    (tmp_path / "other.py").write_text("two")
    assert cache.recipe_hash(tmp_path, recipe) == before
    assert callable(change)
    change(tmp_path)
    assert cache.recipe_hash(tmp_path, recipe) != before


@pytest.mark.parametrize("name", list(cache.GUESTS))
def test_every_file_of_a_recipe_is_there(name: str) -> None:
    for entry in cache.GUESTS[name].recipe:
        assert (cache.HERE / entry).exists()


def test_parallel_builds_make_one_image_and_a_failed_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    started = threading.Semaphore(0)
    finish = threading.Event()
    made: list[Path] = []

    def fail(files: Path, work: Path, target: Path) -> None:
        target.write_text("half")
        raise BuildError("no")

    def make(files: Path, work: Path, target: Path) -> None:
        made.append(work)
        started.release()
        assert finish.wait(60)
        target.write_text("image")

    monkeypatch.setitem(cache.GUESTS, "fake", cache.Guest("fake", fail, ("disk.py",)))
    with pytest.raises(BuildError, match="no"):
        cache.build("fake")
    path = cache.image_path("fake")
    assert [file.name for file in path.parent.iterdir()] == ["fake.lock"]

    monkeypatch.setitem(cache.GUESTS, "fake", cache.Guest("fake", make, ("disk.py",)))
    builders = [threading.Thread(target=cache.build, args=("fake",)) for _ in range(3)]
    for builder in builders:
        builder.start()
    assert started.acquire(timeout=60)
    assert not path.exists()
    finish.set()
    for builder in builders:
        builder.join()
    assert len(made) == 1
    assert path.read_text() == "image"
    assert cache.build("fake") == path


def test_a_program_that_fails_is_named_with_what_it_printed() -> None:
    with pytest.raises(BuildError, match=r"ls ended with status 2:\n.*no such place"):
        run(["ls", "/no such place"])
    with pytest.raises(BuildError, match=r"no-such-program is not installed"):
        run(["no-such-program"])

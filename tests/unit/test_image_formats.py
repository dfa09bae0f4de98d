"""The inspection of images' bytes: honest ones by qemu-img, hostile ones by hand."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.vocabulary import DiskFormat
from operators.image import formats
from operators.image.failure import ImportFailure, Reason

MIB = 1 << 20
GIB = 1 << 30


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def create(path: Path, *options: str | Path, size: str = "5M") -> Path:
    qemu_img("create", "-q", *options, path, size)
    return path


def facts_of(content: bytes | Path) -> formats.ImageFacts:
    if isinstance(content, Path):
        with content.open("rb") as file:
            return formats.inspect(file)
    return formats.inspect(io.BytesIO(content))


def refusal(content: bytes | Path) -> ImportFailure:
    with pytest.raises(ImportFailure) as caught:
        facts_of(content)
    assert caught.value.permanent
    assert caught.value.message.endswith(".")
    return caught.value


def patched(path: Path, offset: int, layout: str, *values: int | bytes) -> bytes:
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, offset, *values)
    return bytes(content)


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    return create(tmp_path / "image.qcow2", "-f", "qcow2")


@pytest.mark.parametrize(
    ("options", "format"),
    [
        (["-f", "qcow2"], DiskFormat.QCOW2),
        (["-f", "qcow2", "-o", "compat=0.10"], DiskFormat.QCOW2),
        (["-f", "qcow2", "-o", "extended_l2=on,cluster_size=64k"], DiskFormat.QCOW2),
        (["-f", "qcow2", "-o", "compression_type=zstd"], DiskFormat.QCOW2),
        (["-f", "raw"], DiskFormat.RAW),
        (["-f", "vmdk"], DiskFormat.VMDK),
        (["-f", "vmdk", "-o", "subformat=streamOptimized"], DiskFormat.VMDK),
        (["-f", "vdi"], DiskFormat.VDI),
        (["-f", "vdi", "-o", "static=on"], DiskFormat.VDI),
        (["-f", "vhdx"], DiskFormat.VHDX),
        (["-f", "vhdx", "-o", "subformat=fixed"], DiskFormat.VHDX),
    ],
)
def test_what_qemu_img_makes_is_recognised(tmp_path: Path, options: list[str], format: DiskFormat) -> None:
    facts = facts_of(create(tmp_path / "image", *options))
    assert (facts.format, facts.virtual_size) == (format, 5 * MIB)
    assert facts.plain == (format == DiskFormat.QCOW2 and "compat=0.10" not in options)


def test_a_stream_optimized_vmdk_with_data_is_recognised(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"data" * MIB)
    image = tmp_path / "image"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, image)
    assert facts_of(image) == formats.ImageFacts(DiskFormat.VMDK, 4 * MIB)


def iso(*, mbr: bool = False, identifier: bytes = b"CD001") -> bytes:
    content = bytearray(64 << 10)
    content[16 * 2048 : 16 * 2048 + 7] = b"\x01" + identifier + b"\x01"
    if mbr:
        content[510:512] = b"\x55\xaa"
    return bytes(content)


def test_iso_and_hybrid_iso() -> None:
    assert facts_of(iso()) == formats.ImageFacts(DiskFormat.ISO, 64 << 10)
    assert facts_of(iso(mbr=True)).also_raw
    assert facts_of(iso(identifier=b"NSR02")).format == DiskFormat.ISO


def test_a_qcow2_that_is_not_plain_is_accepted_for_conversion(qcow2: Path) -> None:
    qemu_img("snapshot", "-c", "first", qcow2)
    assert not facts_of(qcow2).plain
    assert not facts_of(create(qcow2, "-f", "qcow2", "-o", "lazy_refcounts=on")).also_raw
    qemu_img("bitmap", "--add", "-f", "qcow2", create(qcow2, "-f", "qcow2"), "b0")
    assert not facts_of(qcow2).plain
    assert not facts_of(patched(create(qcow2, "-f", "qcow2"), 72, ">Q", 1)).plain  # dirty


def test_qcow2_with_a_backing_file(tmp_path: Path, qcow2: Path) -> None:
    overlay = create(tmp_path / "overlay", "-f", "qcow2", "-b", qcow2, "-F", "qcow2")
    assert refusal(overlay).reason == Reason.BACKING_FILE
    # The name may lie anywhere, or be claimed by its length alone.
    assert refusal(patched(qcow2, 8, ">Q", (1 << 64) - 1)).reason == Reason.BACKING_FILE
    assert refusal(patched(qcow2, 16, ">I", 1)).reason == Reason.BACKING_FILE


def test_qcow2_with_an_external_data_file(tmp_path: Path) -> None:
    data = tmp_path / "data.raw"
    image = create(tmp_path / "image", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on")
    assert refusal(image).reason == Reason.EXTERNAL_FILE
    # The header extension alone, with the feature bit cleared.
    assert refusal(patched(image, 72, ">Q", 0)).reason == Reason.EXTERNAL_FILE


def test_qcow2_with_encryption(tmp_path: Path, qcow2: Path) -> None:
    secret = ["--object", "secret,id=s,data=password"]
    image = create(tmp_path / "image", "-f", "qcow2", *secret, "-o", "encrypt.format=luks,encrypt.key-secret=s")
    assert refusal(image).reason == Reason.ENCRYPTED
    assert refusal(patched(qcow2, 32, ">I", 1)).reason == Reason.ENCRYPTED


@pytest.mark.parametrize(
    ("offset", "layout", "value", "reason"),
    [
        (4, ">I", 1, Reason.UNSUPPORTED_FEATURE),  # version
        (4, ">I", 4, Reason.UNSUPPORTED_FEATURE),
        (20, ">I", 0, Reason.CORRUPT),  # cluster bits
        (20, ">I", 0xFFFFFFFF, Reason.CORRUPT),
        (36, ">I", 0xFFFFFFFF, Reason.CORRUPT),  # L1 entries
        (40, ">Q", (1 << 64) - 1, Reason.CORRUPT),  # L1 offset
        (72, ">Q", 1 << 1, Reason.CORRUPT),  # marked corrupt
        (72, ">Q", 1 << 5, Reason.UNSUPPORTED_FEATURE),  # unknown bits
        (72, ">Q", 1 << 63, Reason.UNSUPPORTED_FEATURE),
        (96, ">I", 0xFFFFFFFF, Reason.CORRUPT),  # refcount order
        (100, ">I", 0xFFFFFFFF, Reason.CORRUPT),  # header length
        (100, ">I", 0, Reason.CORRUPT),
        (116, ">I", 0xFFFFFFFF, Reason.CORRUPT),  # length of the first header extension
    ],
)
def test_qcow2_fields_at_their_limits(qcow2: Path, offset: int, layout: str, value: int, reason: Reason) -> None:
    assert refusal(patched(qcow2, offset, layout, value)).reason == reason


def test_a_huge_virtual_size_is_refused_by_the_limit(qcow2: Path) -> None:
    facts = facts_of(patched(qcow2, 24, ">Q", (1 << 64) - 1))
    with pytest.raises(ImportFailure, match="larger than the limit of 1Ti") as caught:
        formats.check(facts, DiskFormat.QCOW2, 1 << 40)
    assert caught.value.reason == Reason.VIRTUAL_SIZE_TOO_LARGE


def test_the_limit_itself_is_accepted(tmp_path: Path) -> None:
    facts = facts_of(create(tmp_path / "image", "-f", "qcow2", size="1G"))
    formats.check(facts, DiskFormat.QCOW2, GIB)
    with pytest.raises(ImportFailure):
        formats.check(facts, DiskFormat.QCOW2, GIB - 1)


def test_a_disk_of_size_zero_is_refused(tmp_path: Path) -> None:
    facts = facts_of(create(tmp_path / "image", "-f", "qcow2", size="0"))
    with pytest.raises(ImportFailure, match="size of 0"):
        formats.check(facts, DiskFormat.QCOW2, GIB)


DESCRIPTOR = """\
# Disk DescriptorFile
version=1
CID=1
parentCID={parent}
createType="{kind}"
{extent}
"""


def vmdk_descriptor(
    kind: str = "monolithicFlat", parent: str = "ffffffff", extent: str = 'RW 10 FLAT "/etc/shadow" 0'
) -> bytes:
    return DESCRIPTOR.format(kind=kind, parent=parent, extent=extent).encode()


def test_a_vmdk_descriptor_is_refused() -> None:
    assert refusal(vmdk_descriptor()).reason == Reason.EXTERNAL_FILE
    assert refusal(b"# comment\n\n" + vmdk_descriptor()).reason == Reason.EXTERNAL_FILE


@pytest.mark.parametrize(
    ("descriptor", "reason"),
    [
        (vmdk_descriptor(), Reason.EXTERNAL_FILE),
        (vmdk_descriptor("twoGbMaxExtentSparse", extent='RW 10 SPARSE "x.vmdk"'), Reason.EXTERNAL_FILE),
        (vmdk_descriptor("monolithicSparse") + b'createType="vmfs"\n', Reason.EXTERNAL_FILE),
        (vmdk_descriptor("monolithicSparse", extent='RW 10 SPARSE "/etc/shadow"'), Reason.EXTERNAL_FILE),
        (vmdk_descriptor("monolithicSparse"), Reason.EXTERNAL_FILE),
        (
            vmdk_descriptor("monolithicSparse", extent='RW 5 SPARSE "a"\nRW 5 SPARSE "b"'),
            Reason.EXTERNAL_FILE,
        ),
        (vmdk_descriptor("monolithicSparse", parent="12345678", extent='RW 10 SPARSE "a"'), Reason.BACKING_FILE),
        (
            vmdk_descriptor("monolithicSparse", extent='RW 10 SPARSE "a"\nparentFileNameHint="/etc/shadow"'),
            Reason.BACKING_FILE,
        ),
        (b"nothing", Reason.CORRUPT),
    ],
)
def test_a_sparse_vmdk_whose_descriptor_names_other_files(tmp_path: Path, descriptor: bytes, reason: Reason) -> None:
    image = create(tmp_path / "image", "-f", "vmdk")
    assert refusal(patched(image, 512, "1024s", descriptor)).reason == reason


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (4, "<I", 9),  # version
        (12, "<Q", (1 << 64) - 1),  # capacity
        (28, "<Q", (1 << 64) - 1),  # descriptor offset
        (28, "<Q", 0),
        (36, "<Q", (1 << 64) - 1),  # descriptor size
        (56, "<Q", (1 << 64) - 1),  # grain directory at the end, where there is no footer
    ],
)
def test_vmdk_fields_at_their_limits(tmp_path: Path, offset: int, layout: str, value: int) -> None:
    refusal(patched(create(tmp_path / "image", "-f", "vmdk"), offset, layout, value))


def test_the_footer_of_a_vmdk_must_agree_with_its_header(tmp_path: Path) -> None:
    image = create(tmp_path / "image", "-f", "vmdk", "-o", "subformat=streamOptimized")
    header = image.read_bytes()[:512]
    at_end = patched(image, 56, "<Q", (1 << 64) - 1)
    assert facts_of(at_end + header + bytes(512)).virtual_size == 5 * MIB
    larger = bytearray(header)
    struct.pack_into("<Q", larger, 12, 1 << 30)
    assert refusal(at_end + larger + bytes(512)).reason == Reason.CORRUPT
    elsewhere = bytearray(header)
    struct.pack_into("<Q", elsewhere, 28, 5)
    assert refusal(at_end + elsewhere + bytes(512)).reason == Reason.CORRUPT


@pytest.mark.parametrize(
    ("offset", "layout", "value", "reason"),
    [
        (0x44, "<I", 0, Reason.UNSUPPORTED_FEATURE),
        (0x4C, "<I", 4, Reason.BACKING_FILE),
        (0x1A8, "<B", 1, Reason.BACKING_FILE),
        (0x1B8, "<B", 1, Reason.BACKING_FILE),
        (0x178, "<I", 0, Reason.UNSUPPORTED_FEATURE),
        (0x170, "<Q", (1 << 64) - 1, Reason.CORRUPT),
    ],
)
def test_hostile_vdi(tmp_path: Path, offset: int, layout: str, value: int, reason: Reason) -> None:
    image = create(tmp_path / "image", "-f", "vdi")
    assert refusal(patched(image, offset, layout, value)).reason == reason


def test_hostile_vhdx(tmp_path: Path) -> None:
    image = create(tmp_path / "image", "-f", "vhdx")
    content = image.read_bytes()
    parameters = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
    entry = content.index(parameters)
    (offset,) = struct.unpack_from("<I", content, entry + 16)
    region = entry & ~0xFFFF
    (block, flags) = struct.unpack_from("<II", content, region + offset)
    assert (block & (block - 1), flags) == (0, 0)
    assert refusal(patched(image, region + offset + 4, "<I", 2)).reason == Reason.BACKING_FILE
    assert refusal(patched(image, entry, "16s", bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c"))).reason == (
        Reason.BACKING_FILE
    )
    assert refusal(patched(image, entry + 16, "<I", 0xFFFFFFFF)).reason == Reason.CORRUPT
    assert refusal(patched(image, region, "8s", b"nonsense")).reason == Reason.CORRUPT
    both = bytearray(content)
    both[192 << 10 : 320 << 10] = bytes(128 << 10)
    assert refusal(bytes(both)).reason == Reason.CORRUPT


@pytest.mark.parametrize(
    ("content", "reason", "word"),
    [
        (b"", Reason.CORRUPT, "empty"),
        (b"\x1f\x8b\x08" + bytes(2000), Reason.UNSUPPORTED_FORMAT, "gzip"),
        (b"\xfd7zXZ\0" + bytes(2000), Reason.UNSUPPORTED_FORMAT, "xz"),
        (b"\n<!DOCTYPE html><html>" + bytes(2000), Reason.UNSUPPORTED_FORMAT, "web page"),
        (b"conectix" + bytes(2000), Reason.UNSUPPORTED_FORMAT, "VHD"),
        (b"QED\0" + bytes(2000), Reason.UNSUPPORTED_FORMAT, "QED"),
        (b"LUKS\xba\xbe" + bytes(2000), Reason.ENCRYPTED, "LUKS"),
    ],
)
def test_what_is_no_disk_image_is_called_by_its_name(content: bytes, reason: Reason, word: str) -> None:
    found = refusal(content)
    assert found.reason == reason
    assert word in found.message


@pytest.mark.parametrize("options", [["qcow2"], ["vmdk"], ["vdi"], ["vhdx"]])
def test_bytes_that_contradict_the_declared_format(tmp_path: Path, options: list[str]) -> None:
    facts = facts_of(create(tmp_path / "image", "-f", *options))
    for declared in set(DiskFormat) - {facts.format}:
        with pytest.raises(ImportFailure) as caught:
            formats.check(facts, declared, GIB)
        assert caught.value.reason == Reason.FORMAT_MISMATCH
        assert f"says {declared}" in caught.value.message
        assert f"are {facts.format}" in caught.value.message


def test_a_qcow2_dressed_as_iso_is_a_qcow2(qcow2: Path) -> None:
    content = bytearray(iso(mbr=True))
    content[:512] = qcow2.read_bytes()[:512]
    content[40:48] = bytes(8)  # no L1 table
    content[36:40] = bytes(4)
    assert facts_of(bytes(content)).format == DiskFormat.QCOW2


def test_only_a_hybrid_iso_may_be_called_raw() -> None:
    formats.check(facts_of(iso(mbr=True)), DiskFormat.RAW, GIB)
    formats.check(facts_of(iso(mbr=True)), DiskFormat.ISO, GIB)
    with pytest.raises(ImportFailure):
        formats.check(facts_of(iso()), DiskFormat.RAW, GIB)
    with pytest.raises(ImportFailure):
        formats.check(facts_of(bytes(MIB)), DiskFormat.ISO, GIB)


def samples(folder: Path) -> dict[str, bytes]:
    return {kind: create(folder / kind, "-f", kind).read_bytes() for kind in ("qcow2", "vmdk", "vdi", "vhdx")}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return samples(tmp_path_factory.mktemp("samples"))


def never_another_error(inspect: Callable[[], object]) -> None:
    with contextlib.suppress(ImportFailure):
        inspect()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_make_it_fail_otherwise(images: dict[str, bytes], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(images)))
    content = bytearray(images[kind][: 3 << 20])
    for _ in range(data.draw(st.integers(1, 4))):
        # Where the parsers read: headers, and the tables of a VHDX.
        base = data.draw(st.sampled_from([0, 512, 192 << 10, 2 << 20] if kind == "vhdx" else [0, 0, 512]))
        offset = min(base + data.draw(st.integers(0, 600)), len(content) - 8)
        content[offset : offset + 8] = data.draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7])) or b""
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    never_another_error(lambda: facts_of(bytes(content[:cut])))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([b"QFI\xfb", b"KDMV", b"vhdxfile", b"\0" * 64 + b"\x7f\x10\xda\xbe", b""]), st.binary())
def test_no_noise_makes_it_fail_otherwise(magic: bytes, noise: bytes) -> None:
    never_another_error(lambda: facts_of(magic + noise))

"""Images imported from URLs, on a real apiserver, from a real web server, through the real sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest
from aiohttp import web
from image_rig import IMAGE, MIB, NODE_INSTANCE, Rig, make_image, qemu_img, ready, running

from crds.conditions import find_condition, is_true
from crds.image import ImagePhase
from crds.vocabulary import DiskFormat
from lab.api import ApiServer
from runtime.client import Client
from runtime.kind import NAMESPACE


@pytest.fixture
def rig(client: Client, operator_client: Client, tmp_path: Path) -> Rig:
    return Rig(client, operator_client, tmp_path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@running()
async def test_a_plain_qcow2_is_stored_as_it_is(rig: Rig, tmp_path: Path) -> None:
    content = make_image(tmp_path / "image")
    await rig.create("plain", rig.web.give("/image", content), sha256=sha256(content))
    image = await rig.active("plain")
    status = image.status
    assert (status.phase, status.progress) == (ImagePhase.ACTIVE, 100)
    assert (status.size, status.virtual_size) == (len(content), MIB)
    assert status.sha256 == status.stored_sha256 == sha256(content)
    assert status.detected_format == DiskFormat.QCOW2
    assert status.url == f"{rig.url}/v1/images/{sha256(content)}"
    assert status.observed_generation == image.metadata.generation
    assert not find_condition(status.conditions, "Reconciling")
    assert image.metadata.finalizers == ["image.kumulus.dev/operator"]
    await rig.keeps(f"blobs/{sha256(content)}.qcow2")
    assert [event["reason"] for event in await rig.events("plain")] == ["Imported"]
    # A step that is over before it is told is not told: what is seen is in order, and ends as it must.
    phases = list(dict.fromkeys(image.status.phase for image in rig.seen))
    steps = [ImagePhase.QUEUED, ImagePhase.SAVING, ImagePhase.IMPORTING, ImagePhase.ACTIVE]
    assert phases == [phase for phase in steps if phase in phases]
    assert phases[-1] is ImagePhase.ACTIVE


@pytest.mark.parametrize("format", ["raw", "vmdk", "vdi", "vhdx"])
@running()
async def test_other_formats_are_converted(rig: Rig, tmp_path: Path, format: str) -> None:
    content = make_image(tmp_path / "image", format)
    await rig.create("other", rig.web.give("/image", content), format)
    status = (await rig.active("other")).status
    assert status.sha256 == sha256(content)
    assert status.detected_format == format
    assert status.virtual_size is not None
    await rig.keeps(f"blobs/{status.stored_sha256}.qcow2")
    blob = rig.folder / "store" / "blobs" / f"{status.stored_sha256}.qcow2"
    assert (sha256(blob.read_bytes()), blob.stat().st_size) == (status.stored_sha256, status.size)
    back = tmp_path / "back"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", blob, back)
    assert back.read_bytes().rstrip(b"\0") == b"kumulus"


async def refusal(rig: Rig, name: str, reason: str) -> str:
    """Waits for the Image to be refused for good, with nothing kept; returns the message."""
    condition = await rig.reason(name, reason)
    image = await rig.get(name)
    assert image is not None
    assert condition.status == "False"
    assert is_true(image.status.conditions, "Stalled")
    assert image.status.phase == ImagePhase.ERROR
    assert image.status.stored_sha256 is None
    await rig.keeps()
    events = await rig.events(name)
    assert [(event["reason"], event["type"]) for event in events] == [(reason, "Warning")]
    return condition.message


@running()
async def test_a_url_without_a_file(rig: Rig) -> None:
    await rig.create("missing", f"{rig.web.url}/missing")
    message = await refusal(rig, "missing", "SourceNotFound")
    assert "answered 404" in message
    assert "Correct the URL" in message
    # It is not asked for over and over, but when the user changes something.
    await rig.stop()
    await rig.run()
    assert rig.web.requests == ["/missing"]
    rig.web.give("/missing", make_image(rig.folder / "late"))
    await rig.cluster.merge_patch(IMAGE, "missing", rig.namespace, {"spec": {"description": "now it is there"}})
    await rig.active("missing")


@running()
async def test_a_server_with_a_passing_fault(rig: Rig, tmp_path: Path) -> None:
    content = make_image(tmp_path / "image")
    answers = [503, 500]

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=answers.pop()) if answers else web.Response(body=content)

    rig.web.routes["/image"] = handler
    await rig.create("patient", rig.web.url + "/image")
    condition = await rig.reason("patient", "SourceUnavailable")
    assert "answered 500" in condition.message
    assert "trying again" in condition.message
    await rig.active("patient")
    assert answers == []


@running()
async def test_a_redirect_to_a_forbidden_address(rig: Rig) -> None:
    url = rig.web.give("/image", b"", status=302, headers={"Location": "http://169.254.169.254/latest/user-data"})
    await rig.create("ssrf", url)
    message = await refusal(rig, "ssrf", "ForbiddenAddress")
    assert "169.254.169.254" in message
    assert "link-local" in message
    assert "upload the image" in message


@running(allowed_import_cidrs=())
async def test_loopback_and_the_cluster_are_forbidden_by_default(rig: Rig) -> None:
    await rig.create("loopback", rig.web.url + "/image")
    await rig.create("cluster", "https://10.96.0.1/")
    assert "loopback" in await refusal(rig, "loopback", "ForbiddenAddress")
    assert "10.96.0.0/12" in await refusal(rig, "cluster", "ForbiddenAddress")
    assert rig.web.requests == []


@running()
async def test_a_truncated_download(rig: Rig, tmp_path: Path) -> None:
    content = make_image(tmp_path / "image")

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    rig.web.routes["/image"] = cut
    await rig.create("truncated", rig.web.url + "/image")
    condition = await rig.reason("truncated", "SourceTruncated")
    assert "Check the server's file" in condition.message
    image = await rig.get("truncated")
    assert image is not None
    assert is_true(image.status.conditions, "Reconciling")
    await rig.keeps()
    rig.web.give("/image", content)
    await rig.active("truncated")


@running()
async def test_a_wrong_checksum(rig: Rig, tmp_path: Path) -> None:
    content = make_image(tmp_path / "image")
    await rig.create("forged", rig.web.give("/image", content), sha256="0" * 64)
    message = await refusal(rig, "forged", "ChecksumMismatch")
    assert sha256(content) in message
    assert "0" * 64 in message


@pytest.mark.parametrize(("truth", "claim"), [("qcow2", "raw"), ("raw", "qcow2"), ("vmdk", "vdi"), ("vhdx", "iso")])
@running()
async def test_a_lie_about_the_format(rig: Rig, tmp_path: Path, truth: str, claim: str) -> None:
    await rig.create("liar", rig.web.give("/image", make_image(tmp_path / "image", truth)), claim)
    message = await refusal(rig, "liar", "FormatMismatch")
    assert f"says {claim}" in message
    assert f"are {truth}" in message


@running()
async def test_a_backing_file(rig: Rig, tmp_path: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", tmp_path / "image")
    await rig.create("overlay", rig.web.give("/image", (tmp_path / "image").read_bytes()))
    assert "backing file" in await refusal(rig, "overlay", "BackingFile")


@running()
async def test_an_external_data_file(rig: Rig, tmp_path: Path) -> None:
    options = f"data_file={tmp_path / 'data'},data_file_raw=on"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, tmp_path / "image", "1M")
    await rig.create("hollow", rig.web.give("/image", (tmp_path / "image").read_bytes()))
    assert "external data file" in await refusal(rig, "hollow", "ExternalFile")


@running()
async def test_a_vmdk_descriptor(rig: Rig) -> None:
    text = (
        '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        'RW 1 FLAT "/etc/shadow" 0\n'
    )
    await rig.create("descriptor", rig.web.give("/image", text.encode()), "vmdk")
    assert "names other files" in await refusal(rig, "descriptor", "ExternalFile")


@running()
async def test_a_disk_larger_than_the_limit(rig: Rig, tmp_path: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "image", "65M")
    await rig.create("giant", rig.web.give("/image", (tmp_path / "image").read_bytes()))
    assert "larger than the limit of 64Mi" in await refusal(rig, "giant", "VirtualSizeTooLarge")


@running()
async def test_an_image_that_expands_beyond_the_limit(rig: Rig, tmp_path: Path) -> None:
    bomb = make_image(
        tmp_path / "image", "vmdk", "-o", "subformat=streamOptimized", content=b"\1" * (32 * MIB), size=32 * MIB
    )
    assert len(bomb) < MIB
    await rig.create("bomb", rig.web.give("/image", bomb), "vmdk")
    assert "takes more than 16Mi" in await refusal(rig, "bomb", "ExpandsBeyondLimit")


@running()
async def test_a_file_larger_than_the_limit(rig: Rig) -> None:
    await rig.create("large", rig.web.give("/image", bytes(17 * MIB)), "raw")
    assert "more than 16Mi" in await refusal(rig, "large", "TooLarge")


@running()
async def test_sources_that_are_not_supported_yet(rig: Rig) -> None:
    await rig.create("from-instance", {"instanceRef": {"name": "web"}})
    assert "spec.source.instanceRef" in await refusal(rig, "from-instance", "NotSupported")


@running()
async def test_at_most_two_imports_at_once(rig: Rig, tmp_path: Path) -> None:
    content = make_image(tmp_path / "image")
    release = asyncio.Event()
    now, most = 0, 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await release.wait()
        now -= 1
        return web.Response(body=content)

    rig.web.routes["/image"] = slow
    names = [f"crowd-{i}" for i in range(4)]
    for name in names:
        await rig.create(name, rig.web.url + "/image")

    async def two_and_two() -> bool:
        reasons = sorted([ready(image).reason for name in names if (image := await rig.get(name))])
        return reasons == ["Saving", "Saving", "WaitingForTurn", "WaitingForTurn"]

    await rig.until(two_and_two, "two imports and two that wait")
    release.set()
    for name in names:
        await rig.active(name)
    assert most == 2
    await rig.keeps(f"blobs/{sha256(content)}.qcow2")


@running()
async def test_progress_is_told_now_and_then(rig: Rig, tmp_path: Path) -> None:
    content = make_image(tmp_path / "image", content=os.urandom(8 * MIB), size=8 * MIB)

    async def steady(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        for start in range(0, len(content), len(content) // 35 + 1):
            await response.write(content[start : start + len(content) // 35 + 1])
            await asyncio.sleep(0.1)
        return response

    rig.web.routes["/image"] = steady
    await rig.create("steady", rig.web.url + "/image")
    await rig.active("steady")
    told = [image.status.progress for image in rig.seen if image.status.phase == ImagePhase.SAVING]
    percents = [percent for percent in told if percent is not None]
    assert percents == sorted(set(percents))
    assert all(percent % 5 == 0 for percent in percents)
    assert 3 <= len(percents) <= 6, f"3.5 s of download: {percents}"


@running()
async def test_deletion_in_the_middle_of_an_import(rig: Rig) -> None:
    cut_off = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 1000)
                await asyncio.sleep(0.01)
        finally:
            cut_off.set()

    rig.web.routes["/image"] = endless
    await rig.create("unwanted", rig.web.url + "/image")
    await rig.reason("unwanted", "Saving")
    await rig.cluster.delete(IMAGE, "unwanted", rig.namespace)
    await rig.gone("unwanted")
    await asyncio.wait_for(cut_off.wait(), 10)
    await rig.keeps()


@running()
async def test_a_protected_image_waits_to_be_deleted(rig: Rig, tmp_path: Path) -> None:
    await rig.create("precious", rig.web.give("/image", make_image(tmp_path / "image")), protected=True)
    await rig.active("precious")
    await rig.cluster.delete(IMAGE, "precious", rig.namespace)
    image = await rig.wait("precious", lambda image: is_true(image.status.conditions, "Stalled"), "protection")
    stalled = find_condition(image.status.conditions, "Stalled")
    assert stalled is not None
    assert stalled.reason == "Protected"
    assert "spec.protected to false" in stalled.message
    await rig.cluster.merge_patch(IMAGE, "precious", rig.namespace, {"spec": {"protected": False}})
    await rig.gone("precious")


@running()
async def test_deactivation(rig: Rig, tmp_path: Path) -> None:
    await rig.create("hidden", rig.web.give("/image", make_image(tmp_path / "image")))
    await rig.active("hidden")
    await rig.cluster.merge_patch(IMAGE, "hidden", rig.namespace, {"spec": {"deactivated": True}})
    await rig.wait("hidden", lambda image: image.status.phase == ImagePhase.DEACTIVATED, "deactivation")
    await rig.cluster.merge_patch(IMAGE, "hidden", rig.namespace, {"spec": {"deactivated": False}})
    await rig.wait("hidden", lambda image: image.status.phase == ImagePhase.ACTIVE, "activation")


@running(image_blob_grace=1)
async def test_a_copy_outlives_its_original(rig: Rig, tmp_path: Path) -> None:
    await rig.create("copy", {"imageRef": {"name": "original"}})
    await rig.reason("copy", "ImageNotFound")
    await rig.create("original", rig.web.give("/image", make_image(tmp_path / "image")))
    original, copy = await rig.active("original"), await rig.active("copy")
    assert original.status.stored_sha256 == copy.status.stored_sha256
    await rig.cluster.delete(IMAGE, "original", rig.namespace)
    await rig.gone("original")
    await asyncio.sleep(2)  # longer than the grace: what is shown is that nothing happens
    await rig.keeps(f"blobs/{copy.status.stored_sha256}.qcow2")


@running(image_blob_grace=1)
async def test_a_blob_stays_while_a_guest_needs_it(rig: Rig, tmp_path: Path) -> None:
    node = f"n-{rig.namespace}"
    await rig.make_namespace(f"kumulus-node-{node}")
    await rig.create("base", rig.web.give("/image", make_image(tmp_path / "image")))
    image = await rig.active("base")
    await rig.needs(node, image)
    await rig.cluster.delete(IMAGE, "base", rig.namespace)
    await rig.gone("base")
    await asyncio.sleep(2)  # as above
    await rig.keeps(f"blobs/{image.status.stored_sha256}.qcow2")
    await rig.cluster.delete(NODE_INSTANCE, "a-guest", f"kumulus-node-{node}")
    await rig.keeps()


@running()
async def test_bytes_that_the_store_lost_are_fetched_again(rig: Rig, tmp_path: Path) -> None:
    content = make_image(tmp_path / "image")
    await rig.create("lost", rig.web.give("/image", content))
    image = await rig.active("lost")
    await rig.stop()
    (rig.folder / "store" / "blobs" / f"{image.status.stored_sha256}.qcow2").unlink()
    await rig.run()
    await rig.cluster.merge_patch(IMAGE, "lost", rig.namespace, {"spec": {"description": "look again"}})
    await rig.keeps(f"blobs/{image.status.stored_sha256}.qcow2")
    await rig.active("lost")


@running()
async def test_a_whole_namespace_goes(rig: Rig, tmp_path: Path) -> None:
    await rig.create("one", rig.web.give("/image", make_image(tmp_path / "image")))
    await rig.create("two", {"upload": {}})
    await rig.active("one")
    await rig.reason("two", "AwaitingUpload")
    await rig.client.delete(NAMESPACE, rig.namespace)
    await rig.gone("one")
    await rig.gone("two")


@pytest.mark.parametrize("moment", ["download", "conversion"])
@running()
async def test_kill_9_in_the_middle_of_an_import(rig: Rig, apiserver: ApiServer, tmp_path: Path, moment: str) -> None:
    """The operator as its own process, killed without warning; its successor finishes, and nothing is left over."""
    await rig.stop()
    content = make_image(tmp_path / "image", "raw", content=os.urandom(12 * MIB), size=12 * MIB)
    slow = moment == "download"

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        for start in range(0, len(content), MIB):
            await response.write(content[start : start + MIB])
            if slow:
                await asyncio.sleep(0.3)
        return response

    rig.web.routes["/image"] = handler
    process = await start_operator(rig, apiserver)
    try:
        await rig.create("killed", rig.web.url + "/image", "raw")
        incoming = rig.folder / "store" / "incoming"

        async def reached() -> bool:
            if slow:
                return any(path.startswith("tmp/") for path in rig.stored())
            return incoming.is_dir() and any(incoming.iterdir())

        await rig.until(reached, moment)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    slow = False
    before = len(rig.web.requests)
    successor = await start_operator(rig, apiserver)
    try:
        image = await rig.active("killed")
        assert len(rig.web.requests) - before == (1 if moment == "download" else 0)
        await rig.keeps(f"blobs/{image.status.stored_sha256}.qcow2")
    finally:
        successor.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(successor.wait(), 20) == 0


async def start_operator(rig: Rig, apiserver: ApiServer) -> asyncio.subprocess.Process:
    settings = rig.settings
    kubeconfig = apiserver.user_kubeconfig("kumulus-operator", ["kumulus:operators"])
    environment = {
        "KUMULUS_IMAGE_STORE": settings.image_store,
        "KUMULUS_IMAGE_SERVICE_URL": settings.image_service_url,
        "KUMULUS_IMAGE_SERVICE_LISTEN": settings.image_service_listen,
        "KUMULUS_IMAGE_SERVICE_CERT": settings.image_service_cert,
        "KUMULUS_IMAGE_SERVICE_KEY": settings.image_service_key,
        "KUMULUS_CLIENT_CA": settings.client_ca,
        "KUMULUS_IMAGE_MAX_SIZE": settings.image_max_size,
        "KUMULUS_ALLOWED_IMPORT_CIDRS": "127.0.0.1/32",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "operators.main",
        "--domains=image",
        f"--kubeconfig={kubeconfig}",
        "--identity=test",
        cwd=Path(__file__).parents[2],
        env=os.environ | {name: str(value) for name, value in environment.items()},
    )

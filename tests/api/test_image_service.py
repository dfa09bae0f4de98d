"""The image service: uploads by token, downloads by node certificate."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import logging
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest
from image_rig import IMAGE, MIB, Rig, make_image, qemu_img, ready, running
from yarl import URL

from crds.conditions import is_true
from crds.image import Image, ImagePhase
from lab import pki
from operators.image.service import node_of
from runtime.client import Client
from runtime.kind import SECRET


@pytest.fixture
def rig(client: Client, operator_client: Client, tmp_path: Path) -> Rig:
    return Rig(client, operator_client, tmp_path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def offered(rig: Rig, name: str) -> dict[str, str]:
    """What the Secret of an awaited upload holds."""
    image = await rig.wait(name, lambda image: image.status.upload_secret_ref, "an upload URL")
    assert image.status.upload_secret_ref is not None
    secret = await rig.client.get(SECRET, image.status.upload_secret_ref.name, rig.namespace)
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


async def put(
    rig: Rig, url: str | URL, content: bytes, headers: dict[str, str] | None = None, *, wait: bool = False
) -> tuple[int, str]:
    """The answer to an upload; with `wait` the body is sent only after `100 Continue`, as curl does."""
    async with rig.http() as http, http.put(url, data=content, headers=headers, expect100=wait) as answer:
        return answer.status, await answer.text()


@running()
async def test_an_upload_becomes_an_image(rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    content = make_image(tmp_path / "image")
    created = await rig.create("mine", {"upload": {}})
    secret = await offered(rig, "mine")
    assert URL(secret["url"]).with_query(None) == URL(f"{rig.url}/v1/uploads/{created.metadata.uid}")
    waiting = ready(await rig.wait("mine", lambda image: ready(image).reason == "AwaitingUpload", "an upload"))
    assert "curl -T" in waiting.message
    assert (await put(rig, secret["url"], content))[0] == 202
    image = await rig.active("mine")
    assert image.status.sha256 == image.status.stored_sha256 == sha256(content)
    assert image.status.upload_secret_ref is None
    await rig.keeps(f"blobs/{sha256(content)}.qcow2")
    assert await rig.secrets() == []
    # The token was used up, and it stands nowhere.
    assert (await put(rig, secret["url"], content))[0] == 403
    told = [seen.model_dump_json() for seen in rig.seen] + [str(event) for event in await rig.events("mine")]
    assert not [text for text in [*told, *caplog.messages] if secret["token"] in text]


@running()
async def test_the_token_may_come_as_a_header_and_the_body_late(rig: Rig, tmp_path: Path) -> None:
    await rig.create("mine", {"upload": {}}, "raw")
    secret = await offered(rig, "mine")
    bare = URL(secret["url"]).with_query(None)
    authorization = {"Authorization": f"Bearer {secret['token']}"}
    assert (await put(rig, bare, b"disk" * 1000, authorization, wait=True))[0] == 202
    await rig.active("mine")


@running()
async def test_strangers_cannot_upload(rig: Rig) -> None:
    await rig.create("mine", {"upload": {}})
    await rig.create("other", {"upload": {}})
    mine, other = await offered(rig, "mine"), await offered(rig, "other")
    bare = URL(mine["url"]).with_query(None)
    answers = [
        await put(rig, bare, b"x"),
        await put(rig, bare.with_query(token=other["token"]), b"x"),
        await put(rig, bare.with_query(token=mine["token"] + "x"), b"x", wait=True),
        await put(rig, URL(mine["url"]).with_path("/v1/uploads/00000000-0000-0000-0000-000000000000"), b"x"),
        await put(rig, bare, b"x", {"Authorization": f"Basic {mine['token']}"}),
    ]
    assert len(set(answers)) == 1, "the refusals do not tell what exists"
    assert answers[0][0] == 403
    image = await rig.get("mine")
    assert image is not None
    assert ready(image).reason == "AwaitingUpload"


@running()
async def test_a_refused_upload_tells_why_and_may_be_repeated(rig: Rig, tmp_path: Path) -> None:
    good = make_image(tmp_path / "image")
    await rig.create("mine", {"upload": {}}, sha256=sha256(good))
    url = (await offered(rig, "mine"))["url"]
    status, text = await put(rig, url, good[:-1] + b"!")
    assert status == 422
    assert text.startswith("ChecksumMismatch: ")
    image = await rig.wait("mine", lambda image: ready(image).reason == "ChecksumMismatch", "the refusal")
    assert image.status.phase == ImagePhase.ERROR
    assert is_true(image.status.conditions, "Stalled")
    assert "takes another upload" in ready(image).message
    await rig.keeps()
    assert (await put(rig, url, good))[0] == 202
    await rig.active("mine")


@running()
async def test_hostile_uploads_are_refused(rig: Rig, tmp_path: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", tmp_path / "overlay")
    await rig.create("mine", {"upload": {}})
    url = (await offered(rig, "mine"))["url"]
    for content, reason, code in (
        ((tmp_path / "overlay").read_bytes(), "BackingFile", 422),
        (b"not a qcow2", "FormatMismatch", 422),
        (b"", "Corrupt", 422),
        (bytes(17 * MIB), "TooLarge", 413),
    ):
        status, text = await put(rig, url, content)
        assert (status, text.split(":")[0]) == (code, reason)
        await rig.reason("mine", reason)
        await rig.keeps()


@running()
async def test_an_upload_that_breaks_off_may_be_repeated(rig: Rig, tmp_path: Path) -> None:
    content = make_image(tmp_path / "image")
    await rig.create("mine", {"upload": {}})
    url = URL((await offered(rig, "mine"))["url"])
    context = ssl.create_default_context(cafile=str(rig.ca.cert))
    _, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=context)
    writer.write(f"PUT {url.path_qs} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode())
    writer.write(content[:1000])
    await writer.drain()
    await rig.reason("mine", "Saving")
    # Meanwhile nobody else can.
    assert (await put(rig, url, content))[0] == 409
    writer.transport.abort()
    condition = await rig.reason("mine", "UploadIncomplete")
    assert "takes another upload" in condition.message
    await rig.keeps()
    assert (await put(rig, url, content))[0] == 202
    await rig.active("mine")


@running()
async def test_deleting_the_secret_withdraws_the_token(rig: Rig) -> None:
    await rig.create("mine", {"upload": {}})
    before = await offered(rig, "mine")
    await rig.client.delete(SECRET, (await rig.secrets())[0]["metadata"]["name"], rig.namespace)
    assert (await put(rig, before["url"], b"x"))[0] == 403
    await rig.cluster.merge_patch(IMAGE, "mine", rig.namespace, {"spec": {"description": "another token, please"}})

    async def renewed() -> bool:
        return bool(await rig.secrets())

    await rig.until(renewed, "a new Secret")
    after = await offered(rig, "mine")
    assert after["token"] != before["token"]


@running()
async def test_deletion_while_an_upload_is_awaited_or_running(rig: Rig) -> None:
    await rig.create("awaited", {"upload": {}})
    await rig.create("running", {"upload": {}}, "raw")
    await offered(rig, "awaited")
    url = (await offered(rig, "running"))["url"]
    stop = asyncio.Event()

    async def endless() -> object:
        while not stop.is_set():
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    async def upload() -> None:
        async with rig.http() as http, http.put(url, data=endless()):
            pass

    task = asyncio.create_task(upload())
    await rig.reason("running", "Saving")
    for name in ("awaited", "running"):
        await rig.cluster.delete(IMAGE, name, rig.namespace)
        await rig.gone(name)
    with pytest.raises(aiohttp.ClientError):
        await asyncio.wait_for(task, 20)
    stop.set()
    assert await rig.secrets() == []
    await rig.keeps()


@running()
async def test_an_upload_survives_a_restart_of_the_operator(rig: Rig, tmp_path: Path) -> None:
    """What was answered with 202 is imported, whatever happens to the operator then."""
    content = make_image(tmp_path / "image", "raw", size=8 * MIB)
    await rig.create("mine", {"upload": {}}, "raw")
    url = (await offered(rig, "mine"))["url"]
    assert (await put(rig, url, content))[0] == 202
    await rig.stop()
    await rig.run()
    image = await rig.active("mine")
    assert image.status.sha256 == sha256(content)
    await rig.keeps(f"blobs/{image.status.stored_sha256}.qcow2")


@running()
async def test_an_upload_is_found_also_when_the_store_opens_late(rig: Rig, tmp_path: Path) -> None:
    """The predecessor still holds the store while the new operator looks at all Images for the first time."""
    content = make_image(tmp_path / "image", "raw", size=8 * MIB)
    await rig.create("mine", {"upload": {}}, "raw")
    url = (await offered(rig, "mine"))["url"]
    assert (await put(rig, url, content))[0] == 202
    await rig.stop()
    with (rig.folder / "store/lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        healthy = asyncio.create_task(rig.run())
        await rig.create("later", {"upload": {}}, "raw")
        await offered(rig, "later")
        assert not healthy.done()
    await healthy
    await rig.active("mine")


async def stored_image(rig: Rig, tmp_path: Path) -> tuple[Image, str, bytes]:
    """An active Image that a guest on the returned node is made from, and its bytes."""
    content = make_image(tmp_path / "image")
    await rig.create("base", rig.web.give("/image", content))
    image = await rig.active("base")
    node = f"n-{rig.namespace}"
    await rig.make_namespace(f"kumulus-node-{node}")
    await rig.needs(node, image)
    return image, node, content


@running()
async def test_a_node_gets_the_images_of_its_guests(rig: Rig, tmp_path: Path) -> None:
    image, node, content = await stored_image(rig, tmp_path)
    assert image.status.url is not None
    async with rig.http(rig.node(node)) as http:
        async with http.get(image.status.url) as answer:
            assert answer.status == 200
            assert await answer.read() == content
        async with http.get(image.status.url, headers={"Range": "bytes=1000-"}) as answer:
            assert answer.status == 206
            assert await answer.read() == content[1000:]
        async with http.get(image.status.url, headers={"Range": f"bytes={len(content)}-"}) as answer:
            assert answer.status == 416
        async with http.head(image.status.url) as answer:
            assert answer.content_length == len(content)


@running()
async def test_nobody_else_gets_them(rig: Rig, tmp_path: Path) -> None:
    image, node, _ = await stored_image(rig, tmp_path)
    assert image.status.url is not None
    foreign = pki.authority(tmp_path / "foreign", "foreign-ca")
    impostor = pki.client(
        foreign, pki.pair_at(tmp_path / "foreign", "x"), f"system:kumulus:node:{node}", ["kumulus:nodes"]
    )
    for certificate in (
        None,
        rig.certificate("alice"),
        rig.certificate(f"system:kumulus:node:{node}"),
        rig.certificate(f"system:kumulus:node:{node}", "kumulus:operators"),
        rig.certificate("system:node:x", "kumulus:nodes"),
        rig.node("another"),
    ):
        async with rig.http(certificate) as http, http.get(image.status.url) as answer:
            assert answer.status == 403
            assert (await answer.read())[:4] != b"QFI\xfb"
    async with rig.http(impostor) as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(image.status.url)


@running()
async def test_paths_lead_nowhere_else(rig: Rig, tmp_path: Path) -> None:
    _, node, _ = await stored_image(rig, tmp_path)
    async with rig.http(rig.node(node)) as http:
        for path in (
            "/v1/images/..%2Flock",
            "/v1/images/%2e%2e/lock",
            "/v1/images/",
            "/v1",
            "/",
            "/v1/images/" + "0" * 64,
        ):
            async with http.get(URL(rig.url + path, encoded=True)) as answer:
                assert answer.status in (403, 404)
        async with http.put(f"{rig.url}/v1/images/{'0' * 64}", data=b"x") as answer:
            assert answer.status == 405


@running()
async def test_an_address_that_is_still_taken_is_waited_for(rig: Rig) -> None:
    await rig.stop()
    with socket.create_server(("127.0.0.1", rig.port)):
        starting = asyncio.create_task(rig.run())
        done, _ = await asyncio.wait({starting}, timeout=1.5)
        assert not done
    await starting


@running()
async def test_a_renewed_certificate_is_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.image.service._RELOAD", 0.1)
    await rig.stop()
    await rig.run()
    cert = rig.settings.image_service_cert
    before = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", rig.port))
    renewed = pki.pair_at(rig.folder / "pki", "renewed")
    await asyncio.to_thread(pki.server, rig.ca, renewed, "image", ["127.0.0.1"])
    renewed.key.replace(rig.settings.image_service_key)
    renewed.cert.replace(cert)

    async def changed() -> bool:
        return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", rig.port)) != before

    await rig.until(changed, "the new certificate")


@pytest.mark.parametrize(
    ("subject", "node"),
    [
        ([("organizationName", "kumulus:nodes"), ("commonName", "system:kumulus:node:n1")], "n1"),
        (
            [
                ("organizationName", "a"),
                ("organizationName", "kumulus:nodes"),
                ("commonName", "system:kumulus:node:n1"),
            ],
            "n1",
        ),
        ([("commonName", "system:kumulus:node:n1")], None),
        ([("organizationName", "kumulus:nodes"), ("commonName", "n1")], None),
        ([("organizationName", "kumulus:nodes"), ("commonName", "system:kumulus:node:")], None),
        ([("organizationName", "kumulus:nodes")], None),
        (
            [
                ("organizationName", "kumulus:nodes"),
                ("commonName", "system:kumulus:node:n1"),
                ("commonName", "system:kumulus:node:n2"),
            ],
            None,
        ),
    ],
)
def test_whose_certificate_it_is(subject: list[tuple[str, str]], node: str | None) -> None:
    assert node_of({"subject": tuple((pair,) for pair in subject)}) == node
    assert node_of(None) is None
    assert node_of({}) is None

"""Which addresses imports may reach, and that the download holds to it."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from operators.image import fetch as fetching
from operators.image.failure import ImportFailure, Reason
from operators.image.fetch import FetchLimits, fetch, redacted
from operators.image.policy import AddressPolicy
from operators.image.sink import Received

DEFAULT = AddressPolicy(forbidden=(ip_network("10.96.0.0/12"), ip_network("fd00:96::/112")))
LOOPBACK_ALLOWED = AddressPolicy(allowed=(ip_network("127.0.0.1/32"),))
LIMITS = FetchLimits(max_size=1 << 20, connect=2, stall=0.5, total=20)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "0.0.0.0",  # noqa: S104 - nothing is bound
        "0.1.2.3",
        "::",
        "169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "ff02::1",
        "fec0::1",
        "10.96.0.1",
        "10.111.255.255",
        "fd00:96::5",
        "::ffff:127.0.0.1",
        "::ffff:10.96.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a60:1::",
        "not an address",
    ],
)
def test_forbidden(address: str) -> None:
    assert DEFAULT.objection(address)


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "8.8.8.8", "10.0.0.1", "2001:db8::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "fd00:97::1"]
)
def test_not_forbidden(address: str) -> None:
    assert DEFAULT.objection(address) is None


def test_the_administrators_exception() -> None:
    assert LOOPBACK_ALLOWED.objection("127.0.0.1") is None
    assert LOOPBACK_ALLOWED.objection("::ffff:127.0.0.1") is None
    assert LOOPBACK_ALLOWED.objection("127.0.0.2")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[dict[str, Handler]], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def start(routes: dict[str, Handler]) -> str:
        app = web.Application()
        for path, handler in routes.items():
            app.router.add_get(path, handler)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    yield start
    for runner in runners:
        await runner.cleanup()


async def get(
    url: str, target: Path, policy: AddressPolicy = LOOPBACK_ALLOWED, *, checksummed: bool = False
) -> Received:
    return await fetch(url, target, policy, LIMITS, checksummed=checksummed, on_progress=lambda size, total: None)


async def refusal(url: str, target: Path, policy: AddressPolicy = LOOPBACK_ALLOWED) -> ImportFailure:
    with pytest.raises(ImportFailure) as caught:
        await get(url, target, policy)
    return caught.value


def answer(**options: object) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(**options)  # type: ignore[arg-type]  # each test gives what fits

    return handler


def redirect(location: str, status: int = 302) -> Handler:
    return answer(status=status, headers={"Location": location})


async def test_the_bytes_arrive(serve: Serve, tmp_path: Path) -> None:
    body = b"image" * 1000
    url = await serve({"/image": answer(body=body)})
    received = await get(f"{url}/image", tmp_path / "image")
    assert received == Received(len(body), hashlib.sha256(body).hexdigest())
    assert (tmp_path / "image").read_bytes() == body


async def test_loopback_is_refused_by_default(serve: Serve, tmp_path: Path) -> None:
    touched: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        touched.append(request.path)
        return web.Response()

    url = await serve({"/image": handler})
    port = URL(url).port
    for host in ("127.0.0.1", "localhost", "0x7f000001", "[::ffff:127.0.0.1]", "[::]"):
        failure = await refusal(f"http://{host}:{port}/image", tmp_path / "image", AddressPolicy())
        assert failure.reason == Reason.FORBIDDEN_ADDRESS, host
        assert failure.permanent
        assert "allow the address" in failure.message
    for host in ("127.1", "2130706433"):
        failure = await refusal(f"http://{host}:{port}/image", tmp_path / "image", AddressPolicy())
        assert (failure.reason, failure.permanent) == (Reason.SOURCE_REFUSED, True)
    assert touched == []


async def test_a_redirect_to_a_forbidden_address_is_refused(serve: Serve, tmp_path: Path) -> None:
    for location in ("http://127.0.0.2/latest", "http://169.254.169.254/latest/meta-data", "//[::1]/x"):
        url = await serve({"/image": redirect(location)})
        failure = await refusal(f"{url}/image", tmp_path / "image")
        assert failure.reason == Reason.FORBIDDEN_ADDRESS
        assert failure.permanent


async def test_redirects_are_followed_five_times(serve: Serve, tmp_path: Path) -> None:
    routes = {f"/{i}": redirect(f"/{i + 1}", status) for i, status in enumerate((301, 302, 303, 307, 308))}
    url = await serve({**routes, "/5": answer(body=b"there")})
    assert (await get(f"{url}/0", tmp_path / "a")).size == 5
    url = await serve({**routes, "/5": redirect("/6"), "/6": answer(body=b"too far")})
    failure = await refusal(f"{url}/0", tmp_path / "b")
    assert (failure.reason, failure.permanent) == (Reason.BAD_REDIRECT, True)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://example.org/x", "http://[bad", ""])
async def test_a_redirect_to_something_else_is_refused(serve: Serve, tmp_path: Path, location: str) -> None:
    url = await serve({"/image": redirect(location)})
    assert (await refusal(f"{url}/image", tmp_path / "image")).reason == Reason.BAD_REDIRECT


async def test_the_connection_goes_to_the_very_address_that_was_judged(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DNS server that changes its answer between the check and the connection gains nothing."""
    url = await serve({"/image": answer(body=b"x")})
    port = URL(url).port
    loop = asyncio.get_running_loop()
    asked: list[str] = []

    async def rebinding(host: str, port: int, **options: object) -> list[object]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(loop, "getaddrinfo", rebinding)
    assert (await get(f"http://rebind.example:{port}/image", tmp_path / "image")).size == 1
    assert asked == ["rebind.example"]
    assert (await refusal(f"http://rebind.example:{port}/image", tmp_path / "b")).reason == Reason.FORBIDDEN_ADDRESS


async def test_one_forbidden_address_among_several_is_enough(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await serve({"/image": answer(body=b"x")})

    async def both(host: str, port: int, **options: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("127.0.0.1", "10.96.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    policy = AddressPolicy(forbidden=DEFAULT.forbidden, allowed=LOOPBACK_ALLOWED.allowed)
    failure = await refusal(f"http://both.example:{URL(url).port}/image", tmp_path / "image", policy)
    assert failure.reason == Reason.FORBIDDEN_ADDRESS
    assert "10.96.0.1" in failure.message


async def test_proxies_of_the_environment_are_ignored(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    url = await serve({"/image": answer(body=b"direct")})
    assert (await get(f"{url}/image", tmp_path / "image")).size == 6


@pytest.mark.parametrize(
    ("status", "reason", "permanent"),
    [
        (404, Reason.SOURCE_NOT_FOUND, True),
        (410, Reason.SOURCE_NOT_FOUND, True),
        (401, Reason.SOURCE_REFUSED, True),
        (403, Reason.SOURCE_REFUSED, True),
        (400, Reason.SOURCE_REFUSED, True),
        (206, Reason.SOURCE_REFUSED, True),
        (429, Reason.SOURCE_UNAVAILABLE, False),
        (500, Reason.SOURCE_UNAVAILABLE, False),
        (503, Reason.SOURCE_UNAVAILABLE, False),
    ],
)
async def test_answers_that_are_no_image(
    serve: Serve, tmp_path: Path, status: int, reason: Reason, permanent: bool
) -> None:
    url = await serve({"/image": answer(status=status)})
    failure = await refusal(f"{url}/image?signature=secret", tmp_path / "image")
    assert (failure.reason, failure.permanent) == (reason, permanent)
    assert str(status) in failure.message
    assert "secret" not in failure.message


async def test_a_server_out_of_reach_is_tried_again(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        failure = await refusal(f"http://127.0.0.1:{port}/image", tmp_path / "image")
    assert (failure.reason, failure.permanent) == (Reason.SOURCE_UNAVAILABLE, False)


async def test_a_name_that_does_not_exist_is_tried_again(tmp_path: Path) -> None:
    failure = await refusal("http://no-such-name.invalid/image", tmp_path / "image")
    assert (failure.reason, failure.permanent) == (Reason.SOURCE_UNAVAILABLE, False)


async def raw_server(*writes: bytes, hold: bool = False) -> tuple[asyncio.Server, str]:
    """A server that answers any request with these very bytes and closes, or falls silent."""
    release = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.writelines(writes)
        await writer.drain()
        if hold:
            await reader.read()  # until the client gives up
        writer.close()
        release.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_fewer_bytes_than_announced_are_noticed(tmp_path: Path) -> None:
    server, url = await raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x" * 999)
    async with server:
        failure = await refusal(f"{url}/image", tmp_path / "image")
    assert (failure.reason, failure.permanent) == (Reason.SOURCE_TRUNCATED, False)


async def test_a_chunked_answer_without_its_end_is_noticed(tmp_path: Path) -> None:
    server, url = await raw_server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nabcd\r\n")
    async with server:
        failure = await refusal(f"{url}/image", tmp_path / "image")
    assert (failure.reason, failure.permanent) == (Reason.SOURCE_TRUNCATED, False)


async def test_a_server_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    server, url = await raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x" * 9, hold=True)
    async with server:
        failure = await refusal(f"{url}/image", tmp_path / "image")
    assert (failure.reason, failure.permanent) == (Reason.SOURCE_UNAVAILABLE, False)
    assert "in time" in failure.message


async def test_too_large_as_announced_and_as_sent(serve: Serve, tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    url = await serve({"/announced": answer(body=bytes(LIMITS.max_size + 1)), "/endless": endless})
    for path in ("announced", "endless"):
        failure = await refusal(f"{url}/{path}", tmp_path / path)
        assert (failure.reason, failure.permanent) == (Reason.TOO_LARGE, True)
    assert (tmp_path / "endless").stat().st_size <= LIMITS.max_size


async def test_packed_bytes_are_refused(serve: Serve, tmp_path: Path) -> None:
    url = await serve({"/image": answer(body=b"x", headers={"Content-Encoding": "gzip"})})
    assert (await refusal(f"{url}/image", tmp_path / "image")).reason == Reason.SOURCE_REFUSED


def test_https_to_http_needs_a_checksum() -> None:
    class Answer:
        headers = {"Location": "http://mirror.example/image"}  # noqa: RUF012 - a stand-in's constant

    origin = URL("https://example.org/image")
    with pytest.raises(ImportFailure, match="forged"):
        fetching._next(origin, Answer(), checksummed=False)  # type: ignore[arg-type]  # only headers are read
    assert fetching._next(origin, Answer(), checksummed=True).scheme == "http"  # type: ignore[arg-type]  # as above


def test_what_may_be_secret_is_not_shown() -> None:
    assert redacted(URL("https://u:p@example.org/a?sig=s#f")) == "https://example.org/a?..."

"""Download of an image from a web server that is not trusted: where it leads, how much it sends, when it stops.

Names are resolved once per connection, all their addresses are judged, and the connection is made to the very addresses
that were judged, so a second, different answer of the DNS is never used. Redirects are followed here, each judged anew.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from operators.image.failure import ImportFailure, Reason, refused, transient
from operators.image.policy import AddressPolicy
from operators.image.sink import Received, Sink, too_large

MAX_REDIRECTS = 5

_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FetchLimits:
    """`max_size` in bytes; times in seconds: to connect, of silence, and in all."""

    max_size: int
    connect: float = 15
    stall: float = 60
    total: float = 12 * 3600


class _Forbidden(OSError):
    """An address that the policy refuses; an OSError, because that is what a connector may raise."""


class _JudgingResolver(AbstractResolver):
    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        found: list[ResolveResult] = []
        for found_family, _, proto, _, address in infos:
            ip = str(address[0])
            _judge(self._policy, host, ip)
            found.append(
                ResolveResult(
                    hostname=host, host=ip, port=port, family=found_family, proto=proto, flags=socket.AI_NUMERICHOST
                )
            )
        return found

    async def close(self) -> None:
        """Nothing is kept."""


def _judge(policy: AddressPolicy, host: str, ip: str) -> None:
    why = policy.objection(ip)
    if why is not None:
        raise _Forbidden(f"{host} is at {ip}: {why}" if host != ip else f"{ip}: {why}")


def redacted(url: URL) -> str:
    """The URL without what may be secret: user, password, query, fragment."""
    bare = url.with_user(None).with_fragment(None)
    return f"{bare.with_query(None)}?..." if bare.query_string else str(bare)


async def fetch(
    url: str,
    target: Path,
    policy: AddressPolicy,
    limits: FetchLimits,
    *,
    checksummed: bool,
    on_progress: Callable[[int, int | None], None],
) -> Received:
    """Writes the bytes of an http(s) URL to the new file `target` and returns their size and SHA-256.

    `checksummed`: the caller compares the checksum, so a redirect from https to http harms nothing.
    `on_progress(received, total)` is called per chunk. Raises `ImportFailure`; `target` may then be left in part.
    """
    current = _parse(url)
    async with _session(policy, limits) as session:
        for _ in range(MAX_REDIRECTS + 1):
            async with _get(session, current) as response:
                if response.status not in _REDIRECTS:
                    return await _receive(response, current, target, limits, on_progress)
                current = _next(current, response, checksummed)
    raise refused(
        Reason.BAD_REDIRECT,
        f"More than {MAX_REDIRECTS} redirects, the last one to {redacted(current)}. Use the URL that they end at.",
    )


def _parse(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError as error:
        raise refused(Reason.SOURCE_REFUSED, f"The URL cannot be read: {error}.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise refused(Reason.SOURCE_REFUSED, "The URL must begin with http:// or https:// and name a host.")
    return url


@asynccontextmanager
async def _session(policy: AddressPolicy, limits: FetchLimits) -> AsyncIterator[aiohttp.ClientSession]:
    def guarded_socket(info: tuple[Any, ...]) -> socket.socket:
        # The last gate before connect(): also for addresses that stand in the URL and need no resolver.
        family, kind, proto, _, address = info
        _judge(policy, str(address[0]), str(address[0]))
        return socket.socket(family=family, type=kind, proto=proto)

    connector = aiohttp.TCPConnector(
        resolver=_JudgingResolver(policy), use_dns_cache=False, force_close=True, socket_factory=guarded_socket
    )
    timeout = aiohttp.ClientTimeout(
        total=limits.total, connect=limits.connect, sock_connect=limits.connect, sock_read=limits.stall
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        trust_env=False,
        auto_decompress=False,
        read_bufsize=_CHUNK,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": "kumulus-image"},
    ) as session:
        yield session


@asynccontextmanager
async def _get(session: aiohttp.ClientSession, url: URL) -> AsyncIterator[aiohttp.ClientResponse]:
    """A GET whose errors are `ImportFailure`s, also those while the body is read."""
    where = redacted(url)
    try:
        async with session.get(url, allow_redirects=False) as response:
            yield response
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise _failure(where, error) from error


def _failure(where: str, error: Exception) -> ImportFailure:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _Forbidden):
            return refused(
                Reason.FORBIDDEN_ADDRESS,
                f"{where} leads to an address that imports must not reach: {cause}. Use a server outside of the"
                " cluster, upload the image (source.upload), or ask the administrator to allow the address.",
            )
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    if isinstance(error, aiohttp.InvalidURL):
        return refused(Reason.SOURCE_REFUSED, f"{where} cannot be used: {error}. Correct the URL.")
    if isinstance(error, aiohttp.ClientPayloadError):
        return transient(Reason.SOURCE_TRUNCATED, f"{where} ended before all bytes had come. Check the server's file.")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return transient(
            Reason.SOURCE_UNAVAILABLE,
            f"{where} has no TLS certificate that can be trusted: {error}. Give the server one that a public authority"
            " signed, or use http:// together with spec.sha256.",
        )
    if isinstance(error, TimeoutError):
        return transient(Reason.SOURCE_UNAVAILABLE, f"{where} did not answer in time. Check that the server works.")
    return transient(Reason.SOURCE_UNAVAILABLE, f"{where} cannot be read: {error}. Check the URL and the server.")


def _next(current: URL, response: aiohttp.ClientResponse, checksummed: bool) -> URL:
    location = response.headers.get("Location")
    if not location:
        raise refused(Reason.BAD_REDIRECT, f"{redacted(current)} redirects to nowhere. Use another URL.")
    try:
        target = current.join(URL(location))
    except ValueError as error:
        raise refused(
            Reason.BAD_REDIRECT, f"{redacted(current)} redirects to what is no URL. Use another URL."
        ) from error
    if target.scheme not in ("http", "https") or not target.host:
        raise refused(
            Reason.BAD_REDIRECT,
            f"{redacted(current)} redirects to {target.scheme or 'nothing'}, not to http or https. Use another URL.",
        )
    if current.scheme == "https" and target.scheme == "http" and not checksummed:
        raise refused(
            Reason.BAD_REDIRECT,
            f"{redacted(current)} redirects from https to http, where bytes can be forged. Set spec.sha256 to accept"
            " that.",
        )
    return target


async def _receive(
    response: aiohttp.ClientResponse,
    url: URL,
    target: Path,
    limits: FetchLimits,
    on_progress: Callable[[int, int | None], None],
) -> Received:
    _check_answer(response, url)
    expected = response.content_length
    if expected is not None and expected > limits.max_size:
        raise too_large(limits.max_size)
    async with Sink(target, limits.max_size) as sink:
        async for chunk in response.content.iter_chunked(_CHUNK):
            await sink.write(chunk)
            on_progress(sink.size, expected)
        if expected is not None and sink.size != expected:
            raise transient(
                Reason.SOURCE_TRUNCATED,
                f"{redacted(url)} sent {sink.size} of {expected} bytes. Check the server's file.",
            )
        return await sink.finish()


def _check_answer(response: aiohttp.ClientResponse, url: URL) -> None:
    status, where = response.status, redacted(url)
    if status == 200:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise refused(
                Reason.SOURCE_REFUSED, f"{where} sends its bytes packed though asked not to. Use another server."
            )
        return
    answer = f"{where} answered {status} {response.reason or ''}".rstrip()
    if status in (404, 410):
        raise refused(Reason.SOURCE_NOT_FOUND, f"{answer}: there is no such file. Correct the URL.")
    if status in (401, 403):
        raise refused(Reason.SOURCE_REFUSED, f"{answer}. Use a URL that can be read without a login.")
    if status in (408, 425, 429) or status >= 500:
        raise transient(Reason.SOURCE_UNAVAILABLE, f"{answer}. Check that the server works.")
    raise refused(Reason.SOURCE_REFUSED, f"{answer}, not 200. Correct the URL.")

"""Forward a TCP port of the machine's 127.0.0.1 to an address that only a network namespace reaches.

    python forward.py LISTEN_PORT NETNS_FILE HOST PORT

The listening socket belongs to the namespace where it was made, connections made after setns(2) to the other one; so
one process stands in both, and needs no interface between them. Standard library only: it is run as a file.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import sys

_CLONE_NEWNET = 0x40000000
_CHUNK = 65536


def enter_network(path: str) -> None:
    """Move this thread to the network namespace pinned at ``path`` (os.setns is Python 3.12's)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {path}")
    finally:
        os.close(descriptor)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # A reset by either side ends this direction; the other ends by itself when its own side closes.
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
            return
    writer.close()


async def serve(sock: socket.socket, host: str, port: int) -> None:
    """Accept on ``sock`` for ever and join each connection to one to ``host``:``port``."""

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError as error:
            print(f"{host}:{port}: {error}", file=sys.stderr, flush=True)
            writer.close()
            return
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            writer.close()
            far_writer.close()

    server = await asyncio.start_server(join, sock=sock)
    await server.serve_forever()


def main() -> None:
    listen_port, namespace, host, port = sys.argv[1:]
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", int(listen_port)))
    sock.listen(512)
    enter_network(namespace)
    asyncio.run(serve(sock, host, int(port)))


if __name__ == "__main__":
    main()

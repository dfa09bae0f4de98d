"""When each guest's first DHCP request appeared on its node: a packet socket in the node's `kumulus` namespace.

Run as a program it is that socket: `python -m bench.dhcp_watch` prints "<epoch seconds> <MAC>" per BOOTP request.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lab.hosts import enter
from tests.e2e.cloud import Cloud

ETH_P_ALL = 0x0003


@dataclass
class Requests:
    """`seen`: the first request's time by MAC."""

    seen: dict[str, float] = field(default_factory=dict)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def add(self, mac: str, at: float) -> None:
        with self._news:
            self.seen.setdefault(mac, at)
            self._news.notify_all()

    def wait_for(self, macs: set[str], seconds: float) -> None:
        """Returns once each of them was seen. Raises TimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: macs <= self.seen.keys(), seconds):
                raise TimeoutError(f"no DHCP request from {sorted(macs - self.seen.keys())} in {seconds} s")


@contextmanager
def first_requests(cloud: Cloud) -> Iterator[Requests]:
    """Watches all nodes meanwhile."""
    requests = Requests()
    watchers = []
    for node in cloud.nodes:
        inside = [*enter(cloud.layout, node), "nsenter", "--net=/run/netns/kumulus", "--"]
        watcher = subprocess.Popen(
            [*inside, sys.executable, "-m", "bench.dhcp_watch"], stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=_collect, args=(watcher, requests), daemon=True).start()
        watchers.append(watcher)
    try:
        yield requests
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait()


def _collect(watcher: subprocess.Popen[str], requests: Requests) -> None:
    assert watcher.stdout is not None
    for line in watcher.stdout:
        at, mac = line.split()
        requests.add(mac, float(at))


def is_bootp_request(frame: bytes) -> bool:
    """An Ethernet frame of IPv4 and UDP from port 68 to port 67 (RFC 2131)."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return False
    udp = 14 + (frame[14] & 0x0F) * 4
    return frame[udp : udp + 4] == b"\x00\x44\x00\x43"


def main() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as packets:
        while True:
            frame = packets.recv(2048)
            if is_bootp_request(frame):
                print(f"{time.time():.6f} {frame[6:12].hex(':')}", flush=True)


if __name__ == "__main__":
    main()

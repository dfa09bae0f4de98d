"""When each guest's first DHCP request appeared on its node: a packet socket in the node's `kumulus` namespace."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.hosts import enter
from tests.e2e.cloud import Cloud

CAPTURE = Path(__file__).parent / "bootp_capture.py"


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
        watcher = subprocess.Popen([*inside, sys.executable, str(CAPTURE)], stdout=subprocess.PIPE, text=True)
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

"""libvirt's event loop, on a thread of its own (https://libvirt.org/html/libvirt-libvirt-event.html).

The default implementation polls file descriptors and sleeps until the next timer; callbacks run on that thread and
hand over to
asyncio. One per process, registered before the first connection.
"""

from __future__ import annotations

import logging
import threading

import libvirt

log = logging.getLogger(__name__)

_started = threading.Lock()
_running = False


def start_event_loop() -> None:
    """Register and run libvirt's event loop; later calls do nothing."""
    global _running
    with _started:
        if _running:
            return
        # libvirt's Python binding prints every error to stderr unless it has a handler; callers get exceptions anyway.
        libvirt.registerErrorHandler(_ignore, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run, name="libvirt-events", daemon=True).start()
        _running = True


def _ignore(_context: object, _error: object) -> None:
    """Errors are told by exceptions."""


def _run() -> None:
    while True:
        if libvirt.virEventRunDefaultImpl() < 0:
            log.error("libvirt's event loop failed once")

"""Waiting for an API server: its /readyz over TLS, checked against the lab's authority."""

import http.client
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from lab.errors import LabError

_INTERVAL = 0.05


def is_ready(host: str, port: int, ca_cert: Path) -> bool:
    """Whether https://host:port/readyz says ok."""
    context = ssl.create_default_context(cafile=str(ca_cert))
    connection = http.client.HTTPSConnection(host, port, timeout=2, context=context)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_for(condition: Callable[[], bool], timeout: float, failure: str) -> None:
    """Ask until ``condition()`` holds: for what no event tells. Raises LabError(``failure``) after ``timeout`` s."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{failure} (waited {timeout:.0f} s)")
        time.sleep(_INTERVAL)

"""How the agent shows itself to the image service."""

from __future__ import annotations

import ssl
from os import PathLike


def client_context(
    ca: str | PathLike[str] | None, certificate: str | PathLike[str] | None, key: str | PathLike[str] | None
) -> ssl.SSLContext:
    """Verifies the service against `ca` (None: the system's CAs) and offers the client certificate, PEM files,
    if there is one.
    """
    context = ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context

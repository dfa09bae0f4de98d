"""What the operators are told by their environment; `KUMULUS_<NAME>` each, all with defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path


class SettingsError(Exception):
    """A variable of the environment has a value that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The operators' configuration."""

    system_namespace: str = "kumulus-system"
    lease_duration: int = 15
    """Seconds after which another replica takes over from a leader that has not renewed its Lease."""
    slices_namespace: str = "kumulus-slices"
    public_namespace: str = "kumulus-public"
    underlay_mtu: int = 1500
    """MTU of the network between nodes, bytes; VXLAN networks get 50 less (RFC 7348 over IPv4)."""
    vni_min: int = 10_000
    vni_max: int = 99_999
    image_store: Path = Path("/var/lib/kumulus/images")
    image_service_url: str = "https://image.kumulus-system.svc:8774"
    image_service_listen: str = "0.0.0.0:8774"
    image_service_cert: Path = Path("/etc/kumulus/image-service/tls.crt")
    image_service_key: Path = Path("/etc/kumulus/image-service/tls.key")
    client_ca: Path = Path("/etc/kumulus/client-ca.crt")
    """Who signs the agents' client certificates."""
    image_max_virtual_size: int = 1 << 40
    """Bytes; an image that says it is larger is refused."""
    image_max_size: int = 100 << 30
    """Bytes; the most that is received of an image, and the most that one may take in the store."""
    image_imports: int = 2
    """Imports at once."""
    image_blob_grace: int = 600
    """Seconds that stored bytes are kept after the last object that referred to them is gone."""
    allowed_import_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    """Addresses that image imports may reach although they are forbidden, also those that always are: a mirror inside
    the cluster, say."""
    forbidden_cidrs: tuple[IPv4Network | IPv6Network, ...] = (ip_network("10.96.0.0/12"),)
    """The cluster's own ranges (Services, pods, nodes), which image imports must not reach, beside loopback, link-local
    and the like, which are always refused."""


def _cidrs(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


_PARSERS = {"int": int, "str": str, "Path": Path}


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from `KUMULUS_*` variables. Raises `SettingsError`."""
    values: dict[str, object] = {}
    for name, annotation in Settings.__annotations__.items():
        variable = f"KUMULUS_{name.upper()}"
        if variable not in environment:
            continue
        parse = _PARSERS.get(annotation, _cidrs)
        try:
            values[name] = parse(environment[variable])
        except ValueError as error:
            raise SettingsError(f"{variable}={environment[variable]!r} cannot be used: {error}") from error
    return Settings(**values)  # type: ignore[arg-type]  # each value was parsed by its field's annotation

"""`kumulus-hostagent`: runs the guests of one node."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import resource
import shlex
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from crds.quantity import parse_quantity
from hostagent.agent import Agent
from hostagent.compute.libvirt_connection import LibvirtConnection
from hostagent.compute.libvirt_hypervisor import LibvirtHypervisor
from hostagent.image.cache import ImageCache
from hostagent.image.tls import client_context
from hostagent.layout import Layout, StateDirectoryInUse
from hostagent.network.dataplane import DataPlane, DataPlaneConfig
from hostagent.settings import Settings, SettingsError, VirtType, parse_physical_networks
from runtime.client import Client
from runtime.cluster import Cluster

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8
_DESCRIPTORS = 8192


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """Every option has a variable: `--node-name` is KUMULUS_NODE_NAME, and so on."""

    def default(name: str, otherwise: str | None = None) -> str | None:
        return environment.get(f"KUMULUS_{name}", otherwise)

    options = argparse.ArgumentParser(
        prog="kumulus-hostagent", description=__doc__, epilog="Each option may be given as KUMULUS_<OPTION> instead."
    )
    options.add_argument("--node-name", default=default("NODE_NAME", socket.gethostname()))
    options.add_argument("--kubeconfig", type=Path, default=environment.get("KUBECONFIG"))
    options.add_argument("--state-dir", type=Path, default=default("STATE_DIR", "/var/lib/kumulus"))
    options.add_argument("--run-dir", type=Path, default=default("RUN_DIR", "/run/kumulus"))
    options.add_argument("--libvirt-uri", default=default("LIBVIRT_URI", "qemu:///system"))
    options.add_argument(
        "--virt-type",
        choices=[each.value for each in VirtType],
        default=default("VIRT_TYPE", "kvm"),
        help="qemu: emulation, slow",
    )
    options.add_argument(
        "--underlay-ip", default=default("UNDERLAY_IP"), help="address of this node that VXLAN packets go to"
    )
    options.add_argument(
        "--physical-networks",
        default=default("PHYSICAL_NETWORKS", ""),
        help="NAME=NIC[,NAME=NIC...], for provider networks",
    )
    options.add_argument("--slices-namespace", default=default("SLICES_NAMESPACE", "kumulus-slices"))
    options.add_argument("--image-ca", type=Path, default=default("IMAGE_CA"), help="default: the kubeconfig's CA")
    options.add_argument("--client-cert", type=Path, default=default("CLIENT_CERT"), help="default: the kubeconfig's")
    options.add_argument("--client-key", type=Path, default=default("CLIENT_KEY"), help="default: the kubeconfig's")
    options.add_argument(
        "--reserved-memory",
        default=default("RESERVED_MEMORY", "1Gi"),
        help="memory that guests do not get, for example 2Gi",
    )
    options.add_argument("--reserved-vcpus", type=int, default=default("RESERVED_VCPUS", "0"))
    options.add_argument(
        "--reserved-disk",
        default=default("RESERVED_DISK", "0"),
        help="of the state directory's file system what others and base images need, for example 20Gi",
    )
    options.add_argument("--shutdown-grace", type=float, default=default("SHUTDOWN_GRACE", "30"), help="seconds")
    options.add_argument("--console-log-max", default=default("CONSOLE_LOG_MAX", "1Mi"))
    options.add_argument(
        "--launcher",
        default=default("LAUNCHER", ""),
        help="put before programs that must outlive this process's cgroup, for example 'systemd-run --scope"
        " --quiet --'",
    )
    options.add_argument(
        "--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"], default=default("LOG_LEVEL", "INFO")
    )
    return options


def settings_from(words: argparse.Namespace) -> Settings:
    """Raises SettingsError."""
    if not words.underlay_ip:
        raise SettingsError("no underlay address: give --underlay-ip, the address of this node that other nodes reach")
    try:
        reserved_memory, reserved_disk = parse_quantity(words.reserved_memory), parse_quantity(words.reserved_disk)
        console_log_max = parse_quantity(words.console_log_max)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return Settings(
        node_name=words.node_name,
        underlay_ip=words.underlay_ip,
        kubeconfig=Path(words.kubeconfig) if words.kubeconfig else None,
        state_dir=words.state_dir,
        run_dir=words.run_dir,
        libvirt_uri=words.libvirt_uri,
        virt_type=VirtType(words.virt_type),
        physical_networks=parse_physical_networks(words.physical_networks),
        slices_namespace=words.slices_namespace,
        image_ca=words.image_ca,
        client_cert=words.client_cert,
        client_key=words.client_key,
        reserved_memory=reserved_memory,
        reserved_vcpus=words.reserved_vcpus,
        reserved_disk=reserved_disk,
        shutdown_grace=words.shutdown_grace,
        console_log_max=console_log_max,
        launcher=tuple(shlex.split(words.launcher)),
    )


async def run(settings: Settings) -> None:
    """Runs the agent until it is stopped."""
    layout = Layout(settings.state_dir)
    layout.prepare()
    client = await Client.connect(settings.kubeconfig)
    dataplane = DataPlane(
        DataPlaneConfig(
            run_dir=settings.run_dir / "network", state_dir=settings.state_dir / "network", launcher=settings.launcher
        )
    )
    try:
        images = ImageCache(layout, await _image_tls(settings, client))
        hypervisor = LibvirtHypervisor(LibvirtConnection(settings.libvirt_uri))
        await Agent(settings, Cluster(client), hypervisor, dataplane, images).run()
    finally:
        await dataplane.close()
        await client.close()


async def _image_tls(settings: Settings, client: Client) -> ssl.SSLContext:
    connection = await client.connection()()
    return client_context(
        settings.image_ca or connection.ca_path,
        settings.client_cert or connection.certificate_path,
        settings.client_key or connection.private_key_path,
    )


def _keep_memory_small() -> None:
    """glibc's mallopt(3): two arenas instead of one per thread, and what is free at the top goes back to the system."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_ARENA_MAX, 2)
    libc.mallopt(_M_TRIM_THRESHOLD, 64 << 10)


def _allow_many_descriptors() -> None:
    """getrlimit(2): each connection of a guest to the metadata service takes one, and none may be lacking elsewhere."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    _keep_memory_small()
    _allow_many_descriptors()
    options = parser(os.environ)
    words = options.parse_args(argv)
    logging.basicConfig(
        level=words.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        settings = settings_from(words)
    except SettingsError as error:
        options.error(str(error))
    try:
        with Layout(settings.state_dir).held():
            asyncio.run(run(settings))
    except StateDirectoryInUse as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`kumulus-operator`: the operators of all domains in one process, or of some in each of several."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from operators import compute, identity, image, network, planned, storage
from operators.domain import Context, Domain
from operators.settings import Settings, SettingsError, from_environment
from runtime.client import Client
from runtime.cluster import Cluster
from runtime.events import Recorder
from runtime.leader import Lease
from runtime.process import Process

log = logging.getLogger(__name__)

BUILDERS: dict[str, Callable[[Context], Domain]] = {
    "identity": identity.build,
    "image": image.build,
    "network": network.build,
    "storage": storage.build,
    "compute": compute.build,
    "planned": planned.build,
}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kumulus-operator", description=__doc__)
    parser.add_argument(
        "--domains",
        default=",".join(BUILDERS),
        help="which operators to run, separated by commas (default: all). Each set has one active replica of its own.",
    )
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        default=os.environ.get("KUBECONFIG"),
        help="default: $KUBECONFIG, else the pod's service account",
    )
    parser.add_argument(
        "--identity",
        default=os.environ.get("POD_NAME") or socket.gethostname(),
        help="this replica's name in the leader Lease; it must differ between replicas and stay the same over restarts",
    )
    parser.add_argument(
        "--liveness", metavar="URL", help="serve the liveness probe here, for example http://0.0.0.0:8080/healthz"
    )
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    arguments = parser.parse_args(argv)
    arguments.domains = [name for name in arguments.domains.split(",") if name]
    unknown = sorted(set(arguments.domains) - set(BUILDERS))
    if unknown or not arguments.domains:
        parser.error(f"--domains: {', '.join(unknown) or 'none given'}; known are {', '.join(BUILDERS)}")
    return arguments


def assemble(
    client: Client, settings: Settings, domains: Sequence[str], identity: str, liveness: str | None = None
) -> Process:
    """The process of these domains, not running yet. Replicas of the same domains share a Lease; one of them leads."""
    cluster = Cluster(client)
    context = Context(cluster, Recorder(client, "kumulus-operator", identity), settings)
    built = [BUILDERS[name](context) for name in domains]
    complete = set(domains) == set(BUILDERS)
    lease_name = "kumulus-operator" if complete else "kumulus-operator-" + "-".join(sorted(domains))
    return Process(
        cluster,
        controllers=[controller for domain in built for controller in domain.controllers],
        tasks=[task for domain in built for task in domain.tasks],
        always=[task for domain in built for task in domain.always],
        lease=Lease(
            client,
            settings.system_namespace,
            lease_name,
            identity,
            duration=settings.lease_duration,
            renew_every=settings.lease_duration / 7.5,
        ),
        liveness=liveness,
    )


async def run(arguments: argparse.Namespace) -> None:
    """Runs the chosen domains until stopped, or until leadership is lost."""
    settings = from_environment()
    kubeconfig = Path(arguments.kubeconfig) if arguments.kubeconfig else None
    client = await Client.connect(kubeconfig)
    try:
        await assemble(client, settings, arguments.domains, arguments.identity, arguments.liveness).run()
    finally:
        await client.close()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        level=arguments.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        asyncio.run(run(arguments))
    except SettingsError as error:
        print(f"kumulus-operator: {error}", file=sys.stderr)
        return 2
    except ExceptionGroup as failures:
        for failure in failures.exceptions:
            log.error("ending: %r", failure, exc_info=failure)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One real apiserver, with the chart installed by real helm, for all tests of a session."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.api import ApiServer
from lab.binaries import ensure
from runtime.client import Client

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ApiServer]:
    helm = ensure(["helm", "kubectl"])
    with ApiServer(with_controller_manager=True) as api:
        subprocess.run(
            [
                helm["helm"],
                "install",
                "kumulus",
                ROOT / "charts/kumulus",
                "--namespace=kumulus-system",
                "--create-namespace",
                f"--kubeconfig={api.kubeconfig}",
            ],
            check=True,
        )
        subprocess.run(
            [
                helm["kubectl"],
                f"--kubeconfig={api.kubeconfig}",
                "wait",
                "crd",
                "--selector=app.kubernetes.io/part-of=kumulus",
                "--for=condition=Established",
                "--timeout=60s",
            ],
            check=True,
        )
        yield api


@pytest.fixture
async def client(apiserver: ApiServer) -> AsyncIterator[Client]:
    """The administrator."""
    connected = await Client.connect(apiserver.kubeconfig)
    yield connected
    await connected.close()


@pytest.fixture
async def operator_client(apiserver: ApiServer) -> AsyncIterator[Client]:
    """What the operators run as: their rights are the chart's, so a missing one shows in tests."""
    connected = await Client.connect(apiserver.user_kubeconfig("kumulus-operator", ["kumulus:operators"]))
    yield connected
    await connected.close()

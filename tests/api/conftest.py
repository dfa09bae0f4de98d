"""One real apiserver, with the chart installed by real helm, for all tests of a session."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.api import ApiServer
from lab.binaries import ensure
from lab.probe import wait_for
from runtime.client import Client

ROOT = Path(__file__).parents[2]


def _is_established(kubectl: Path, kubeconfig: Path) -> bool:
    arguments = ["wait", "crd", "--selector=app.kubernetes.io/part-of=kumulus", "--for=condition=Established"]
    waited = subprocess.run([kubectl, f"--kubeconfig={kubeconfig}", *arguments, "--timeout=60s"], capture_output=True)
    return waited.returncode == 0


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
        # Again and again: kubectl fails when a definition has no conditions at all yet.
        wait_for(lambda: _is_established(helm["kubectl"], api.kubeconfig), 60, "the definitions are not established")
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

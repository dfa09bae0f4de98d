"""One lab of two nodes with Kumulus in it, for all end-to-end tests of a session; each test has tenants of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import apt, cluster, world
from lab.guests import build
from lab.install import install
from lab.layout import Layout, node_names
from tests.e2e.cloud import QUICKSTART, Cloud, wait_until

NODES = 2


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    layout = Layout("e2e")
    apt.ensure([apt.PACKAGES, apt.GUEST_PACKAGES])
    images = [build("tiny"), build("debian")]
    cluster.down(layout)  # what a run that was killed has left
    try:
        cluster.up(layout, NODES)
        install(layout)
        world.serve(layout, images)
        key = world.key_pair(tmp_path_factory.mktemp("ssh") / "id_ed25519")
        cloud = Cloud(layout, tuple(node_names(NODES)), key)
        for node in cloud.nodes:
            cloud.until("hypervisor", node, None, lambda hypervisor: hypervisor is not None, 60)
            cloud.until_ready("hypervisor", node, None, 60)
        infrastructure = list(yaml.safe_load_all((QUICKSTART / "00-infrastructure.yaml").read_text()))
        cloud.apply(*infrastructure)
        cloud.until_ready("network", "public", "infra", 60)
        yield cloud
    finally:
        cluster.down(layout)


@pytest.fixture
def tenant(cloud: Cloud, request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Names for tenants of the test's own; they are deleted after it, and must then have left nothing."""
    names: list[str] = []

    def name() -> str:
        # Unique per run of the test, so that a test repeated never meets its predecessor's deletion.
        names.append(f"t{len(names)}-{time.time_ns() // 1_000_000 % 10**9}")
        return names[-1]

    yield name
    for made in names:
        cloud.delete("tenant", made, wait=False)
    for made in names:
        cloud.until("tenant", made, None, lambda obj: obj is None, 120)
    if not _failed(request):
        assert_nothing_left(cloud, names)


def assert_nothing_left(cloud: Cloud, tenants: list[str]) -> None:
    """No trace of the tenants in the API, and none of any guest on nodes that run none."""
    wait_until(lambda: not cloud.api_leftovers(tenants), 60, lambda: f"left in the API: {cloud.api_leftovers(tenants)}")
    running = {instance["status"].get("nodeName") for instance in cloud.list("instances")}
    for node in set(cloud.nodes) - running:

        def clean(node: str = node) -> bool:
            return not any(cloud.node_state(node).values())

        wait_until(clean, 60, lambda node=node: f"left on {node}: {cloud.node_state(node)}")  # type: ignore[misc]  # mypy does not infer a default's type


def _failed(request: pytest.FixtureRequest) -> bool:
    report = getattr(request.node, "report_call", None)
    return report is not None and report.failed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call":
        item.report_call = report  # type: ignore[attr-defined]  # read by the fixture above
    if report.failed and "cloud" in getattr(item, "funcargs", {}):
        # A broken lab must not hide the failure that broke it.
        with contextlib.suppress(Exception):
            report.sections.append(("diagnosis", item.funcargs["cloud"].diagnosis()))  # type: ignore[attr-defined]  # pytest.Function has it
    return report


@pytest.fixture(scope="session")
def quickstart() -> Path:
    return QUICKSTART

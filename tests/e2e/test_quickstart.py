"""README's promise: examples/quickstart/ as it is, two Debian guests on two nodes, ssh and ping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.demo import address_on, with_key
from tests.e2e.cloud import Cloud
from tests.e2e.conftest import assert_nothing_left


@pytest.fixture
def acme(cloud: Cloud, quickstart: Path) -> Iterator[None]:
    for manifest in sorted(quickstart.glob("*.yaml")):
        text = with_key(manifest.read_text(), cloud.key.with_suffix(".pub"))
        cloud.kubectl("apply", "-f", "-", stdin=text)
    yield
    cloud.delete("tenant", "acme", wait=False)
    cloud.until("tenant", "acme", None, lambda obj: obj is None, 150)
    assert_nothing_left(cloud, ["acme"])


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("acme")
def test_two_debian_guests_on_two_nodes(cloud: Cloud) -> None:
    image = cloud.until_ready("image", "debian-12", "acme", 180)
    assert image["status"]["phase"] == "Active"
    one, two = (cloud.until_ready("instance", name, "acme", 180) for name in ("web-1", "web-2"))
    assert {one["status"]["nodeName"], two["status"]["nodeName"]} == set(cloud.nodes)
    for kind, name in (
        ("tenant", "acme"),
        ("keypair", "alice"),
        ("network", "internal"),
        ("subnet", "internal-v4"),
        ("securitygroup", "web"),
        ("port", "web-1-eth0"),
        ("flavor", "m1.small"),
        ("hypervisor", "node1"),
    ):
        cloud.until_ready(kind, name, None if kind in ("tenant", "flavor", "hypervisor") else "acme", 30)
    public = address_on(one, "public")

    def debian(command: str, *, check: bool = True) -> str:
        argv = [*cloud.ssh_argv(public)[:-1], f"debian@{public}", command]
        answer = cloud.run("world", *argv, check=False, seconds=120)
        if check:
            assert answer.returncode == 0, f"{command}: {answer.stdout}{answer.stderr}"
        return answer.stdout if answer.returncode == 0 else ""

    cloud.until_console(one, "login:", 400)
    status = debian("cloud-init status --wait --long")
    assert "DataSourceOpenStack" in status, "cloud-init found the metadata service by itself"
    assert debian("hostname").strip() == "web-1"
    assert "guest of Kumulus" in debian("cat /etc/motd"), "user-data was applied"
    assert cloud.public_key.split()[1] in debian("cat ~/.ssh/authorized_keys")
    cloud.until_console(two, "login:", 400)
    assert " 0% packet loss" in debian(f"ping -c 5 {address_on(two, 'internal')}")
    described = cloud.kubectl("describe", "instance", "web-1", "-n", "acme").stdout
    assert "Scheduled" in described
    assert "Started" in described

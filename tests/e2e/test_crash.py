"""kill -9 at randomly chosen points of boots and deletes: the same result, no guest restarts, nothing is left."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from lab.errors import LabError
from tests.e2e import objects as o
from tests.e2e.cloud import Cloud

ROUNDS = 6
SEED = 20261121
WINDOW = 4.0
"""Seconds: a boot or a delete of a tiny guest is over within it."""


def victims(cloud: Cloud) -> list[str]:
    return [
        *(f"{node}/{daemon}" for node in cloud.nodes for daemon in ("hostagent", "libvirtd")),
        "operator-0",
        "operator-1",
    ]


def strike(cloud: Cloud, dice: random.Random) -> list[str]:
    """Kills one to three components at random moments within the window; returns what and when, for the message."""
    done = []
    begun = time.monotonic()
    moments = sorted(dice.uniform(0, WINDOW) for _ in range(dice.randint(1, 3)))
    for moment in moments:
        victim = dice.choice(victims(cloud))
        time.sleep(max(0.0, begun + moment - time.monotonic()))  # the random moment is the point, no event to await
        try:
            cloud.kill(victim)
        except LabError:
            continue  # it was killed a moment ago and runsv has not started it again
        done.append(f"{victim} at {moment:.2f} s")
    return done


def guest_pids(cloud: Cloud) -> dict[str, str]:
    """QEMU's process by instance UID, on all nodes."""
    found: dict[str, str] = {}
    for node in cloud.nodes:
        listed = cloud.run(
            node, "sh", "-c", "for f in /run/libvirt/qemu/*.pid; do echo $f $(cat $f); done", check=False
        )
        for line in listed.stdout.splitlines():
            path, _, pid = line.partition(" ")
            # driver.pid is libvirtd's own.
            if pid.strip() and not path.endswith("/driver.pid"):
                found[path.rsplit("/", 1)[-1]] = pid.strip()
    return found


@pytest.mark.timeout(900)
def test_killed_at_random_points_the_result_is_the_same(cloud: Cloud, tenant: Callable[[], str]) -> None:
    bystander = tenant()
    cloud.apply(*o.world_of(bystander, cloud.public_key), o.instance(bystander, "one"), o.instance(bystander, "two"))
    settled = [cloud.until_ready("instance", i, bystander) for i in ("one", "two")]
    before = guest_pids(cloud)
    assert len(before) >= 2
    name = tenant()
    cloud.apply(*o.world_of(name, cloud.public_key))
    cloud.until_ready("image", "tiny", name)
    dice = random.Random(SEED)
    for number in range(ROUNDS):
        instances = [f"r{number}a", f"r{number}b"]
        cloud.apply(*(o.instance(name, i) for i in instances))
        struck = strike(cloud, dice)
        try:
            ready = [cloud.until_ready("instance", i, name, 150) for i in instances]
            for instance in ready:
                console = cloud.until_console(instance, "KUMULUS-GUEST dhcp", 90)
                assert console.count("KUMULUS-GUEST boot") == 1, "the guest was started more than once"
            for i in instances:
                cloud.delete("instance", i, name, wait=False)
            struck += strike(cloud, dice)
            for i in instances:
                cloud.until("instance", i, name, lambda obj: obj is None, 150)
        except AssertionError as error:
            raise AssertionError(f"round {number}, killed: {', '.join(struck)}\n{error}") from error
    after = guest_pids(cloud)
    assert {uid: after.get(uid) for uid in before} == before, "a guest that nobody touched was restarted"
    for instance in settled:
        assert cloud.console(instance).count("KUMULUS-GUEST boot") == 1
    left = cloud.api_leftovers([name])
    # What stays is what the test applied and has not deleted, with its own addresses.
    assert not left.get("work objects")
    assert not left.get("reservations")
    assert not [x for x in left.get(name, []) if x.startswith("Port/")]

"""`make bench-boot`: from apply to Active and to the guest's first DHCP request, and what Kumulus itself adds.

Tiny guests boot one after another, then all at once. The overhead of one boot is the time from the apply to the
Instance's Ready=True as its watcher sees it, less the time that QEMU's own start took (from `DomainDefined` to
`Started` in the work object's steps). The guest's boot is in none of it: Ready means that it runs, not that it has
booted.

Ends with one line of JSON; seconds, MiB, per cent of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.dhcp_watch import first_requests
from crds.compute import Instance
from crds.node import NodeInstance
from lab import cluster, services, world
from lab.guests import build
from lab.install import install
from lab.layout import Layout, node_names
from runtime.client import Client
from runtime.kind import kind_of
from tests.e2e import objects as o
from tests.e2e.cloud import Cloud

TENANT = "bench"
INSTANCE = kind_of(Instance)
NODE_INSTANCE = kind_of(NodeInstance)
IDLE_SECONDS = 30
NOT_COUNTED = {"events", "leases"}

Object = dict[str, Any]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def prepared(name: str) -> Iterator[Cloud]:
    """A lab of two nodes with Kumulus and a tenant whose image is in the store."""
    layout = Layout(name)
    cluster.down(layout)
    try:
        cluster.up(layout, 2)
        install(layout)
        world.serve(layout, [build("tiny")])
        cloud = Cloud(layout, tuple(node_names(2)), world.key_pair(layout.data / "bench" / "id_ed25519"))
        for node in cloud.nodes:
            cloud.until("hypervisor", node, None, lambda hypervisor: hypervisor is not None, 60)
            cloud.until_ready("hypervisor", node)
            # All guests of a run stand at once, more than the default ratio allows on two small nodes.
            cloud.kubectl("patch", "hypervisor", node, "--type=merge", '--patch={"spec":{"cpuAllocationRatio":32}}')
        flavor = {
            "apiVersion": "compute.kumulus.dev/v1alpha1",
            "kind": "Flavor",
            "metadata": {"name": "m1.tiny"},
            "spec": {"vcpus": 1, "memory": "128Mi", "rootDisk": "1Gi"},
        }
        cloud.apply(flavor, *o.world_of(TENANT, cloud.public_key))
        for kind, what in (("image", "tiny"), ("subnet", "internal-v4"), ("securitygroup", "open")):
            cloud.until_ready(kind, what, TENANT)
        yield cloud
    finally:
        cluster.down(layout)


async def boot(client: Client, names: Sequence[str]) -> dict[str, Object]:
    """Applies the instances at once; for each: when it was applied and when its watcher saw Ready (epoch seconds)."""
    seen: dict[str, Object] = {name: {} for name in names}
    watcher = asyncio.create_task(_watch_ready(client, seen))
    for name in names:
        seen[name]["applied"] = time.time()
        await client.create(INSTANCE, o.instance(TENANT, name))
    async with asyncio.timeout(300):
        await watcher
    return seen


async def _watch_ready(client: Client, seen: dict[str, Object]) -> None:
    """A watch, as a user's `kubectl wait` has it, so that looking costs the apiserver nothing."""
    _, version = await client.list(INSTANCE, TENANT)
    query = {"watch": "true", "resourceVersion": str(version)}
    async for event in client.watch(INSTANCE, TENANT, query):
        obj = event["object"]
        name = obj["metadata"]["name"]
        conditions = obj.get("status", {}).get("conditions", [])
        if name in seen and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
            seen[name].setdefault("ready", time.time())
            seen[name]["uid"] = obj["metadata"]["uid"]
            seen[name]["mac"] = obj["status"]["addresses"][0]["mac"]
        if all("ready" in entry for entry in seen.values()):
            return


async def steps_of(client: Client) -> dict[str, dict[str, float]]:
    """The steps of each work object, by UID, as epoch seconds."""
    listed, _ = await client.list(NODE_INSTANCE)
    return {
        work["metadata"]["name"]: {
            step["name"]: datetime.fromisoformat(step["at"]).timestamp() for step in work["status"].get("steps", [])
        }
        for work in listed
    }


def writes(cloud: Cloud) -> int:
    """Writes that the apiserver has counted so far, Events and Leases apart."""
    text = cloud.kubectl("get", "--raw", "/metrics").stdout
    total = 0.0
    for line in text.splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        if labels["verb"] in ("POST", "PUT", "PATCH", "APPLY", "DELETE") and labels["resource"] not in NOT_COUNTED:
            total += float(line.rsplit(" ", 1)[1])
    return round(total)


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]  # every process has the line


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def breakdown(entries: Sequence[dict[str, float]]) -> None:
    """Prints the median of each step's end, counted from the apply."""
    names = ["Accepted", "ImageReady", "DiskReady", "DomainDefined", "Started", "NetworkReady", "Resumed"]
    for name in names:
        values = [entry["steps"][name] - entry["applied"] for entry in entries if name in entry["steps"]]  # type: ignore[index, operator]  # steps is a dict
        if values:
            say(f"    {name:<14} {statistics.median(values):6.3f} s after apply (median)")


async def measure(cloud: Cloud, count: int) -> Object:
    client = await Client.connect(cloud.layout.kubeconfig)
    try:
        agents = [services.pid(cloud.layout, f"{node}/hostagent") for node in cloud.nodes]
        operators = [services.pid(cloud.layout, f"operator-{index}") for index in (0, 1)]
        with first_requests(cloud) as requests:
            say("warm-up: one boot, so that the image is cached on both nodes")
            await boot(client, ["warm-a", "warm-b"])
            say(f"{count} boots, one after another")
            before = writes(cloud)
            sequential: dict[str, Object] = {}
            for index in range(count):
                one = await boot(client, [f"s{index}"])
                # Its kernel would compete with the next boot for the cores.
                await asyncio.to_thread(requests.wait_for, {entry["mac"] for entry in one.values()}, 60)
                sequential |= one
            per_instance = (writes(cloud) - before) / count
            steps = await steps_of(client)
            for entry in sequential.values():
                entry["steps"] = steps[entry["uid"]]
            cloud.delete("instances", "--all", TENANT)
            say(f"{count} boots at once")
            begun = time.time()
            together = await boot(client, [f"p{index}" for index in range(count)])
            all_ready = max(entry["ready"] for entry in together.values()) - begun
            rss = {pid: rss_mb(pid) for pid in (*agents, *operators) if pid}
            await asyncio.to_thread(requests.wait_for, {entry["mac"] for entry in together.values()}, 240)
            cloud.delete("instances", "--all", TENANT)
            cpu = {pid: cpu_seconds(pid) for pid in agents if pid}
            say(f"idle for {IDLE_SECONDS} s")
            await asyncio.sleep(IDLE_SECONDS)  # what is measured is the passing of time
            idle = max((cpu_seconds(pid) - was) / IDLE_SECONDS * 100 for pid, was in cpu.items())
            first = requests.seen
    finally:
        await client.close()
    entries = list(sequential.values())
    qemu = [e["steps"]["Started"] - e["steps"]["DomainDefined"] for e in entries]
    overhead = [e["ready"] - e["applied"] - q for e, q in zip(entries, qemu, strict=True)]
    breakdown(entries)
    return {
        "overhead_p50_s": round(statistics.median(overhead), 3),
        "overhead_p95_s": round(percentile(overhead, 0.95), 3),
        "apply_to_active_p50_s": round(statistics.median(e["ready"] - e["applied"] for e in entries), 3),
        "qemu_start_p50_s": round(statistics.median(qemu), 3),
        "apply_to_dhcp_p50_s": round(statistics.median(first[e["mac"]] - e["applied"] for e in entries), 3),
        "at_once_all_active_s": round(all_ready, 3),
        "at_once_dhcp_p50_s": round(statistics.median(first[e["mac"]] - e["applied"] for e in together.values()), 3),
        "api_writes_per_instance": round(per_instance, 2),
        "agent_rss_mb": round(max(rss[pid] for pid in agents if pid), 1),
        "operator_rss_mb": round(max(rss[pid] for pid in operators if pid), 1),
        "agent_idle_cpu_percent": round(idle, 2),
        "instances": count,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=20)
    arguments = parser.parse_args()
    with prepared("bench") as cloud:
        figures = asyncio.run(measure(cloud, arguments.instances))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

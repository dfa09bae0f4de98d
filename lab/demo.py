"""`kumulus-lab demo`: from nothing to two guests that answer, through what a user would type."""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import apt, binaries, cluster, world
from lab.errors import LabError
from lab.guests import build
from lab.install import install
from lab.layout import Layout
from lab.progress import say, step

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
TENANT = "acme"
INSTANCES = ("web-1", "web-2")
PUBLIC_NETWORK = "public"

Object = dict[str, Any]


def demo(layout: Layout) -> None:
    """Bring up the lab, install Kumulus, apply examples/quickstart/ and show that it works. Leaves all of it up."""
    begun = time.monotonic()
    cluster.require_root()
    apt.ensure([apt.PACKAGES, apt.GUEST_PACKAGES])
    cluster.up(layout)
    with step("guest image: Debian 12 with cloud-init (built once, then cached)"):
        image = build("debian")
    install(layout)
    with step("world: serve the image by http"):
        world.serve(layout, [image])
        key = world.key_pair(layout.data / "demo" / "id_ed25519")
    with step("kubectl apply -f examples/quickstart/"):
        for manifest in sorted(QUICKSTART.glob("*.yaml")):
            _kubectl(layout, "apply", "-f", "-", stdin=with_key(manifest.read_text(), key.with_suffix(".pub")))
    _follow(layout)
    instances = {name: _get(layout, name) for name in INSTANCES}
    public = {name: address_on(instance, PUBLIC_NETWORK) for name, instance in instances.items()}
    inside = {name: address_on(instance, "internal") for name, instance in instances.items()}
    with step("cloud-init is done and sshd answers in both guests"):
        for name in INSTANCES:
            _until_login(layout, key, public[name])
    say("")
    for kinds in ("hypervisors,flavors", "tenants", "images,networks,subnets,ports,instances"):
        say(_kubectl(layout, "get", kinds, "-A").rstrip() + "\n")
    first, second = INSTANCES
    _show(layout, key, public[first], "hostname; cat /etc/motd; uname -sr")
    _show(
        layout, key, public[first], f"ping -c 3 {inside[second]}   # {second}, on the other node, by the tenant network"
    )
    say(f"\nDone in {time.monotonic() - begun:.0f} s. It stays up. Look around:\n")
    ssh = shlex.join(["ssh", "-o", "StrictHostKeyChecking=no", "-i", str(key), f"debian@{public[first]}"])
    for command in (
        "kubectl get inst -A",
        f"kubectl describe inst {first} -n {TENANT}",
        "status",
        f"exec world -- {ssh}",
    ):
        say(f"  .venv/bin/kumulus-lab {command}")
    say("\n`make down` removes everything.")


def with_key(manifest: str, public_key: Path) -> str:
    """The manifest with the example's public key replaced by one whose private key is at hand."""
    return re.sub(r"^(\s*publicKey: ).*$", rf"\g<1>{public_key.read_text().strip()}", manifest, flags=re.MULTILINE)


def address_on(instance: Object, network: str) -> str:
    """The instance's address on a network. Raises LabError when it has none there."""
    for address in instance["status"].get("addresses", []):
        if address["network"] == network:
            return str(address["ip"])
    raise LabError(f"instance {instance['metadata']['name']} has no address on network {network}")


def _follow(layout: Layout) -> None:
    """Show each change of the image and the instances until these are Ready."""
    shown: dict[str, str] = {}

    def ready() -> bool:
        listed = json.loads(_kubectl(layout, "get", "images,instances", "-n", TENANT, "-o", "json"))["items"]
        done = 0
        for obj in listed:
            name = f"{obj['kind']} {obj['metadata']['name']}"
            status = obj.get("status", {})
            line = status.get("phase", "Pending")
            condition = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), None)
            if condition is not None and condition["status"] != "True":
                line += f" ({condition['reason']}: {condition['message']})"
            if status.get("nodeName"):
                line += f" on {status['nodeName']}"
            if shown.get(name) != line:
                shown[name] = line
                say(f"    {name}: {line}")
            done += obj["kind"] == "Instance" and condition is not None and condition["status"] == "True"
        return done == len(INSTANCES)

    with step("both instances are Ready"):
        _until(ready, 600, "the instances are not Ready; see `kumulus-lab kubectl describe inst -n acme`")


def _until_login(layout: Layout, key: Path, address: str) -> None:
    argv = [*world.ssh_argv(layout, key, "debian", address), "cloud-init", "status", "--wait"]

    def answers() -> bool:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0

    _until(answers, 600, f"no ssh login at {address}; see the guest's console log")


def _show(layout: Layout, key: Path, address: str, command: str) -> None:
    say(f"$ ssh debian@{address} {command!r}          (from the outside host `world`)")
    argv = [*world.ssh_argv(layout, key, "debian", address), command]
    answer = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
    say(answer.stdout.rstrip())
    if answer.returncode != 0:
        raise LabError(f"{command!r} at {address} ended with {answer.returncode}: {answer.stderr}")


def _get(layout: Layout, name: str) -> Object:
    answer: Object = json.loads(_kubectl(layout, "get", "instance", name, "-n", TENANT, "-o", "json"))
    return answer


def _kubectl(layout: Layout, *argv: str, stdin: str | None = None) -> str:
    kubectl = binaries.ensure(["kubectl"])["kubectl"]
    answer = subprocess.run(
        [kubectl, f"--kubeconfig={layout.kubeconfig}", *argv], input=stdin, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise LabError(f"kubectl {' '.join(argv)}: {answer.stderr.strip()}")
    return answer.stdout


def _until(holds: Callable[[], bool], seconds: float, told: str) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise LabError(told)
        time.sleep(0.5)

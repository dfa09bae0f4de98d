"""`kumulus-lab demo`: from nothing to two guests that answer, through what a user would type."""

import json
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import apt, binaries, cluster, world
from lab.command import run
from lab.errors import LabError
from lab.guests import build, image_path
from lab.install import install
from lab.kubeconfig import client_environment
from lab.layout import DEFAULT_NAME, WORLD, Layout
from lab.progress import say, step

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
TENANT = "acme"
INSTANCES = ("web-1", "web-2")
PUBLIC_NETWORK = "public"
TENANT_NETWORK = "internal"
GUEST_USER = "debian"
SSH_FAILED = 255
"""The exit status with which ssh says that it, not the command, failed."""

Object = dict[str, Any]


def demo(layout: Layout) -> None:
    """Bring up the lab, install Kumulus, apply examples/quickstart/ and show that it works. Leaves all of it up.

    Run again it goes on where it stopped. Raises LabError.
    """
    begun = time.monotonic()
    cluster.require_root()
    try:
        key = _bring_up(layout)
        instances = {name: _get(layout, name) for name in INSTANCES}
        with step("cloud-init is done and sshd answers in both guests"):
            for instance in instances.values():
                _until_login(layout, key, instance)
        config = _show(layout, key, instances)
    except LabError as error:
        raise LabError(f"{error}\n\n{_where_to_look(layout)}") from error
    say(f"\nDone in {time.monotonic() - begun:.0f} s. It stays up. Look around:\n")
    first = INSTANCES[0]
    for command in ("kubectl get inst -A", f"kubectl describe inst {first} -n {TENANT}", "status"):
        say(f"  {_typed(layout, command)}")
    say(f"  {_typed(layout, f'exec world -- ssh -F {config} {first}')}")
    removal = "make down" if layout.name == DEFAULT_NAME else _typed(layout, "down")
    say(f"\n`{removal}` removes everything.")


def _bring_up(layout: Layout) -> Path:
    """From nothing to instances that are Ready; returns the private key that opens them."""
    apt.ensure([apt.PACKAGES, apt.GUEST_PACKAGES])
    cluster.up(layout)
    if not image_path("debian").exists():
        say("  build the Debian guest image: a minute or two, once")
    with step("guest image: Debian 12 with cloud-init"):
        image = build("debian")
    install(layout)
    with step("world: serve the image by http"):
        world.serve(layout, [image])
        key = world.key_pair(layout.data / "demo" / "id_ed25519")
    with step("kubectl apply -f examples/quickstart/"):
        manifests = [path.read_text() for path in sorted(QUICKSTART.glob("*.yaml"))]
        _kubectl(layout, "apply", "-f", "-", stdin=with_key("\n---\n".join(manifests), key.with_suffix(".pub")))
    _follow(layout)
    return key


def _show(layout: Layout, key: Path, instances: dict[str, Object]) -> Path:
    """What there is now, a look into the first guest and a ping from it; returns the ssh_config made for them."""
    public = {name: address_on(instance, PUBLIC_NETWORK) for name, instance in instances.items()}
    config = world.ssh_config(layout.data / "demo" / "ssh_config", key, GUEST_USER, public)
    say("")
    for kinds in ("hypervisors,flavors", "tenants", "images,networks,subnets,ports,instances"):
        say(_kubectl(layout, "get", kinds, "-A").rstrip() + "\n")
    first, second = INSTANCES
    say(f"Login by ssh from `{WORLD}`, the host outside:")
    _run_in_guest(layout, key, public[first], "hostname; uname -sr; cat /etc/motd")
    say(f"From {first} to {second} on {instances[second]['status']['nodeName']}, over the tenant network:")
    _run_in_guest(layout, key, public[first], f"ping -c 3 {address_on(instances[second], TENANT_NETWORK)}")
    return config


def _typed(layout: Layout, words: str) -> str:
    """The command as it can be pasted into the shell that this was started from."""
    program = Path(sys.executable).parent / "kumulus-lab"
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return f"{program.parent}/{layout.command(words)}"


def _where_to_look(layout: Layout) -> str:
    lines = [f"Logs of all components: {layout.logs}/", f"What runs:              {_typed(layout, 'status')}"]
    if layout.kubeconfig.exists():
        lines.append(f"What the API tells:     {_typed(layout, f'kubectl describe inst -n {TENANT}')}")
    lines.append("The demo can be run again and goes on where it stopped;")
    lines.append(f"`{_typed(layout, 'down')}` removes all that it made.")
    return "\n".join(lines)


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
        _until(ready, 600, lambda: "the instances are not Ready: " + "; ".join(f"{n}: {t}" for n, t in shown.items()))


def _until_login(layout: Layout, key: Path, instance: Object) -> None:
    address = address_on(instance, PUBLIC_NETWORK)
    argv = [*world.ssh_argv(layout, key, GUEST_USER, address), "cloud-init", "status", "--long", "--wait"]

    def answers() -> bool:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode not in (0, SSH_FAILED):
            raise LabError(f"cloud-init in {instance['metadata']['name']} failed:\n{done.stdout.strip()}")
        return done.returncode == 0

    guest = Path("kumulus/instances") / instance["metadata"]["uid"]
    console = layout.node_data(instance["status"]["nodeName"]) / guest / "console.log"
    _until(answers, 600, lambda: f"no ssh login at {address}; the guest's console: {console}")


def _run_in_guest(layout: Layout, key: Path, address: str, command: str) -> None:
    say(f"  $ {command}")
    say(textwrap.indent(run([*world.ssh_argv(layout, key, GUEST_USER, address), command], stdin="").rstrip(), "  "))


def _get(layout: Layout, name: str) -> Object:
    answer: Object = json.loads(_kubectl(layout, "get", "instance", name, "-n", TENANT, "-o", "json"))
    return answer


def _kubectl(layout: Layout, *argv: str, stdin: str | None = None) -> str:
    kubectl = binaries.ensure(["kubectl"], cluster.given_tools(layout))["kubectl"]
    words: list[str | Path] = [kubectl, f"--kubeconfig={layout.kubeconfig}", "--request-timeout=30s", *argv]
    return run(words, stdin=stdin, env=client_environment(layout.run))


def _until(holds: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise LabError(f"{told()} (waited {seconds:.0f} s)")
        time.sleep(0.5)

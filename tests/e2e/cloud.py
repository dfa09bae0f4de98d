"""A lab with Kumulus in it, as tests drive it: kubectl, guests, kills, and what is left over afterwards."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lab import services
from lab.binaries import ensure
from lab.hosts import enter
from lab.layout import Layout

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples/quickstart"
Object = dict[str, Any]

NODE_STATE = Path("/var/lib/kumulus")


class NotInTime(AssertionError):
    """Something did not become true; the message says what was seen last."""


@dataclass(frozen=True)
class Cloud:
    """The lab `layout`, with Kumulus installed on `nodes`. `key` logs into guests."""

    layout: Layout
    nodes: tuple[str, ...]
    key: Path

    @cached_property
    def _kubectl(self) -> Path:
        return ensure(["kubectl"])["kubectl"]

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    # --- the API ---------------------------------------------------------------------------------------------------

    def kubectl(self, *argv: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._kubectl, f"--kubeconfig={self.layout.kubeconfig}", *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=check,
            timeout=180,
        )

    def apply(self, *objects: Object) -> None:
        answer = self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects), check=False)
        assert answer.returncode == 0, answer.stderr

    def refused(self, obj: Object) -> str:
        """The sentence with which the object is refused."""
        answer = self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(obj), check=False)
        assert answer.returncode != 0, f"accepted: {obj}"
        return answer.stderr

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        scope = [f"--namespace={namespace}"] if namespace else []
        answer = self.kubectl("get", kind, name, *scope, "--ignore-not-found", "--output=json")
        return json.loads(answer.stdout) if answer.stdout.strip() else None

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> list[Object]:
        scope = f"--namespace={namespace}" if namespace else "--all-namespaces"
        chosen = [f"--selector={selector}"] if selector else []
        answer = self.kubectl("get", kind, scope, *chosen, "--output=json")
        items: list[Object] = json.loads(answer.stdout)["items"]
        return items

    def delete(self, kind: str, name: str, namespace: str | None = None, *, wait: bool = True) -> None:
        scope = [f"--namespace={namespace}"] if namespace else []
        self.kubectl(
            "delete", kind, name, *scope, "--ignore-not-found", f"--wait={str(wait).lower()}", "--timeout=150s"
        )

    def until(
        self, kind: str, name: str, namespace: str | None, holds: Callable[[Object | None], bool], seconds: float = 120
    ) -> Object | None:
        """Waits until the object (None: there is none) is as it should be, and returns it."""
        seen: Object | None = None

        def check() -> bool:
            nonlocal seen
            seen = self.get(kind, name, namespace)
            return holds(seen)

        wait_until(
            check, seconds, lambda: f"{kind} {namespace}/{name} is\n{yaml.safe_dump((seen or {}).get('status'))}"
        )
        return seen

    def until_ready(self, kind: str, name: str, namespace: str | None = None, seconds: float = 120) -> Object:
        scope = [f"--namespace={namespace}"] if namespace else []
        answer = self.kubectl(
            "wait", f"{kind}/{name}", *scope, "--for=condition=Ready", f"--timeout={seconds}s", check=False
        )
        obj = self.get(kind, name, namespace)
        if answer.returncode != 0 or obj is None:
            raise NotInTime(f"{kind} {namespace}/{name}: {answer.stderr}{yaml.safe_dump((obj or {}).get('status'))}")
        return obj

    def until_condition(self, kind: str, name: str, namespace: str | None, reason: str, seconds: float = 60) -> Object:
        """Waits until some condition gives `reason`, and returns that condition."""
        found: list[Object] = []

        def holds(obj: Object | None) -> bool:
            found[:] = [c for c in (obj or {}).get("status", {}).get("conditions", []) if c.get("reason") == reason]
            return bool(found)

        self.until(kind, name, namespace, holds, seconds)
        return found[0]

    # --- hosts and guests ------------------------------------------------------------------------------------------

    def run(self, host: str, *argv: str, check: bool = True, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a program on a host of the lab (node1.., control, world)."""
        return subprocess.run(
            [*enter(self.layout, host), *argv], capture_output=True, text=True, check=check, timeout=seconds
        )

    def ssh(self, address: str, command: str, *, check: bool = True, seconds: float = 60) -> str:
        """Runs a shell command in the guest at a public address, from `world`."""
        answer = self.run("world", *self.ssh_argv(address), command, check=False, seconds=seconds)
        if check and answer.returncode != 0:
            raise AssertionError(f"ssh {address} {command!r}: {answer.returncode}\n{answer.stdout}{answer.stderr}")
        return answer.stdout

    def ssh_argv(self, address: str) -> list[str]:
        options = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
            "ConnectTimeout": "5",
        }
        return ["ssh", "-i", str(self.key), *(f"-o{k}={v}" for k, v in options.items()), f"root@{address}"]

    def until_ssh(self, address: str, seconds: float = 120) -> None:
        wait_until(
            lambda: self.run("world", *self.ssh_argv(address), "true", check=False).returncode == 0,
            seconds,
            lambda: f"no ssh at {address}",
        )

    def console(self, instance: Object) -> str:
        """What the guest wrote to its serial console."""
        node, uid = instance["status"]["nodeName"], instance["metadata"]["uid"]
        log = self.layout.node_data(node) / "kumulus/instances" / uid / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def until_console(self, instance: Object, text: str, seconds: float = 120) -> str:
        wait_until(
            lambda: text in self.console(instance),
            seconds,
            lambda: f"the console never said {text!r}; it said\n{self.console(instance)[-4000:]}",
        )
        return self.console(instance)

    # --- kills -----------------------------------------------------------------------------------------------------

    def kill(self, component: str) -> None:
        """kill -9; runsv starts it again."""
        services.kill(self.layout, component)

    def components(self) -> list[str]:
        return services.names(self.layout)

    def log(self, component: str, lines: int = 60) -> str:
        path = self.layout.log(component)
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    # --- what is left ----------------------------------------------------------------------------------------------

    def node_state(self, node: str) -> dict[str, list[str]]:
        """Everything on a node that is made for guests; all lists are empty on a node without any."""
        namespaces = [line.split()[0] for line in self.run(node, "ip", "netns").stdout.splitlines()]
        links: list[str] = []
        for namespace in namespaces:
            shown = json.loads(self.run(node, "ip", "-netns", namespace, "-json", "link").stdout)
            links += [f"{namespace}/{link['ifname']}" for link in shown]
        host_links = [link["ifname"] for link in json.loads(self.run(node, "ip", "-json", "link").stdout)]
        made = ("tap", "br", "vx", "dh")
        domains = self.run(node, "virsh", "--connect=qemu:///system", "list", "--all", "--name").stdout.split()
        files = [
            str(path.relative_to(self.layout.node_data(node) / "kumulus"))
            for folder in ("instances", "networks")
            for path in (self.layout.node_data(node) / "kumulus" / folder).rglob("*")
            if path.is_file()
        ]
        return {
            "child namespaces": sorted(n for n in namespaces if n.startswith("kumulus-net-")),
            "links": sorted(
                [x for x in links if x.partition("/")[2].startswith(made)]
                + [x for x in host_links if x.startswith(made)]
            ),
            "domains": sorted(domains),
            "files": sorted(files),
            "dnsmasq": self._processes_of(node, "dnsmasq"),
            "qemu": self._processes_of(node, "qemu-system"),
        }

    def _processes_of(self, node: str, program: str) -> list[str]:
        """Command lines of a program's processes whose mount namespace is the node's."""
        wanted = self.run(node, "readlink", "/proc/self/ns/mnt").stdout.strip()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                namespace = str((entry / "ns/mnt").readlink())
            except OSError:  # it ended while we looked
                continue
            if program in command.split(" ")[0] and namespace == wanted:
                found.append(command[:200])
        return found

    def api_leftovers(self, namespaces: Sequence[str]) -> dict[str, list[str]]:
        """What the API still holds of the tenants with these namespaces, wherever it is kept."""
        kinds = [
            "instances,images,keypairs,networks,subnets,ports,securitygroups",
            "ipallocations,macallocations",
        ]
        left: dict[str, list[str]] = {}
        for kind in kinds:
            for namespace in namespaces:
                if self.get("namespace", namespace) is None:
                    continue
                items = self.list(kind, namespace)
                # The group `default` is the tenant's own and goes with it.
                names = [f"{i['kind']}/{i['metadata']['name']}" for i in items]
                left[namespace] = left.get(namespace, []) + [n for n in names if n != "SecurityGroup/default"]
        holders = [
            f"{i['kind']}/{i['metadata']['name']}"
            for i in self.list("segments")
            if i["spec"]["holder"].get("namespace") in namespaces
        ]
        work = [
            i["metadata"]["name"]
            for i in self.list("nodeinstances")
            if i["spec"]["instanceRef"]["namespace"] in namespaces
        ]
        reserved = [
            f"{i['metadata']['name']}: {a['namespace']}/{a['name']}"
            for i in self.list("hypervisorallocations")
            for a in i["spec"].get("allocations", [])
            if a["namespace"] in namespaces
        ]
        left |= {"segments": holders, "work objects": work, "reservations": reserved}
        return {what: names for what, names in left.items() if names}

    def diagnosis(self) -> str:
        """What is needed to understand a failure."""
        parts = [self.kubectl("get", "kumulus", "-A", "-o", "wide", check=False).stdout]
        for instance in self.list("instances"):
            parts.append(yaml.safe_dump({"instance": instance["metadata"]["name"], "status": instance.get("status")}))
        for component in self.components():
            if component.startswith("operator") or component.endswith("/hostagent"):
                parts.append(f"--- log of {component}\n{self.log(component)}")
        for node in self.nodes:
            parts.append(f"--- ruleset of {node}")
            parts.append(self.run(node, "ip", "netns", "exec", "kumulus", "nft", "list", "ruleset", check=False).stdout)
            for domain in self.run(node, "virsh", "list", "--all", "--name", check=False).stdout.split():
                parts.append(self.run(node, "virsh", "dumpxml", domain, check=False).stdout)
        return "\n".join(parts)


def wait_until(holds: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    """Looks until it holds; raises `NotInTime` with what `told` says."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise NotInTime(f"not within {seconds} s: {told()}")
        time.sleep(0.25)

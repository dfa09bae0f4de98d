"""`kumulus-lab install`: Kumulus itself in the lab: the chart, two operator replicas, an agent on each node.

Operators and agents run as services of the lab's hosts, under the identities and rights that the chart gives them.
"""

import hashlib
import sys
from pathlib import Path

from lab import services
from lab.binaries import ensure
from lab.cluster import given_tools, require_root, require_state
from lab.command import run
from lab.controlplane import SERVICE_CIDR
from lab.errors import LabError
from lab.kubeconfig import client_environment
from lab.layout import CONTROL, CONTROL_ADDRESS, FABRIC_PREFIX, Layout, node_names, plan_hosts
from lab.progress import step

ROOT = Path(__file__).parent.parent
CHART = ROOT / "charts" / "kumulus"
OPERATORS = ("operator-0", "operator-1")
AGENT = "hostagent"
IMAGE_SERVICE_PORT = 8774
_PATIENCE = 90
"""Seconds; an idle machine needs 3."""


def install(layout: Layout) -> None:
    """Install the chart, or upgrade to the one in the tree, start what is not running, wait for the nodes' agents.

    Raises LabError.
    """
    require_root()
    state = require_state(layout)
    if not (CHART / "Chart.yaml").exists():
        raise LabError(f"no chart in {CHART}: run kumulus-lab from a checkout of Kumulus")
    tools = ensure(["helm", "kubectl"], given_tools(layout))
    with step("helm: install the chart"):
        words = [
            "upgrade",
            "--install",
            "kumulus",
            str(CHART),
            "--namespace=kumulus-system",
            "--create-namespace",
            "--wait",
        ]
        environment = client_environment(layout.run)
        run([tools["helm"], *words, f"--kubeconfig={layout.kubeconfig}"], timeout=300, env=environment)
    with step("start two operator replicas and an agent per node"):
        for name in OPERATORS:
            argv: list[str | Path] = [_program("kumulus-operator"), f"--identity={name}"]
            environment = operator_environment(layout) | _version("operators")
            services.add(layout, name, argv, env=environment, host=CONTROL)
        for host in plan_hosts(state.nodes):
            if host.is_node and host.fabric is not None:
                argv = [str(_program("kumulus-hostagent"))]
                environment = agent_environment(layout, host.name, host.fabric) | _version("hostagent")
                services.add(layout, f"{host.name}/{AGENT}", argv, env=environment, host=host.name)
    with step("every agent has registered its node"):
        for node in node_names(state.nodes):
            _wait_registered(layout, tools["kubectl"], node)


def _wait_registered(layout: Layout, kubectl: Path, node: str) -> None:
    """Until the node's Hypervisor is Ready: before that nothing is scheduled to it."""
    words: list[str | Path] = [
        kubectl,
        f"--kubeconfig={layout.kubeconfig}",
        "wait",
        f"hypervisor/{node}",
        f"--timeout={_PATIENCE}s",
    ]
    try:
        for state in ("create", "condition=Ready"):
            run([*words, f"--for={state}"], timeout=_PATIENCE + 10, env=client_environment(layout.run))
    except LabError as error:
        raise LabError(f"{node} is not ready; its agent's log: {layout.log(f'{node}/{AGENT}')}\n{error}") from error


def operator_environment(layout: Layout) -> dict[str, str]:
    """What the operators are told; see operators/settings.py."""
    fabric = f"{CONTROL_ADDRESS.rpartition('.')[0]}.0/{FABRIC_PREFIX}"
    return {
        "KUBECONFIG": str(layout.operator_kubeconfig),
        "KUMULUS_IMAGE_STORE": str(layout.data / "images"),
        "KUMULUS_IMAGE_SERVICE_URL": f"https://{CONTROL_ADDRESS}:{IMAGE_SERVICE_PORT}",
        "KUMULUS_IMAGE_SERVICE_LISTEN": f"{CONTROL_ADDRESS}:{IMAGE_SERVICE_PORT}",
        "KUMULUS_IMAGE_SERVICE_CERT": str(layout.image_service / "tls.crt"),
        "KUMULUS_IMAGE_SERVICE_KEY": str(layout.image_service / "tls.key"),
        "KUMULUS_CLIENT_CA": str(layout.run / "ca.crt"),
        "KUMULUS_FORBIDDEN_CIDRS": f"{SERVICE_CIDR},{fabric}",
    }


def agent_environment(layout: Layout, node: str, underlay: str) -> dict[str, str]:
    """What a node's agent is told; see hostagent/settings.py."""
    return {
        "KUBECONFIG": str(layout.agent_kubeconfig(node)),
        "KUMULUS_NODE_NAME": node,
        "KUMULUS_UNDERLAY_IP": underlay,
        "KUMULUS_PHYSICAL_NETWORKS": "public=public0",
        # The lab's machine need not have KVM: guests are emulated.
        "KUMULUS_VIRT_TYPE": "qemu",
        "KUMULUS_IMAGE_CA": str(layout.run / "ca.crt"),
    }


def _version(package: str) -> dict[str, str]:
    """What differs when the code of an operator or agent does: a service is restarted when its environment changes."""
    digest = hashlib.sha256()
    for folder in (package, "runtime", "crds"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return {"KUMULUS_SOURCE": digest.hexdigest()[:16]}


def _program(name: str) -> Path:
    """A console script of the environment that runs the lab."""
    return Path(sys.executable).parent / name

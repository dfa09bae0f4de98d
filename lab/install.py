"""`kumulus-lab install`: Kumulus itself in the lab: the chart, two operator replicas, an agent on each node."""

from pathlib import Path

from lab.binaries import ensure
from lab.cluster import require_root, require_state
from lab.command import run
from lab.errors import LabError
from lab.layout import Layout
from lab.progress import step

CHART = Path(__file__).parent.parent / "charts" / "kumulus"


def install(layout: Layout) -> None:
    """Install the chart, or upgrade to the one in the tree. Raises LabError."""
    require_root()
    require_state(layout)
    if not (CHART / "Chart.yaml").exists():
        raise LabError(f"no chart in {CHART}: run kumulus-lab from a checkout of Kumulus")
    helm = ensure(["helm"])["helm"]
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
        run([helm, *words, f"--kubeconfig={layout.kubeconfig}"], timeout=300)

"""`kumulus-lab status`: what the lab consists of and whether it runs."""

from lab import cluster, services
from lab.layout import Layout, plan_hosts
from lab.probe import is_ready


def status_lines(layout: Layout) -> tuple[list[str], bool]:
    """The lines to print, and whether every component that should run does and the API server is ready."""
    state = cluster.require_state(layout)
    ready = is_ready("127.0.0.1", state.api_port, cluster.plane(layout).ca.cert)
    lines = [
        f"lab {layout.name}: API server https://127.0.0.1:{state.api_port} {'ready' if ready else 'NOT READY'}",
        f"KUBECONFIG={layout.kubeconfig}",
        "",
        f"{'HOST':<10} {'FABRIC':<12} PUBLIC",
    ]
    for host in plan_hosts(state.nodes):
        public = host.public or "(no address)"
        lines.append(f"{host.name:<10} {host.fabric or '-':<12} {public}")
    lines += ["", f"{'COMPONENT':<28} {'PID':<8} STATE"]
    healthy = ready
    for name in services.names(layout):
        component = services.state(layout, name)
        running = "running" if component.pid else ("restarting" if component.wanted else "stopped")
        healthy = healthy and bool(component.pid or not component.wanted)
        lines.append(f"{name:<28} {component.pid or '-'!s:<8} {running}")
    return lines, healthy

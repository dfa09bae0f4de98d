"""Removing all of the data plane from a node."""

from __future__ import annotations

import shutil
from pathlib import Path

from hostagent.network import names, netns
from hostagent.network import operations as ops
from hostagent.network.errors import DataPlaneError
from hostagent.network.execute import Executor
from hostagent.network.observe import observe
from hostagent.network.sockets import Sockets


def teardown(sockets: Sockets, executor: Executor, run_dir: Path, state_dir: Path, underlay_table: str) -> None:
    """Raises DataPlaneError with everything that could not be removed, after the rest was."""
    observed = observe(sockets, run_dir, underlay_table)
    steps: list[ops.Operation] = []
    for namespace, child in sorted(observed.children.items()):
        if child.process is not None:
            steps.append(ops.StopDhcp("", namespace, child.process.pid))
        steps.append(ops.DeleteChild("", namespace))
    for name in sorted(observed.links):
        steps.append(ops.DeleteLink("", name) if names.is_own_device(name) else ops.ReturnNic("", name))
    for name, link in sorted(observed.host_links.items()):
        if names.is_own_device(name) and link.kind == "tun":
            steps.append(ops.DeleteLink("", name, host=True))
    if observed.underlay_table is not None:
        steps.append(ops.Filter("", host=True, commands=(f"delete table inet {underlay_table}",)))
    problems = executor.run(steps)
    # A socket of ours would keep the namespace alive.
    sockets.close_inner()
    netns.delete(sockets.inner_path)
    netns.release_directory(sockets.netns_dir)
    for directory in (run_dir / "dhcp", state_dir / "leases"):
        if directory.is_dir():
            shutil.rmtree(directory)
    if problems:
        raise DataPlaneError("; ".join(problem.message for problem in problems))

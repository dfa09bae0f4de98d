"""`kumulus-lab`: the test cluster on one machine."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import apt, binaries, cluster, services
from lab.api_only import (
    api_folder,
    api_only_down,
    api_only_is_ready,
    api_only_is_up,
    api_only_kubeconfig,
    api_only_tools,
    api_only_up,
)
from lab.errors import LabError
from lab.hosts import enter
from lab.kubeconfig import client_environment
from lab.layout import DEFAULT_NAME, Layout
from lab.status import status_lines


def main(argv: Sequence[str] | None = None) -> int:
    words, passed_on = split_passed_on(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    arguments.passed_on = passed_on
    command: Callable[[argparse.Namespace, Layout], int] = arguments.run
    try:
        return command(arguments, Layout(arguments.name))
    except LabError as error:
        print(f"kumulus-lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        undo = Layout(arguments.name).command("down")
        print(f"kumulus-lab: interrupted; `{undo}` removes what was made", file=sys.stderr)
        return 130


def split_passed_on(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split after `kubectl`: what follows is kubectl's, also options that argparse would claim or refuse."""
    at = 0
    while at < len(words) and words[at].startswith("--name"):
        at += 1 if "=" in words[at] else 2
    if at < len(words) and words[at] == "kubectl":
        return list(words[: at + 1]), list(words[at + 1 :])
    return list(words), []


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    """Each command's text on its own line, beside its name."""
    return argparse.HelpFormatter(prog, max_help_position=17, width=100)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kumulus-lab",
        formatter_class=_help_formatter,
        description="A Kubernetes cluster with KVM nodes, two networks and an outside world, on this machine alone.",
        epilog="Start with `up` and `install`, or with `demo` for both and two guests; `down` ends and removes it all. "
        "Each command has a --help of its own; docs/lab.md tells more.",
    )
    parser.add_argument("--name", default=DEFAULT_NAME, help="which lab; several can run at a time (default: lab)")
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace, Layout], int], text: str) -> argparse.ArgumentParser:
        sentence = f"{text[0].upper()}{text[1:]}."
        command = commands.add_parser(name, help=text, description=sentence, formatter_class=_help_formatter)
        # After the command too. SUPPRESS: an absent one must not overwrite what stood before the command.
        command.add_argument("--name", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        command.set_defaults(run=run)
        return command

    command = add("setup", _setup, "install packages and build tools, which `up` does too: what takes minutes, once")
    command.add_argument("--all-tools", action="store_true", help="also kube-scheduler and kubelet")
    command.add_argument("--guests", action="store_true", help="also make the guest images")
    _add_bin_dir(command)
    command = add("up", _up, "bring the lab up, or what is missing of it")
    command.add_argument("--nodes", type=int, help="how many KVM nodes (default: 2)")
    command.add_argument("--api-only", action="store_true", help="etcd and kube-apiserver alone, without root or hosts")
    command.add_argument("--with-controller-manager", action="store_true", help="with --api-only: this one too")
    _add_bin_dir(command)
    add("down", _down, "remove the lab and everything that ran in it")
    add("status", _status, "show hosts, components and addresses; status 1 when something does not run")
    command = add("exec", _exec, "run a command in a host: exec node1 -- ip address")
    command.add_argument("host", help="control, node1.., world")
    command.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="default: a shell")
    add("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig")
    add("kubectl", _kubectl, "run kubectl as administrator: kubectl get instances -A")
    command = add("user", _user, "issue a client certificate and print the path of its kubeconfig")
    command.add_argument("user", help="the name that Kubernetes sees")
    command.add_argument("--group", action="append", default=[], help="may be given several times")
    command = add("logs", _logs, "print the log of a component, or of all components of a host")
    command.add_argument("component", help="as `status` names it: etcd, operator-0, node1/hostagent; or a host: node1")
    command.add_argument("-f", "--follow", action="store_true", help="go on printing what is added")
    for verb, run, text in (("start", _start, "start a component"), ("stop", _stop, "stop a component until `start`")):
        add(verb, run, text).add_argument("component", help="as `status` names it")
    command = add("kill", _kill, "send a component's process a signal; it is started again at once")
    command.add_argument("component", help="as `status` names it")
    command.add_argument("-s", "--signal", default="KILL", help="a name or number (default: KILL)")
    add("install", _install, "install Kumulus: the chart, the operators and an agent on each node")
    add("demo", _demo, "all of it: `up`, `install`, examples/quickstart applied, and a look at what it made")
    return parser


def _add_bin_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument("--bin-dir", type=Path, help="a folder with ready-made tools (also: $KUMULUS_LAB_BIN)")


def _setup(arguments: argparse.Namespace, layout: Layout) -> int:
    apt.ensure([apt.PACKAGES, *([apt.GUEST_PACKAGES] if arguments.guests else [])])
    tools = binaries.ALL_TOOLS if arguments.all_tools else binaries.CLUSTER_TOOLS
    binaries.ensure(tools, arguments.bin_dir)
    if not arguments.guests:
        return 0
    argv = [sys.executable, "-m", "lab.guests", "build", "all"]
    # The paths that it prints are for scripts; this command's output is progress.
    return subprocess.run(argv, stdout=sys.stderr, check=False).returncode


def _up(arguments: argparse.Namespace, layout: Layout) -> int:
    if arguments.api_only:
        if arguments.nodes is not None:
            raise LabError("--api-only has no nodes: leave out --nodes")
        if os.geteuid() == 0 and layout.run.exists():
            raise LabError(f"lab {layout.name!r} is up with hosts: `{layout.command('down')}` first, or another --name")
        kubeconfig = api_only_up(layout, arguments.with_controller_manager, arguments.bin_dir)
        print(f"export KUBECONFIG={kubeconfig}")
        return 0
    if api_only_is_up(layout.name):
        raise LabError(f"lab {layout.name!r} is up as --api-only: `{layout.command('down')}` first, or another --name")
    if arguments.with_controller_manager:
        raise LabError("--with-controller-manager goes with --api-only: a lab with hosts has it anyway")
    cluster.up(layout, arguments.nodes, arguments.bin_dir)
    print(f"export KUBECONFIG={layout.kubeconfig}")
    return 0


def _down(arguments: argparse.Namespace, layout: Layout) -> int:
    if api_only_is_up(layout.name):
        api_only_down(layout.name)
    else:
        cluster.down(layout)
    return 0


def _status(arguments: argparse.Namespace, layout: Layout) -> int:
    if api_only_is_up(layout.name):
        ready = api_only_is_ready(layout.name)
        print(f"lab {layout.name} (API only): API server {'ready' if ready else 'NOT READY'}")
        print(f"KUBECONFIG={api_only_kubeconfig(layout.name)}")
        return 0 if ready else 1
    lines, healthy = status_lines(layout)
    print("\n".join(lines))
    return 0 if healthy else 1


def _exec(arguments: argparse.Namespace, layout: Layout) -> int:
    cluster.require_root()
    known = cluster.host_names(cluster.require_state(layout))
    if arguments.host not in known:
        raise LabError(f"the lab has no host {arguments.host!r}; it has: {', '.join(known)}")
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    words = [*enter(layout, arguments.host), *(argv or [os.environ.get("SHELL", "/bin/sh")])]
    os.execvp(words[0], words)  # noqa: S606  # the command takes this process's place: its terminal, signals, status


def _kubeconfig_path(layout: Layout) -> Path:
    if api_only_is_up(layout.name):
        return api_only_kubeconfig(layout.name)
    cluster.require_state(layout)
    return layout.kubeconfig


def _kubeconfig(arguments: argparse.Namespace, layout: Layout) -> int:
    print(_kubeconfig_path(layout))
    return 0


def _kubectl(arguments: argparse.Namespace, layout: Layout) -> int:
    kubeconfig = _kubeconfig_path(layout)
    os.environ |= client_environment(kubeconfig.parent) | {"KUBECONFIG": str(kubeconfig)}
    given = api_only_tools(layout.name) if api_only_is_up(layout.name) else cluster.given_tools(layout)
    kubectl = binaries.ensure(["kubectl"], given)["kubectl"]
    os.execv(kubectl, [str(kubectl), *arguments.passed_on])  # noqa: S606  # as for exec


def _user(arguments: argparse.Namespace, layout: Layout) -> int:
    print(cluster.issue_user(layout, arguments.user, arguments.group))
    return 0


def _logs(arguments: argparse.Namespace, layout: Layout) -> int:
    component: str = arguments.component
    if api_only_is_up(layout.name):
        present = {path.stem: path for path in sorted((api_folder(layout.name) / "logs").glob("*.log"))}
    else:
        cluster.require_state(layout)
        present = {name: layout.log(name) for name in services.names(layout) if layout.log(name).exists()}
    paths = [path for name, path in present.items() if component in (name, name.partition("/")[0])]
    if not paths:
        raise LabError(f"no log of {component!r}; there are: {', '.join(present) or 'none'}")
    words = ["tail", "--lines=+1", *(["--follow"] if arguments.follow else []), *(str(path) for path in paths)]
    os.execvp(words[0], words)  # noqa: S606  # as for exec


def _start(arguments: argparse.Namespace, layout: Layout) -> int:
    cluster.require_root()
    services.up(layout, arguments.component)
    return 0


def _stop(arguments: argparse.Namespace, layout: Layout) -> int:
    cluster.require_root()
    services.down(layout, arguments.component)
    return 0


def _kill(arguments: argparse.Namespace, layout: Layout) -> int:
    cluster.require_root()
    services.kill(layout, arguments.component, parse_signal(arguments.signal))
    return 0


def parse_signal(text: str) -> signal.Signals:
    """``9``, ``KILL`` and ``SIGKILL`` are the same. Raises LabError."""
    try:
        return signal.Signals(int(text)) if text.isdigit() else signal.Signals["SIG" + text.upper().removeprefix("SIG")]
    except (KeyError, ValueError) as error:
        raise LabError(f"{text!r} is no signal: give a name such as TERM or a number") from error


def _install(arguments: argparse.Namespace, layout: Layout) -> int:
    from lab.install import install  # the clients that it needs take a second to load

    install(layout)
    return 0


def _demo(arguments: argparse.Namespace, layout: Layout) -> int:
    from lab.demo import demo  # as for install

    demo(layout)
    return 0

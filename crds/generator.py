"""`kumulus-crds`: writes the CustomResourceDefinitions and the API reference from the models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

import crds
from crds.manifest import build_manifest
from crds.meta import Resource
from crds.reference import render_group, render_index

MANIFESTS = Path(__file__).parent / "manifests"
REFERENCE = Path(__file__).parents[1] / "docs" / "api"

_HEADER = "# Generated from crds/ by kumulus-crds. Do not edit.\n"


class _Dumper(yaml.SafeDumper):
    """Writes without anchors, and lists indented below their key, as kubectl does not mind and people prefer."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def manifest_name(kind: type[Resource]) -> str:
    """The file of a kind: `network_ports.yaml`."""
    return f"{kind.DEFINITION.group}_{kind.DEFINITION.plural}.yaml"


def render_manifest(kind: type[Resource]) -> str:
    """The kind's CustomResourceDefinition as YAML."""
    body: str = yaml.dump(build_manifest(kind), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return _HEADER + body


def render_all() -> dict[Path, str]:
    """Every generated file and what it must hold."""
    groups: dict[str, list[type[Resource]]] = {}
    for kind in crds.KINDS:
        groups.setdefault(kind.DEFINITION.group, []).append(kind)
    return {
        **{MANIFESTS / manifest_name(kind): render_manifest(kind) for kind in crds.KINDS},
        **{REFERENCE / f"{group}.md": render_group(kinds) for group, kinds in groups.items()},
        REFERENCE / "README.md": render_index(crds.KINDS),
    }


def differences(files: dict[Path, str]) -> list[Path]:
    """The files that are missing, differ, or lie among the generated ones though nothing generates them."""
    wrong = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    present = [*MANIFESTS.glob("*.yaml"), *REFERENCE.glob("*.md")]
    return sorted([*wrong, *(path for path in present if path not in files)])


def main(argv: list[str] | None = None) -> int:
    """Write the generated files, or with `--check` say which are not up to date and return 1."""
    parser = argparse.ArgumentParser(prog="kumulus-crds", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is not up to date")
    arguments = parser.parse_args(argv)
    files = render_all()
    stale = differences(files)
    if arguments.check:
        for path in stale:
            print(f"{path} is not up to date: run kumulus-crds", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
        else:
            path.unlink()
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

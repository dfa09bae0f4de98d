"""Every kind on a real apiserver with no operator for it running: it is taken, defaulted, shown and explained."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import crds
from crds.manifest import build_manifest
from crds.meta import Controller, Resource
from lab.api import ApiServer
from lab.binaries import ensure
from lab.probe import wait_for

EXAMPLES: list[dict[str, Any]] = list(
    yaml.safe_load_all(Path(__file__).with_name("test_crds_examples.yaml").read_text())
)
NAMESPACE = "crd-examples"
BY_KIND: dict[str, type[Resource]] = {kind.__name__: kind for kind in crds.KINDS}


class Kubectl:
    """kubectl as a user has it, with the API and nothing else."""

    def __init__(self, api: ApiServer) -> None:
        self._prefix = [str(ensure(["kubectl"])["kubectl"]), f"--kubeconfig={api.kubeconfig}"]

    def __call__(self, *arguments: str, stdin: str | None = None, fails: bool = False) -> str:
        """What the command says: its output, or with `fails` its error, which it must then have."""
        done = self._run(arguments, stdin)
        assert (done.returncode != 0) == fails, done.stderr or done.stdout
        return done.stderr if fails else done.stdout

    def succeeds(self, *arguments: str) -> bool:
        return self._run(arguments, None).returncode == 0

    def _run(self, arguments: Sequence[str], stdin: str | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._prefix, *arguments], input=stdin, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    """The API alone: no operator, no admission policy, only the definitions."""
    with ApiServer() as api:
        run = Kubectl(api)
        run("apply", "--server-side", "-f", str(Path(crds.__file__).parent / "manifests"))
        # Again and again: kubectl fails when a definition has no conditions at all yet.
        wait_for(lambda: run.succeeds("wait", "crd", "--all", "--for=condition=Established"), 30, "not established")
        run("create", "namespace", NAMESPACE)
        yield run


@pytest.fixture(scope="module")
def stored(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The examples as the apiserver gives them back."""
    kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(EXAMPLES))
    objects = yaml.safe_load(kubectl("get", "-f", "-", "-o", "yaml", stdin=yaml.safe_dump_all(EXAMPLES)))["items"]
    assert len(objects) == len(EXAMPLES)
    return list(objects)


def test_there_is_an_example_of_every_kind() -> None:
    assert {example["kind"] for example in EXAMPLES} == BY_KIND.keys()


def test_the_models_read_what_the_apiserver_stored_and_write_it_back(stored: list[dict[str, Any]]) -> None:
    for stored_object in stored:
        kind = BY_KIND[stored_object["kind"]]
        written = kind.model_validate(stored_object).to_dict()
        assert written["spec"] == stored_object["spec"], stored_object["kind"]
        assert written.get("status") == stored_object.get("status"), stored_object["kind"]


def test_a_new_object_has_a_status_before_any_controller_has_seen_it(stored: list[dict[str, Any]]) -> None:
    expected = {Controller.PRESENT: "Unknown", Controller.PLANNED: "Unknown", Controller.RECORD: "True"}
    for stored_object in stored:
        controller = BY_KIND[stored_object["kind"]].DEFINITION.controller
        if controller == Controller.NONE:
            assert "status" not in stored_object
            continue
        (ready,) = stored_object["status"]["conditions"]
        assert ready["type"] == "Ready"
        assert ready["status"] == expected[controller]
        if controller == Controller.PLANNED:
            assert f"no controller for {stored_object['kind']}" in ready["message"]


def test_phases_begin_as_documented(stored: list[dict[str, Any]]) -> None:
    phases = {entry["kind"]: entry["status"]["phase"] for entry in stored if "phase" in entry.get("status", {})}
    expected = {"Instance": "Pending", "Image": "Queued", "Port": "Down", "Volume": "Creating", "Tenant": "Pending"}
    assert phases.items() >= expected.items()


def test_defaults_are_the_documented_ones(stored: list[dict[str, Any]]) -> None:
    spec = {(entry["kind"], entry["metadata"]["name"]): entry["spec"] for entry in stored}
    assert spec["Image", "uploaded"] == {
        "source": {"upload": {}},
        "diskFormat": "raw",
        "access": {"scope": "Private"},
        "protected": False,
        "deactivated": False,
    }
    assert spec["Subnet", "internal-v6"]["gateway"] == {"mode": "Auto"}
    assert spec["Subnet", "internal-v6"]["dhcp"] is True
    instance = spec["Instance", "from-volume"]
    assert instance["powerState"] == "Running"
    assert instance["restartPolicy"] == "Always"
    assert instance["imageChangePolicy"] == "Forbid"
    assert instance["evacuationPolicy"] == "Manual"
    assert spec["Network", "internal"]["external"] is False
    assert spec["Network", "internal"]["access"] == {"scope": "Private"}


def test_an_object_whose_spec_has_only_defaults_may_leave_it_out(kubectl: Kubectl) -> None:
    for api_version, kind in (("identity.kumulus.dev/v1alpha1", "Tenant"), ("network.kumulus.dev/v1alpha1", "Network")):
        manifest = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "bare", "namespace": NAMESPACE}}
        created = yaml.safe_load(
            kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", stdin=yaml.safe_dump(manifest))
        )
        assert created["spec"], kind


@pytest.mark.usefixtures("stored")
def test_short_names_and_the_category_find_the_objects(kubectl: Kubectl) -> None:
    for kind in crds.KINDS:
        for short in kind.DEFINITION.short_names:
            names = kubectl("get", f"{short}.{kind.DEFINITION.api_group}", "-A", "-o", "name")
            assert f"{kind.__name__.lower()}.{kind.DEFINITION.api_group}/" in names, short
    everything = kubectl("get", "kumulus", "-A", "-o", "name")
    assert "instance.compute.kumulus.dev/web-1" in everything
    assert "nodeinstance" not in everything
    assert "nodeinstance.node.kumulus.dev/" in kubectl("get", "kumulus-internal", "-A", "-o", "name")


@pytest.mark.usefixtures("stored")
def test_the_instance_table_tells_phase_node_address_and_age(kubectl: Kubectl) -> None:
    status = {
        "phase": "Active",
        "nodeName": "node1",
        "addresses": [{"network": "internal", "ip": "10.0.1.50", "mac": "fa:16:3e:00:00:50"}],
    }
    kubectl(
        "patch", "inst", "web-1", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p",
        yaml.safe_dump({"status": status}),
    )  # fmt: skip
    header, *rows = kubectl("get", "inst", "-A").splitlines()
    assert header.split() == ["NAMESPACE", "NAME", "PHASE", "READY", "NODE", "ADDRESS", "AGE"]
    (row,) = (row for row in rows if " web-1 " in row)
    assert row.split()[2:6] == ["Active", "Unknown", "node1", "10.0.1.50"]


@pytest.mark.usefixtures("stored")
def test_a_set_scales(kubectl: Kubectl) -> None:
    kubectl("scale", "instset/web", "-n", NAMESPACE, "--replicas=5")
    assert kubectl("get", "instset", "web", "-n", NAMESPACE, "-o", "jsonpath={.spec.replicas}") == "5"


@pytest.mark.usefixtures("stored")
def test_fields_can_be_selected(kubectl: Kubectl) -> None:
    selector = "--field-selector=spec.instanceRef.uid=3d9a9a5c-0000-4000-8000-000000000002"
    assert "3d9a9a5c" in kubectl("get", "ninst", "-A", "-o", "name", selector)
    selector = "--field-selector=spec.networkRef.name=other"
    assert kubectl("get", "port", "-A", "-o", "name", selector) == ""


@pytest.mark.parametrize("kind", crds.KINDS, ids=lambda kind: kind.__name__)
def test_explain_describes_every_field(kubectl: Kubectl, kind: type[Resource]) -> None:
    resource = f"{kind.DEFINITION.plural}.{kind.DEFINITION.api_group}"
    text = kubectl("explain", resource, "--recursive=false")
    assert build_manifest(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"][:60] in text
    text = kubectl("explain", f"{resource}.spec")
    assert "FIELDS:" in text
    assert "<no description>" not in text
    assert not re.search(r"^  \w+\t<[^\n]*>\n\n", text, re.MULTILINE), "a field without a description"


def test_explain_tells_how_a_quantity_and_an_enum_are_written(kubectl: Kubectl) -> None:
    text = kubectl("explain", "flavors.compute.kumulus.dev.spec.memory")
    assert "A quantity, for example 512Mi or 10Gi." in text
    text = kubectl("explain", "instances.compute.kumulus.dev.spec.restartPolicy")
    assert re.search(r"ENUM:\s+Always\s+OnFailure\s+Never", text)


def test_kubectl_refuses_an_unknown_field_by_its_name(kubectl: Kubectl) -> None:
    manifest = {
        "apiVersion": "compute.kumulus.dev/v1alpha1",
        "kind": "Flavor",
        "metadata": {"name": "unknown"},
        "spec": {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi", "ram": "1Gi"},
    }
    error = kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest), fails=True)
    assert 'unknown field "spec.ram"' in error
    manifest["spec"] = {"vcpus": 1, "memory": "1Gi", "rootDisk": "1Gi", "access": {"tenant": ["x"]}}
    error = kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(manifest), fails=True)
    assert ".spec.access.tenant: field not declared in schema" in error

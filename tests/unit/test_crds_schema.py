"""The generator: what models become, and what it refuses to express."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

import crds
from crds.generator import MANIFESTS, differences, main, manifest_name, render_all
from crds.manifest import build_manifest
from crds.markers import Atomic, Immutable, ListMap, ListSet, Rule, Template, cel_text
from crds.meta import READY, Column, Definition, Resource, Status
from crds.model import Model
from crds.naming import api_name
from crds.network.security import SecurityGroupSpec
from crds.schema import InexpressibleError, Schema, SchemaBuilder

Word = Annotated[str, Field(max_length=10)]


def build(model: type[Model]) -> Schema:
    source = model.model_json_schema(by_alias=True)
    return SchemaBuilder(source.get("$defs", {})).build(source, "spec")


class Item(Model):
    """An item."""

    name: Word = Field(description="Its name.")
    size: int | None = Field(default=None, ge=1, description="Its size.")


class Full(Model):
    """All that can be said."""

    RULES: ClassVar = (Rule("self.word != ''", "word '{self.word}' must not be empty"),)

    word: Annotated[Word, Immutable("make another")] = Field(description="A word.")
    choice: Literal["One"] = Field(default="One", description="A choice.")
    items: Annotated[list[Item], Field(max_length=3), ListMap("name")] = Field(
        default_factory=list, description="Items."
    )
    words: Annotated[list[Word], Field(max_length=3), ListSet()] = Field(default_factory=list, description="Words.")
    labels: Annotated[dict[str, Word], Field(max_length=4)] = Field(default_factory=dict, description="Labels.")
    item: Item | None = Field(default=None, description="Described where it is used.")


def test_a_model_becomes_a_structural_schema() -> None:
    item = {
        "type": "object",
        "description": "An item.",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "maxLength": 10, "description": "Its name."},
            "size": {"type": "integer", "minimum": 1, "description": "Its size."},
        },
    }
    assert build(Full) == {
        "type": "object",
        "description": "All that can be said.",
        "required": ["word"],
        "properties": {
            "word": {"type": "string", "maxLength": 10, "description": "A word."},
            "choice": {"type": "string", "enum": ["One"], "default": "One", "description": "A choice."},
            "items": {
                "type": "array",
                "maxItems": 3,
                "description": "Items.",
                "items": item,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
            "words": {
                "type": "array",
                "maxItems": 3,
                "description": "Words.",
                "items": {"type": "string", "maxLength": 10},
                "x-kubernetes-list-type": "set",
            },
            "labels": {
                "type": "object",
                "maxProperties": 4,
                "description": "Labels.",
                "additionalProperties": {"type": "string", "maxLength": 10},
            },
            "item": {**item, "description": "Described where it is used."},
        },
        "x-kubernetes-validations": [
            {
                "rule": "has(self.word) == has(oldSelf.word) && (!has(self.word) || self.word == oldSelf.word)",
                "message": "word is immutable: make another",
                "fieldPath": ".word",
            },
            {"rule": "self.word != ''", "messageExpression": "\"word '%s' must not be empty\".format([self.word])"},
        ],
    }


def test_a_template_has_no_rules_about_changes() -> None:
    class Maker(Model):
        """Makes others."""

        template: Annotated[Full, Template()] = Field(description="What they are made from.")

    rules = build(Maker)["properties"]["template"]["x-kubernetes-validations"]
    assert [rule["rule"] for rule in rules] == ["self.word != ''"]


def test_messages_escape_what_format_would_read() -> None:
    assert cel_text('at most 50% of "{self}"') == r'"at most 50%% of \"%s\"".format([self])'


class NoLimitString(Model):
    """x"""

    field: str = Field(description="x")


class NoLimitList(Model):
    """x"""

    field: Annotated[list[Word], Atomic()] = Field(description="x")


class NoListType(Model):
    """x"""

    field: Annotated[list[Word], Field(max_length=3)] = Field(description="x")


class NoLimitMap(Model):
    """x"""

    field: dict[str, Word] = Field(description="x")


class NoDescription(Model):
    """x"""

    field: int


class Fraction(Model):
    """x"""

    field: float = Field(description="x")


class Union(Model):
    """x"""

    field: int | Word = Field(description="x")


class Exclusive(Model):
    """x"""

    field: int = Field(gt=0, description="x")


class Multiple(Model):
    """x"""

    field: int = Field(multiple_of=2, description="x")


class Pair(Model):
    """x"""

    field: tuple[int, int] = Field(description="x")


class Anything(Model):
    """x"""

    field: Any = Field(description="x")


class OptionalKey(Model):
    """x"""

    field: Annotated[list[Item], Field(max_length=3), ListMap("size")] = Field(description="x")


class SetOfObjects(Model):
    """x"""

    field: Annotated[list[Item], Field(max_length=3), ListSet()] = Field(description="x")


class Uncorrelated(Model):
    """x"""

    field: Annotated[list[Full], Field(max_length=3), Atomic()] = Field(description="x")


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (NoLimitString, "spec.field: a string must have a maxLength, an enum or a format"),
        (NoLimitList, "spec.field: a list must have a maximum number of items"),
        (NoListType, "spec.field: a list must be marked ListMap, ListSet or Atomic"),
        (NoLimitMap, "spec.field: a map must have a maximum number of keys"),
        (NoDescription, "spec.field: every field must have a description"),
        (Fraction, "spec.field: type number is none of"),
        (Union, "spec.field: a union: use a model with one optional field for each member"),
        (Exclusive, "spec.field: the apiserver does not take exclusiveMinimum"),
        (Multiple, "spec.field: the apiserver does not take multipleOf"),
        (Pair, "spec.field: the apiserver does not take prefixItems"),
        (Anything, "spec.field: type None is none of"),
        (OptionalKey, "spec.field: the list's key size must be a required field or have a default"),
        (SetOfObjects, "spec.field: a set must hold strings or integers"),
        (Uncorrelated, "spec.field[]: a rule with oldSelf needs lists above it to be maps with keys"),
    ],
)
def test_what_a_definition_cannot_express_is_refused_by_name(model: type[Model], problem: str) -> None:
    with pytest.raises(InexpressibleError) as refusal:
        build(model)
    assert str(refusal.value).startswith(problem)


def test_a_rule_without_a_message_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        Rule("true")  # type: ignore[call-arg]  # that is what is tested


class Thing(Resource):
    """A thing."""

    DEFINITION: ClassVar = Definition(
        group="test", plural="things", columns=(READY, Column("Lost", ".status.lost.name", "Not there."))
    )

    spec: Item = Field(description="What it is.")
    status: Status = Field(default_factory=Status, description="How it is.")


def test_a_column_must_show_a_field_that_is_there() -> None:
    with pytest.raises(InexpressibleError, match=r"Thing\.status\.lost\.name: there is no such field"):
        build_manifest(Thing)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("mac_address", "macAddress"),
        ("fixed_ips", "fixedIPs"),
        ("fixed_ip", "fixedIP"),
        ("remote_ip_prefix", "remoteIPPrefix"),
        ("segmentation_id", "segmentationID"),
        ("sha256", "sha256"),
        ("total_iops", "totalIOPS"),
        ("enable_snat", "enableSNAT"),
        ("dns_nameservers", "dnsNameservers"),
        ("floating_ips", "floatingIPs"),
        ("allowed_address_pairs", "allowedAddressPairs"),
        ("security_group_uids", "securityGroupUIDs"),
        ("dhcp_server_mac", "dhcpServerMAC"),
        ("hw_vif_model", "hwVifModel"),
        ("key_pair_refs", "keyPairRefs"),
        ("cpu_model", "cpuModel"),
        ("underlay_mtu", "underlayMTU"),
        ("mtu", "mtu"),
    ],
)
def test_names_are_the_contract_s(field: str, name: str) -> None:
    assert api_name(field) == name


def test_manifests_and_reference_are_up_to_date() -> None:
    assert differences(render_all()) == [], "run kumulus-crds"


def test_check_tells_what_is_not_up_to_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check"]) == 0
    monkeypatch.setattr("crds.generator.render_manifest", lambda kind: "something else")
    assert main(["--check"]) == 1
    assert "compute_instances.yaml is not up to date: run kumulus-crds" in capsys.readouterr().err


def test_every_kind_of_the_contract_is_there_under_its_short_name() -> None:
    names = {kind.__name__: kind.DEFINITION.short_names for kind in crds.KINDS}
    contract = {
        "Tenant": "ten", "Image": "img", "ImageStore": "", "Flavor": "fl", "Hypervisor": "hv",
        "HypervisorAllocation": "", "HostAggregate": "agg", "Instance": "inst", "InstanceSet": "instset",
        "KeyPair": "kp", "ServerGroup": "srvgrp", "InstanceAction": "", "InstanceMigration": "",
        "InstanceSnapshot": "", "Console": "", "Network": "net", "Subnet": "sub", "SubnetPool": "", "Port": "port",
        "Router": "rtr", "FloatingIP": "fip", "SecurityGroup": "secgroup", "QoSPolicy": "", "PhysicalNetwork": "",
        "IPAllocation": "", "MACAllocation": "", "Segment": "", "Volume": "vol", "VolumeBinding": "vb",
        "Snapshot": "snap", "VolumeBackup": "vbak", "VolumeType": "vt", "StorageBackend": "sb", "BackupTarget": "",
        "NodeInstance": "", "NetworkSlice": "", "SecurityGroupSlice": "",
    }  # fmt: skip
    assert names.keys() == contract.keys()
    for kind, short in contract.items():
        assert not short or short in names[kind], kind


# What kubectl api-resources of a plain cluster lists.
BUILT_IN = {
    "all", "cm", "cs", "ev", "ep", "limits", "ns", "no", "pvc", "pv", "po", "quota", "rc", "sa", "svc", "cr", "crd",
    "ds", "deploy", "rs", "sts", "hpa", "cj", "csr", "ing", "netpol", "pdb", "pc", "sc", "ip",
}  # fmt: skip


def test_no_name_of_a_kind_is_taken_twice() -> None:
    taken: list[str] = []
    for kind in crds.KINDS:
        definition = kind.DEFINITION
        # A short name may repeat the singular of its own kind.
        taken += {definition.plural, kind.__name__.lower(), *definition.short_names}
    assert len(taken) == len(set(taken))
    assert not BUILT_IN & set(taken)


def test_every_kind_has_its_file_and_shows_its_age() -> None:
    for kind in crds.KINDS:
        assert (MANIFESTS / manifest_name(kind)).is_file()
        columns = [column.name for column in kind.DEFINITION.columns]
        assert "Age" in columns


def test_a_model_reads_the_api_s_names_and_python_s_and_writes_the_api_s() -> None:
    by_alias = SecurityGroupSpec.model_validate({"rules": [{"name": "a", "direction": "Egress", "portRangeMin": 1}]})
    by_name = SecurityGroupSpec.model_validate({"rules": [{"name": "a", "direction": "Egress", "port_range_min": 1}]})
    assert by_alias == by_name
    assert by_name.to_dict() == {"rules": [{"name": "a", "direction": "Egress", "portRangeMin": 1}]}


def test_what_is_unset_is_absent_and_what_was_emptied_on_purpose_is_not() -> None:
    assert SecurityGroupSpec().to_dict() == {}
    assert SecurityGroupSpec(rules=[]).to_dict() == {"rules": []}


def test_unknown_fields_are_ignored_when_reading() -> None:
    assert SecurityGroupSpec.model_validate({"fromTheFuture": 1}).to_dict() == {}


def test_an_object_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected Thing of test\.kumulus\.dev/v1alpha1, got Other of v1"):
        Thing.model_validate({"apiVersion": "v1", "kind": "Other", "metadata": {"name": "x"}, "spec": {"name": "x"}})


def test_a_resource_knows_its_kind_and_leaves_out_what_nobody_set() -> None:
    thing = Thing.model_validate({"metadata": {"name": "x"}, "spec": {"name": "x"}})
    assert thing.to_dict() == {
        "apiVersion": "test.kumulus.dev/v1alpha1",
        "kind": "Thing",
        "metadata": {"name": "x"},
        "spec": {"name": "x"},
    }

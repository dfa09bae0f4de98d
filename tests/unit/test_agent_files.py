"""Files of the agent: durable writes, the ledger, console logs, records; options of the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from agent_objects import UID, work_object

from crds.node import NetworkSlice, NodeInstance, SecurityGroupSlice
from hostagent import durable
from hostagent.compute import console_log, lost_start, run_record
from hostagent.compute.orphans import is_guest
from hostagent.compute.run_record import RunRecord
from hostagent.errors import NodeError, Reason
from hostagent.layout import Layout, StateDirectoryInUse
from hostagent.ledger import Ledger
from hostagent.main import parser, settings_from
from hostagent.metadata import config_drive
from hostagent.settings import SettingsError, parse_physical_networks
from hostagent.work import WorkSource
from runtime.cache import Cache
from runtime.kind import kind_of


def test_what_was_half_written_is_removed_at_the_start(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    whole = layout.image("a" * 64)
    whole.touch()
    durable.partial(layout.image("b" * 64)).touch()
    removed = durable.partial(layout.instance(UID).directory)
    removed.mkdir()
    (removed / "root.qcow2").touch()
    layout.instance("kept").directory.mkdir()
    layout.prepare()
    assert list(layout.images.iterdir()) == [whole]
    assert layout.instance_uids() == ["kept"]
    assert layout.ledger.stat().st_mode & 0o777 == 0o700


def test_ledger_keeps_the_last_generation_and_writes_it_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    work = work_object()
    assert ledger.keep(work)
    assert not ledger.keep(work)
    newer = work_object(powerState="Stopped")
    newer.metadata.generation = 4
    assert ledger.keep(newer)
    (found,) = Ledger(tmp_path).load(NodeInstance)
    assert found == newer
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*.json"))
    ledger.keep_user_data(UID, b"secret")
    assert ledger.user_data(UID) == b"secret"
    ledger.forget(NodeInstance, UID)
    assert Ledger(tmp_path).load(NodeInstance) == []
    assert ledger.user_data(UID) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"\xff\xfe\x00", b"null"])
def test_a_damaged_ledger_file_is_left_out_and_named_until_it_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    ledger = Ledger(tmp_path)
    ledger.keep(work_object())
    (tmp_path / "instances/other.json").write_bytes(damage)
    ledger = Ledger(tmp_path)
    assert [found.metadata.name for found in ledger.load(NodeInstance)] == [UID]
    assert ledger.unreadable[NodeInstance] == {"other"}
    ledger.forget(NodeInstance, "other")
    assert ledger.unreadable[NodeInstance] == set()
    (tmp_path / f"instances/{UID}.json").write_bytes(damage)
    ledger = Ledger(tmp_path)
    assert ledger.load(NodeInstance) == []
    assert ledger.keep(work_object())
    assert ledger.unreadable[NodeInstance] == set()
    assert Ledger(tmp_path).load(NodeInstance) == [work_object()]


async def test_a_damaged_ledger_is_not_gone_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostagent.work.WAIT_FOR_API", 0.01)
    Ledger(tmp_path).keep(work_object())

    def source() -> WorkSource:
        kinds = (NodeInstance, NetworkSlice, SecurityGroupSlice)
        caches = [Cache(kind_of(each), each.model_validate, None, "n") for each in kinds]
        return WorkSource(Ledger(tmp_path), *caches)

    await source().wait_ready()  # the API does not answer, and the ledger is whole
    (tmp_path / "instances/other.json").write_text("{")
    damaged = source()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(damaged.wait_ready(), 0.2)
    # Its guest is looked at, so that the file goes when the API does not know it.
    assert damaged.uids() == {UID, "other"}
    await damaged.forget("other")
    assert damaged.uids() == {UID}


def test_one_agent_at_a_time_works_in_a_state_directory(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    with layout.held(), pytest.raises(StateDirectoryInUse, match="another host agent"), layout.held():
        pytest.fail("both hold it")
    with layout.held():
        assert (layout.state_dir / "agent.lock").stat().st_mode & 0o777 == 0o600


def test_run_record_survives_and_damage_does_not_say_that_there_was_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert run_record.load(path) == RunRecord()
    record = RunRecord(started=True, disk_made=True, restarts=2, last_start=5.0)
    run_record.save(path, record)
    assert run_record.load(path) == record
    for damaged in (json.dumps({"started": True}).encode(), b"", b"\xff\xfe", b"[]"):
        path.write_bytes(damaged)
        assert run_record.load(path) == RunRecord(disk_made=True)


def test_a_console_log_is_cut_under_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    console_log.prepare(path)
    with path.open("ab", buffering=0) as writer:
        writer.write(b"a" * 100)
        assert not console_log.cap(path, 100)
        writer.write(b"b" * 50)
        assert console_log.cap(path, 100)
        writer.write(b"c")
    assert path.read_bytes() == b"c"
    older = tmp_path / "console.log.1"
    assert older.read_bytes() == b"a" * 50 + b"b" * 50
    assert {entry.stat().st_mode & 0o777 for entry in (path, older)} == {0o600}


def test_what_is_kept_of_a_console_log_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"x" * 1000 + b"the end")
    assert console_log.cap(path, 7)
    assert (tmp_path / "console.log.1").read_bytes() == b"the end"
    assert not console_log.cap(tmp_path / "missing", 7)


def test_user_data_is_nobody_else_s_to_read_while_the_drive_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    monkeypatch.setattr(config_drive.durable, "publish", lambda made, target: modes.append(made.stat().st_mode & 0o777))
    monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    config_drive.make({"openstack/latest/user_data": b"secret"}, tmp_path / "drive.iso")
    assert modes == [0o600]


def test_a_drive_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_drive, "_PROGRAMS", (("sh", "-c", 'echo secret > "$2"; exit 1', "sh"),))
    with pytest.raises(NodeError) as raised:
        config_drive.make({"openstack/latest/user_data": b"secret"}, tmp_path / "drive.iso")
    assert raised.value.reason is Reason.CONFIG_DRIVE_FAILED
    assert list(tmp_path.iterdir()) == []


def test_config_drive_is_an_iso_with_nova_s_label(tmp_path: Path) -> None:
    target = tmp_path / "config-drive.iso"
    config_drive.make({"openstack/latest/meta_data.json": b"{}"}, target)
    content = target.read_bytes()
    # The primary volume descriptor is in sector 16, its volume identifier at offset 40 (ECMA-119, 8.4).
    assert content[16 * 2048 + 40 : 16 * 2048 + 72].decode().strip() == "config-2"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]
    listed = subprocess.run(["xorriso", "-indev", target, "-find"], capture_output=True, text=True, check=True).stdout
    assert "/openstack/latest/meta_data.json" in listed


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        (b"qemu-system-x86_64\0-name\0guest=x\0-uuid\0" + UID.encode() + b"\0-m\0" + b"96", True),
        (b"qemu-system-x86_64\0-uuid\0other\0", False),
        (b"grep\0" + UID.encode() + b"\0", False),
        (b"", False),
    ],
)
def test_orphans_are_known_by_their_uuid(cmdline: bytes, expected: bool) -> None:
    assert is_guest(cmdline, UID) is expected


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("<!-- x -->\n\n<domstatus state='paused' reason='starting up' pid='0'>\n", True),
        ("<domstatus state='paused' reason='starting up' pid='10'>", False),
        ("<domstatus state='running' pid='7'><vcpu id='0' pid='0'/>", False),
        ("", False),
    ],
)
def test_a_start_without_a_process_is_told_from_libvirt_s_note(note: str, expected: bool) -> None:
    assert lost_start.says_no_process(note) is expected


def test_libvirt_s_socket_is_told_by_its_uri() -> None:
    assert lost_start.socket_of("qemu:///system") == Path("/run/libvirt/libvirt-sock")
    assert lost_start.socket_of("qemu:///system?socket=/run/a/libvirt-sock&x=1") == Path("/run/a/libvirt-sock")


def test_physical_networks() -> None:
    assert parse_physical_networks("public=eth1, storage=eth2") == {"public": "eth1", "storage": "eth2"}
    assert parse_physical_networks("") == {}
    for bad in ("public", "=eth1", "public=", "a=eth1,a=eth2"):
        with pytest.raises(SettingsError):
            parse_physical_networks(bad)


def test_options_come_from_the_environment_and_are_checked() -> None:
    environment = {"KUMULUS_NODE_NAME": "n1", "KUMULUS_UNDERLAY_IP": "10.0.0.1", "KUMULUS_VIRT_TYPE": "qemu"}
    settings = settings_from(parser(environment).parse_args(["--reserved-memory", "2Gi"]))
    assert (settings.namespace, settings.virt_type, settings.reserved_memory) == ("kumulus-node-n1", "qemu", 2 << 30)
    for broken in ({}, {"KUMULUS_UNDERLAY_IP": "somewhere"}):
        with pytest.raises(SettingsError, match="underlay"):
            settings_from(parser(broken).parse_args([]))

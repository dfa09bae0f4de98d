"""The guest images boot for real: QEMU on a tap, dnsmasq and a metadata server, in a namespace of the test's own."""

import asyncio
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web
from pyroute2 import netns

from lab import guests

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces and taps"),
    pytest.mark.timeout(900),
]

EC2 = "/latest/meta-data/"
MAC = "fa:16:3e:00:00:0a"
ADDRESS = "10.77.0.10"
USER_DATA = "#!/bin/sh\necho told by user-data on $(hostname)\nexit 3\n"
UUID = "5a3c1b52-6f0e-4d57-9d0e-0123456789ab"


async def run(*argv: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


class Guest:
    """A running QEMU: its serial lines as they come, and its QMP socket."""

    def __init__(self, process: asyncio.subprocess.Process, qmp: Path) -> None:
        self.process = process
        self.qmp = qmp
        self.lines: list[str] = []
        self._grown = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for raw in self.process.stdout:
            self.lines.append(raw.decode(errors="replace").strip())
            self._grown.set()

    async def line(self, pattern: str, seconds: float = 240) -> re.Match[str]:
        """Wait for a serial line that matches; show the console when none comes."""
        seen = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._grown.clear()
                    for text in self.lines[seen:]:
                        seen += 1
                        if match := re.search(pattern, text):
                            return match
                    await self._grown.wait()
        except TimeoutError:
            pytest.fail(f"no line like {pattern!r} within {seconds} s; the console:\n" + "\n".join(self.lines[-60:]))

    def type(self, text: str) -> None:
        """Type a line on the serial console."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())

    async def execute(self, command: str) -> None:
        """Run one QMP command."""
        reader, writer = await asyncio.open_unix_connection(self.qmp)
        await reader.readline()
        for name in ("qmp_capabilities", command):
            writer.write(json.dumps({"execute": name}).encode() + b"\n")
            while "return" not in json.loads(await reader.readline()):
                pass  # events come between the answers
        writer.close()

    async def stopped(self, seconds: float = 120) -> int:
        """Wait until QEMU has ended, and return its exit status."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._reader


class World:
    """The namespace that the guests' network is in."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.key = folder / "key"
        self.public_key = ""
        self.requests: list[str] = []

    def inside(self, *argv: str | Path) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.name}", *(str(word) for word in argv)]

    def run(self, *argv: str | Path) -> str:
        return subprocess.run(self.inside(*argv), check=True, capture_output=True, text=True).stdout

    def socket_inside(self, make: Callable[[], socket.socket]) -> socket.socket:
        """Make a socket in the namespace: a thread can enter another one, and a socket stays where it was made."""
        made: list[socket.socket] = []

        def enter() -> None:
            netns.setns(self.name)
            made.append(make())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return made[0]

    def metadata(self) -> dict[str, object]:
        return {
            "uuid": UUID,
            "hostname": "web-1.example.org",
            "name": "web-1",
            "public_keys": {"laptop": self.public_key},
            "keys": [{"name": "laptop", "type": "ssh", "data": self.public_key}],
            "meta": {"role": "test"},
        }

    async def ssh(self, user: str, command: str, seconds: float = 120) -> str:
        """Log in with the test's key and run one command; connections are tried again until `seconds` are over."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"]
        argv = self.inside("ssh", "-i", self.key, *(f"-o{option}" for option in options), "-oConnectTimeout=20")
        async with asyncio.timeout(seconds):
            while True:
                process = await asyncio.create_subprocess_exec(
                    *argv, f"{user}@{ADDRESS}", command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
                output, errors = await process.communicate()
                if process.returncode != 255:
                    assert process.returncode == 0, errors.decode()
                    return output.decode()
                await asyncio.sleep(1)  # sshd of a booting guest refuses; nothing tells when it will not

    @asynccontextmanager
    async def guest(self, image: Path, memory_mib: int, *arguments: str) -> AsyncIterator[Guest]:
        """Boot an overlay of `image` with one NIC on the bridge."""
        overlay = self.folder / "overlay.qcow2"
        overlay.unlink(missing_ok=True)
        await run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, overlay, "3G")
        qmp = self.folder / "qmp"
        argv = self.inside(
            *("qemu-system-x86_64", "-accel", "tcg", "-m", str(memory_mib), "-nodefaults", "-display", "none"),
            *("-no-reboot", "-serial", "stdio", "-qmp", f"unix:{qmp},server=on,wait=off"),
            *("-drive", f"file={overlay},format=qcow2,if=none,id=root,cache=unsafe"),
            *("-device", "virtio-blk-pci,drive=root,serial=root-disk"),
            *("-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=net,mac={MAC}", "-device", "virtio-rng-pci", *arguments),
        )
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        guest = Guest(process, qmp)
        try:
            yield guest
        finally:
            await guest.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(f"kumulus-guest-{os.getpid()}", tmp_path)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "laptop", "-f", made.key], check=True)
    made.public_key = made.key.with_suffix(".pub").read_text().strip()
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    try:
        made.run("ip", "link", "set", "lo", "up")
        made.run("ip", "link", "add", "br0", "type", "bridge")
        made.run("ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
        made.run("ip", "addr", "add", "169.254.169.254/32", "dev", "br0")
        made.run("ip", "tuntap", "add", "tap0", "mode", "tap")
        made.run("ip", "link", "set", "tap0", "master", "br0", "up")
        made.run("ip", "link", "set", "br0", "up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", made.name], check=True)


@pytest.fixture
def dhcp(world: World) -> Iterator[None]:
    options = ["3,10.77.0.1", "26,1450", "6,10.77.0.1", "121,169.254.169.254/32,10.77.0.1,0.0.0.0/0,10.77.0.1"]
    argv = world.inside(
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=br0", "--bind-interfaces"),
        *("--dhcp-range=10.77.0.0,static,255.255.255.0,1h", f"--dhcp-host={MAC},{ADDRESS},from-dhcp"),
        f"--dhcp-leasefile={world.folder / 'leases'}",
        *(f"--dhcp-option-force={option}" for option in options),
    )
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def metadata(world: World) -> AsyncIterator[None]:
    """A metadata server as OpenStack's and EC2's trees have it, listening inside the world."""

    async def answer(request: web.Request) -> web.Response:
        world.requests.append(request.path)
        if request.path in ("/openstack", "/openstack/"):
            return web.Response(text="latest\n")
        if request.path == "/openstack/latest/meta_data.json":
            return web.json_response(world.metadata())
        if request.path == "/openstack/latest/user_data":
            return web.Response(text=USER_DATA)
        if request.path == "/openstack/latest/network_data.json":
            return web.json_response(
                {
                    "links": [{"id": "tap0", "type": "bridge", "ethernet_mac_address": MAC, "mtu": 1450}],
                    "networks": [{"id": "network0", "type": "ipv4_dhcp", "link": "tap0", "network_id": "n"}],
                    "services": [],
                }
            )
        # Without the listing, cloud-init asks for it again for five seconds.
        ec2 = {
            "": "hostname\ninstance-id\nlocal-ipv4",
            "instance-id": "i-00000001",
            "local-ipv4": ADDRESS,
            "hostname": "web-1",
        }
        if request.path.startswith(EC2) and request.path.removeprefix(EC2) in ec2:
            return web.Response(text=ec2[request.path.removeprefix(EC2)])
        return web.Response(status=404)

    listening = world.socket_inside(lambda: socket.create_server(("169.254.169.254", 80)))
    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture(scope="session")
def tiny() -> Path:
    return guests.build("tiny")


async def test_tiny_finds_its_network_metadata_and_key_and_obeys_the_power_button(
    tiny: Path, world: World, dhcp: None, metadata: None
) -> None:
    async with world.guest(tiny, 128) as guest:
        lease = await guest.line(r"KUMULUS-GUEST dhcp (\S+) ip=(\S+) gw=(\S+) mtu=(\d+) .*mac=(\S+) hostname=(\S*)")
        assert lease.groups() == ("eth0", f"{ADDRESS}/24", "10.77.0.1", "1450", MAC, "from-dhcp")
        told = await guest.line(r"KUMULUS-GUEST metadata source=(\S+) uuid=(\S+) hostname=(\S+) keys=(\d+)")
        assert told.groups() == ("http", UUID, "web-1.example.org", "1")
        disk = await guest.line(r"KUMULUS-GUEST disk vda size=(\d+) serial=(\S*)")
        assert disk.groups() == (str(3 << 30), "root-disk")
        ec2 = await guest.line(r"KUMULUS-GUEST ec2 instance-id=(\S+) local-ipv4=(\S+)")
        assert ec2.groups() == ("i-00000001", ADDRESS)
        await guest.line(r"KUMULUS-GUEST user-data: told by user-data on web-1$")
        await guest.line(r"KUMULUS-GUEST user-data-exit code=3$")
        await guest.line(r"KUMULUS-GUEST ready hostname=web-1 ")

        host_key = (await guest.line(r"KUMULUS-GUEST ssh port=22 hostkey=ssh-ed25519:(\S+)")).group(1)
        facts = await world.ssh("root", "hostname; ip route; cat /etc/resolv.conf; ip link show eth0")
        assert facts.startswith("web-1\n")
        assert "169.254.169.254 via 10.77.0.1" in facts
        assert "nameserver 10.77.0.1" in facts
        assert "mtu 1450" in facts
        assert host_key in world.run("ssh-keyscan", "-t", "ed25519", ADDRESS)

        await guest.execute("system_powerdown")
        await guest.line(r"KUMULUS-GUEST power-button action=poweroff")
        assert await guest.stopped() == 0


async def test_tiny_forges_and_counts_raw_frames(tiny: Path, world: World, dhcp: None, metadata: None) -> None:
    async with world.guest(tiny, 128) as guest:
        await guest.line(r"KUMULUS-GUEST ready ")
        frame = "fa163e0000ff" + "020000000001" + "88b5" + "4b756d756c7573".ljust(92, "0")
        # Every type of frame: a socket for one type sees nothing on the port of a bridge.
        packets = world.socket_inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        packets.bind(("tap0", 3))
        packets.setblocking(False)

        async def send_back() -> str:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(120):
                while (received := await loop.sock_recv(packets, 2048))[12:14] != b"\x88\xb5":
                    continue
            await loop.sock_sendall(packets, received[6:12] + received[:6] + received[12:])
            return received.hex()

        answering = asyncio.create_task(send_back())
        receive = "rawrecv eth0 5 88b5 >/run/seen & until grep -q listening /run/seen; do :; done"
        command = f"{receive}; rawsend eth0 {frame}; wait; cat /run/seen"
        output = await world.ssh("root", command)
        assert await answering == frame
        packets.close()
        assert "sent 1" in output
        assert "frame 60 " + "020000000001" + "fa163e0000ff" + frame[24:] in output
        assert output.endswith("frames 1\n")


@pytest.mark.parametrize(
    "device",
    [["-drive", "if=virtio,format=raw,readonly=on,file={iso}"], ["-drive", "if=ide,media=cdrom,format=raw,file={iso}"]],
    ids=["virtio-disk", "ide-cdrom"],
)
async def test_tiny_reads_a_config_drive_without_any_metadata_server(
    tiny: Path, world: World, dhcp: None, device: list[str]
) -> None:
    content = world.folder / "drive/openstack/latest"
    content.mkdir(parents=True)
    (content / "meta_data.json").write_text(json.dumps(world.metadata(), indent=2))
    (content / "user_data").write_text(USER_DATA)
    iso = world.folder / "config.iso"
    await run("genisoimage", "-quiet", "-r", "-J", "-V", "config-2", "-o", iso, world.folder / "drive")
    async with world.guest(tiny, 128, *(word.format(iso=iso) for word in device)) as guest:
        told = await guest.line(r"KUMULUS-GUEST metadata source=(\S+) uuid=(\S+) hostname=(\S+) keys=(\d+)")
        assert told.groups() == ("config-drive", UUID, "web-1.example.org", "1")
        await guest.line(r"KUMULUS-GUEST user-data: told by user-data on web-1$")
        assert await world.ssh("root", "hostname") == "web-1\n"


async def test_debian_gets_its_data_from_openstack_metadata_by_itself(world: World, dhcp: None, metadata: None) -> None:
    image = await asyncio.to_thread(guests.build, "debian")
    smbios = "type=1,manufacturer=Kumulus,product=OpenStack Nova"
    async with world.guest(image, 512, "-smbios", smbios) as guest:
        source = await guest.line(r"Cloud-init .* finished at .* Datasource (\S+)", seconds=600)
        assert source.group(1).startswith("DataSourceOpenStack")
        facts = await world.ssh("debian", "hostname; cat /var/log/cloud-init-output.log; df --output=size -k /")
        assert facts.startswith("web-1\n")
        assert "told by user-data on web-1" in facts
        assert int(facts.split()[-1]) > 2_500_000, "the root file system did not grow to the disk"
        assert await world.ssh("debian", "sudo cat /etc/machine-id") != "\n"
        await guest.execute("system_powerdown")
        assert await guest.stopped() == 0

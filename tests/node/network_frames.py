"""Ethernet frames made by hand, right ones and forged ones. RFC 791, 768, 826, 8200, 4443, 4861."""

from __future__ import annotations

import ipaddress
import socket
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    return (mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def tagged(frame: bytes, vlan: int) -> bytes:
    return frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:]


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data.ljust((len(data) + 1) // 2 * 2, b"\0")))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def arp(source: str, operation: int, sender: tuple[str, str], target: tuple[str, str], to: str = BROADCAST) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    for mac, ip in (sender, target):
        body += mac_bytes(mac) + socket.inet_aton(ip)
    return ethernet(source, to, 0x0806, body)


def ipv4(source: str, destination: str, protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    """`fragment`: the 16 bits of flags and offset."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 77, fragment, 64, protocol, 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    head = head[:10] + struct.pack("!H", checksum(head + addresses)) + addresses
    return head + payload


def udp(source_port: int, destination_port: int, payload: bytes = b"hello") -> bytes:
    """Without checksum, which UDP over IPv4 allows."""
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def udp4(mac: str, to: str, source: str, destination: str, source_port: int, port: int, payload: bytes) -> bytes:
    return ethernet(mac, to, 0x0800, ipv4(source, destination, 17, udp(source_port, port, payload)))


def ipv6(source: str, destination: str, next_header: int, payload: bytes, hops: int = 255) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), next_header, hops)
    return head + ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed + payload


def icmpv6(source: str, destination: str, kind: int, body: bytes) -> bytes:
    pseudo = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    pseudo += struct.pack("!II", 4 + len(body), 58)
    message = struct.pack("!BBH", kind, 0, 0) + body
    value = checksum(pseudo + message)
    return ipv6(source, destination, 58, message[:2] + struct.pack("!H", value) + body)


def neighbour_advertisement(source: str, destination: str, target: str, mac: str) -> bytes:
    body = struct.pack("!I", 0x20000000) + ipaddress.IPv6Address(target).packed + b"\x02\x01" + mac_bytes(mac)
    return icmpv6(source, destination, 136, body)


def router_advertisement(source: str) -> bytes:
    return icmpv6(source, "ff02::1", 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0))

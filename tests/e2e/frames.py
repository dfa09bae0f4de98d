"""Ethernet frames as hostile guests send them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

BROADCAST = "ff:ff:ff:ff:ff:ff"


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(source: str, destination: str, ethertype: int, payload: bytes) -> bytes:
    return mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", ethertype) + payload


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed

    def header(check: int) -> bytes:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, check) + addresses

    return header(checksum(header(0))) + payload


def udp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    # Checksum 0: none (RFC 768), which IPv4 allows.
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def arp_reply(sender_mac: str, sender_ip: str, target_mac: str, target_ip: str) -> bytes:
    """RFC 826, opcode 2."""
    sender = mac_bytes(sender_mac) + IPv4Address(sender_ip).packed
    target = mac_bytes(target_mac) + IPv4Address(target_ip).packed
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + sender + target

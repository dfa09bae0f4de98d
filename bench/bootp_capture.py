"""Prints "<epoch seconds> <MAC>" for each BOOTP request seen on any interface of this network namespace.

A program of its own, without imports of ours: it runs by its path inside a node's namespaces.
"""

import socket
import time

ETH_P_ALL = 0x0003


def is_bootp_request(frame: bytes) -> bool:
    """An Ethernet frame of IPv4 and UDP from port 68 to port 67 (RFC 2131)."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return False
    udp = 14 + (frame[14] & 0x0F) * 4
    return frame[udp : udp + 4] == b"\x00\x44\x00\x43"


def main() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as packets:
        while True:
            frame = packets.recv(2048)
            if is_bootp_request(frame):
                print(f"{time.time():.6f} {frame[6:12].hex(':')}", flush=True)


if __name__ == "__main__":
    main()

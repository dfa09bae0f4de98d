"""libnftables: transactions and listings in the namespace in which the handle was made."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable

import nftables

from hostagent.network.errors import DataPlaneError
from hostagent.network.nft_table import Table, parse

# The library is not made for several threads at once.
_lock = threading.Lock()


class Firewall:
    """A handle whose netlink socket belongs to the namespace that the calling thread is in."""

    def __init__(self) -> None:
        with _lock:
            self._nft = nftables.Nftables()

    def commit(self, commands: Iterable[str]) -> None:
        """All of it or nothing. Raises DataPlaneError with nft's message."""
        with _lock:
            self._nft.set_json_output(False)
            code, _, error = self._nft.cmd("\n".join(commands))
        if code != 0:
            raise DataPlaneError(f"nft refuses the rules: {error.strip()[:2000]}")

    def tables(self, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Table]:
        """The tables of these (family, name) that exist."""
        wanted = list(names)
        found: dict[tuple[str, str], Table] = {}
        for family, name in wanted:
            with _lock:
                self._nft.set_json_output(True)
                code, output, error = self._nft.cmd(f"list table {family} {name}")
            if code == 0:
                found |= parse(json.loads(output), [(family, name)])
            elif "No such file or directory" not in error:
                raise DataPlaneError(f"nft cannot list the table {family} {name}: {error.strip()[:2000]}")
        return found

    def has_element(self, family: str, table: str, collection: str, element: str) -> bool:
        """`element` in nft's syntax."""
        with _lock:
            self._nft.set_json_output(False)
            code, _, _ = self._nft.cmd(f"get element {family} {table} {collection} {{ {element} }}")
        return bool(code == 0)

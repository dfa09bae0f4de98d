"""What the scheduler decides on."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True)
class Amount:
    """Of a node's resources: virtual CPUs, bytes of memory, bytes of disk."""

    vcpus: int = 0
    memory: int = 0
    disk: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.vcpus + other.vcpus, self.memory + other.memory, self.disk + other.disk)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.vcpus - other.vcpus, self.memory - other.memory, self.disk - other.disk)

    def fits(self, room: Amount) -> bool:
        """Whether this much can be taken from `room`."""
        return self.vcpus <= room.vcpus and self.memory <= room.memory and self.disk <= room.disk


@dataclass(frozen=True)
class Request:
    """An instance that needs a node."""

    uid: str
    needs: Amount
    flavor: str = ""
    architecture: str | None = None
    """The image's, for example x86_64; None: any."""
    requested_node: str | None = None
    avoid: frozenset[str] = frozenset()
    """Nodes that it must not be on."""
    only: frozenset[str] | None = None
    """Nodes of which it must be on one; None: any."""


@dataclass(frozen=True)
class Ratios:
    """How many times over each resource of a node is given away (Nova's allocation ratios)."""

    vcpus: Fraction = Fraction(1)
    memory: Fraction = Fraction(1)
    disk: Fraction = Fraction(1)


@dataclass(frozen=True)
class Host:
    """A node as the scheduler sees it. `allocated` is what the record says is given, whoever runs."""

    name: str
    capacity: Amount
    allocated: Amount = Amount()
    ratios: Ratios = field(default=Ratios())
    enabled: bool = True
    up: bool = True
    architecture: str | None = None

    @property
    def limit(self) -> Amount:
        """The most that is given away, ratios counted in, cut to whole units."""
        return Amount(
            int(self.capacity.vcpus * self.ratios.vcpus),
            int(self.capacity.memory * self.ratios.memory),
            int(self.capacity.disk * self.ratios.disk),
        )

    @property
    def free(self) -> Amount:
        """What is left of the limit; below zero after a ratio was lowered or a node shrank."""
        return self.limit - self.allocated

"""What a guest is told about itself: the input of all metadata builders."""

from __future__ import annotations

from dataclasses import dataclass

from crds.node import NodeInstance


@dataclass(frozen=True)
class Guest:
    """A work object with its user-data resolved. `user_data` None: there is none."""

    work: NodeInstance
    user_data: bytes | None = None

    @property
    def uid(self) -> str:
        return self.work.spec.instance_ref.uid

    @property
    def hostname(self) -> str:
        """With the DNS domain of the first network that has one, as Nova does."""
        domain = next((port.network.dns_domain for port in self.work.spec.ports if port.network.dns_domain), None)
        host = self.work.spec.metadata.hostname
        return f"{host}.{domain.rstrip('.')}" if domain else host

    @property
    def availability_zone(self) -> str:
        return self.work.spec.metadata.availability_zone or "nova"

    @property
    def keys(self) -> dict[str, str]:
        """Public keys by name."""
        return {key.name: key.public_key.strip() for key in self.work.spec.metadata.keys}

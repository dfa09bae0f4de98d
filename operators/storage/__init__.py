"""Volumes, snapshots, backups and where they are kept. No controller of theirs is in this release."""

from operators.domain import Context, Domain
from operators.planned import storage_domain

__all__ = ["build"]


def build(context: Context) -> Domain:
    """The storage kinds' conditions say that nothing is made of them."""
    return storage_domain(context)

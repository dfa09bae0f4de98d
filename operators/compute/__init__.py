"""Compute: instances, where they go, and what they are made with."""

from operators.compute import flavors, hypervisors, keypairs
from operators.compute.instance.caches import Caches
from operators.compute.instance.controller import Instances
from operators.compute.liveness import Liveness
from operators.compute.sweep import Sweep
from operators.domain import Context, Domain

__all__ = ["build"]


def build(context: Context) -> Domain:
    """The controllers of Instance, Flavor, KeyPair and Hypervisor, and the tasks that read Leases and sweep."""
    caches = Caches(context)
    instances = Instances(context, caches)
    hypervisor, poll = hypervisors.controller(context, Liveness())
    sweep = Sweep(context.cluster, caches, context.now)
    return Domain(
        "compute",
        controllers=[instances.controller, hypervisor, flavors.controller(context), keypairs.controller(context)],
        tasks=[poll, sweep.run],
    )

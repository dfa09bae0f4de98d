"""What of a spec this release cannot do: told by the name of the field, before anything is built or disturbed."""

from __future__ import annotations

from collections.abc import Callable

from crds.compute import Instance, InstanceSpec
from crds.node import NodeInstance
from crds.vocabulary import PowerState
from operators.compute.instance.world import Problem, World, node_name
from operators.compute.reasons import Reason
from operators.verdict import stalled

POWER_STATES = (PowerState.RUNNING, PowerState.STOPPED)
IMAGE_ANNOTATION = "compute.kumulus.dev/image"
"""On a work object: `namespace/name` of the Image that the root disk was made from."""

_Check = tuple[str, Callable[[InstanceSpec], bool], str]

_CHECKS: tuple[_Check, ...] = (
    ("spec.volumes", lambda spec: bool(spec.volumes), "remove the volumes, and boot from an image with imageRef"),
    ("spec.rescue", lambda spec: spec.rescue is not None, "remove it"),
    ("spec.serverGroupRef", lambda spec: spec.server_group_ref is not None, "create the Instance without it"),
    ("spec.availabilityZone", lambda spec: spec.availability_zone is not None, "create the Instance without it"),
)


def unsupported_spec(instance: Instance) -> Problem | None:
    """The first field of the spec that cannot be realised, whatever state the instance is in."""
    spec = instance.spec
    for field, is_set, remedy in _CHECKS:
        if is_set(spec):
            return _not_supported(f"{field} is not supported by this release: {remedy}.")
    if spec.power_state not in POWER_STATES:
        return _not_supported(
            f"spec.powerState: {spec.power_state} is not supported by this release: set it to Running or Stopped."
        )
    return None


def unsupported_change(world: World, work: NodeInstance) -> Problem | None:
    """The first change to the spec that cannot be made to the guest that there is. The guest is left as it is."""
    spec, has = world.instance.spec, work.spec
    flavor = has.metadata.instance_type
    if flavor is not None and spec.flavor_ref.name != flavor:
        return _not_supported(
            f"spec.flavorRef: resizing is not supported by this release: set it back to {flavor},"
            " or create a new Instance."
        )
    image = work.metadata.annotations.get(IMAGE_ANNOTATION)
    if image is not None and world.image_key is not None and str(world.image_key) != image:
        return _not_supported(
            f"spec.imageRef: rebuilding is not supported by this release: set it back to {image},"
            " or create a new Instance."
        )
    cards = [card.entry.name for card in world.cards]
    if cards != [port.name for port in has.ports]:
        names = ", ".join(port.name for port in has.ports) or "none"
        return _not_supported(
            "spec.networks: adding, removing and reordering network cards is not supported by this release:"
            f" set them back to {names}, or create a new Instance."
        )
    node = node_name(work)
    if spec.requested_node not in (None, node):
        return _not_supported(
            f"spec.requestedNode: moving an instance is not supported by this release: set it back to {node},"
            " or remove it."
        )
    return None


def _not_supported(message: str) -> Problem:
    return Problem(stalled(Reason.NOT_SUPPORTED, message))

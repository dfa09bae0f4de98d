"""What must hold before an instance is built: small functions in a chain, each saying what is missing, or None."""

from __future__ import annotations

from collections.abc import Callable

from crds.compute import EffectiveFlavor, Flavor
from crds.image import Image, ImagePhase
from crds.quantity import Quantity, format_quantity
from operators.access import may_use
from operators.compute.flavor_plan import unsupported
from operators.compute.instance.support import unsupported_spec
from operators.compute.instance.world import Problem, World
from operators.compute.reasons import Reason
from operators.compute.sshkey import InvalidKey, parse_public_key
from operators.verdict import stalled, waiting

Check = Callable[[World], Problem | None]


def refusal(world: World) -> Problem | None:
    """Why nothing at all is made for the instance."""
    unsupported = unsupported_spec(world.instance)
    if unsupported is not None:
        return unsupported
    if world.disabled:
        return Problem(
            waiting(
                Reason.TENANT_DISABLED,
                f"Tenant {world.namespace} is disabled, so no instance is started: ask its administrator to enable it.",
            )
        )
    return None


def usable_flavor(world: World) -> Flavor | None:
    """The flavor, if it is there and the tenant may use it."""
    flavor = world.flavor
    return flavor if flavor is not None and may_use(flavor.spec.access, None, world.namespace) else None


def usable_image(world: World) -> Image | None:
    """The image, if it is there and the tenant may use it."""
    image = world.image
    if image is None or not may_use(image.spec.access, image.metadata.namespace, world.namespace):
        return None
    return image


def effective_flavor(flavor: Flavor, image: Image) -> EffectiveFlavor:
    """What an instance of the flavor is given; the size of its root disk may be the image's."""
    spec = flavor.spec
    return EffectiveFlavor(
        name=flavor.metadata.name,
        vcpus=spec.vcpus,
        memory=spec.memory,
        root_disk=spec.root_disk or image.status.virtual_size or Quantity(0),
    )


def flavor(world: World) -> Problem | None:
    name = world.instance.spec.flavor_ref.name
    found = usable_flavor(world)
    if found is None:
        return Problem(
            waiting(
                Reason.FLAVOR_NOT_FOUND,
                f"Flavor {name} does not exist or is not shared with tenant {world.namespace}:"
                " choose one of `kubectl get flavors`, or have it created or shared.",
            )
        )
    field = unsupported(found)
    if field is not None:
        return Problem(
            stalled(
                Reason.NOT_SUPPORTED,
                f"Flavor {name}: {field} is not supported by this release: choose a flavor without it.",
            )
        )
    return None


def image(world: World) -> Problem | None:
    key = world.image_key
    if key is None:
        return None  # it boots from a volume, which is told as not supported
    found = usable_image(world)
    if found is None:
        if key.namespace == world.namespace:
            return _wait(
                Reason.IMAGE_NOT_FOUND,
                f"Image {key.name} does not exist in namespace {key.namespace}: create it, or change spec.imageRef.",
            )
        return _wait(
            Reason.IMAGE_NOT_FOUND,
            f"Image {key} does not exist or is not shared with tenant {world.namespace}:"
            " ask its owner to share it, or change spec.imageRef.",
        )
    status = found.status
    if found.spec.deactivated or status.phase is ImagePhase.DEACTIVATED:
        return Problem(
            stalled(
                Reason.IMAGE_UNUSABLE,
                f"Image {key.name} is deactivated and makes no new instances: use another, or have it activated.",
            )
        )
    if status.phase is ImagePhase.ERROR:
        return Problem(
            stalled(
                Reason.IMAGE_UNUSABLE,
                f"Image {key.name} could not be imported: read its conditions, and create it anew.",
            )
        )
    if status.phase is not ImagePhase.ACTIVE or not (status.stored_sha256 and status.size and status.virtual_size):
        return _wait(
            Reason.IMAGE_NOT_ACTIVE, f"Image {key.name} is {status.phase}; the instance waits until it is Active."
        )
    return None


def flavor_fits_image(world: World) -> Problem | None:
    one, other = usable_flavor(world), usable_image(world)
    if one is None or other is None:
        return None
    size, name, disk = one.spec, other.metadata.name, one.spec.root_disk
    virtual = other.status.virtual_size
    for least, what in ((virtual, "the image's disk"), (other.spec.min_disk, "its minDisk")):
        if least and disk and disk < least:
            return _too_small(
                f"Flavor {one.metadata.name} has a root disk of {disk}, but image {name} needs {format_quantity(least)}"
                f" ({what}): choose a flavor with a larger rootDisk."
            )
    if other.spec.min_memory and size.memory < other.spec.min_memory:
        return _too_small(
            f"Flavor {one.metadata.name} has {size.memory} of memory, but image {name} needs {other.spec.min_memory}"
            " (its minMemory): choose a flavor with more memory."
        )
    return None


def key_pairs(world: World) -> Problem | None:
    for name, key_pair in world.key_pairs.items():
        if key_pair is None:
            return _wait(
                Reason.KEY_PAIR_NOT_FOUND,
                f"KeyPair {name} does not exist in namespace {world.namespace}: create it.",
            )
        try:
            parse_public_key(key_pair.spec.public_key)
        except InvalidKey as error:
            return Problem(
                stalled(
                    Reason.KEY_PAIR_INVALID,
                    f"KeyPair {name} is not usable: {error}. Delete it and create it with a valid key.",
                )
            )
    return None


def user_data(world: World) -> Problem | None:
    return world.user_data.problem if world.user_data is not None else None


CHECKS: tuple[Check, ...] = (flavor, image, flavor_fits_image, key_pairs, user_data)
"""In the order in which their messages are told."""
CHECKS_WITH_NODE: tuple[Check, ...] = (image, key_pairs, user_data)
"""Those that still matter once an instance has its node, and with it its size."""


def _wait(reason: Reason, message: str) -> Problem:
    return Problem(waiting(reason, message))


def _too_small(message: str) -> Problem:
    return Problem(stalled(Reason.FLAVOR_TOO_SMALL, message))

"""The two guest images of the lab, made from Debian packages: `tiny` (up in seconds) and `debian` (cloud-init, sshd).

`build(name)` returns the path of a qcow2 image, building it when the recipe has changed; `image_path(name)` only says
where it is. The images are read only by contract: guests run on overlays.
"""

from lab.guests.cache import GUESTS, build, image_path
from lab.guests.command import BuildError

__all__ = ["GUESTS", "BuildError", "build", "image_path"]

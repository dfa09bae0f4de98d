"""What happens on one node: guests, their network and images. Never decides for another node."""

from hostagent import lean_pyroute2 as lean_pyroute2

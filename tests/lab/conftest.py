"""A lab of these tests' own, since they kill its parts and tear it down."""

import os
from collections.abc import Iterator

import pytest

from lab import cluster
from lab.layout import Layout


@pytest.fixture(scope="session")
def lab() -> Iterator[Layout]:
    """Up, with two nodes."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    layout = Layout(f"test-{os.getpid()}")
    try:
        cluster.up(layout, nodes=2)
        yield layout
    finally:
        cluster.down(layout)

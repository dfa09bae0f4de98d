"""How the tests are dealt to workers (`pytest -n`): what shares a lab stays together, all else goes file by file."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# One lab each, for all tests of the folder.
SHARED_LABS = ("tests/e2e/", "tests/lab/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What takes longest, one after another, is begun first, lest all else wait for it in the end.
    items.sort(key=lambda item: not item.nodeid.startswith(SHARED_LABS))


class _Scheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in SHARED_LABS if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """See https://pytest-xdist.readthedocs.io/en/stable/how-to.html; `xdist_group` does not work with pytest 9.2."""
    return _Scheduling(config, log)

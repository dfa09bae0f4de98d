"""How the tests are dealt to workers (`pytest -n`): what shares a lab stays together, all else goes file by file."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# One lab each, for all tests of the folder.
WHOLE_FOLDERS = ("e2e", "lab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The end-to-end tests take longest, one after another: whoever starts them last waits for them.
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in WHOLE_FOLDERS)
    for item in items:
        parts = item.path.relative_to(TESTS).parts
        item.add_marker(pytest.mark.xdist_group(parts[0] if parts[0] in WHOLE_FOLDERS else "/".join(parts)))

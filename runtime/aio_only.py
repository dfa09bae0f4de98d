"""Imports `kubernetes.aio` without the rest of its package: imported before it, for its effect.

`kubernetes/__init__.py` imports the blocking client with requests, oauthlib and websocket, which nothing here uses:
8 MB in each process. kopf takes the blocking client's absence as it is meant to (kopf/_cogs/helpers/thirdparty.py).
"""

import importlib.util
import sys
import types


def _without_blocking_client() -> None:
    if "kubernetes" in sys.modules:
        return
    spec = importlib.util.find_spec("kubernetes")
    if spec is None or spec.submodule_search_locations is None:
        return  # not installed: the import that follows says so
    package = types.ModuleType("kubernetes")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["kubernetes"] = package
    # None makes `import kubernetes.client` an ImportError (https://docs.python.org/3/reference/import.html#the-module-cache).
    sys.modules["kubernetes.client"] = None  # type: ignore[assignment]  # as the import system defines it


_without_blocking_client()

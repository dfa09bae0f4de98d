"""Imports of pyroute2 without the parts that nobody asks for: imported first, for its effect.

`pyroute2/__init__.py` imports all of its 160 modules (a database of interfaces in SQLite among them), 5 MB more than
IPRoute needs. Here the package is entered without running that file; a name that is not in one of its modules runs it.
"""

import importlib
import importlib.util
import sys
import types
from typing import Any

_PACKAGE = "pyroute2"
_MODULES = {"IPRoute": "pyroute2.iproute.linux"}
"""What is asked of the package itself, and where it is defined."""


def _lean() -> None:
    if _PACKAGE in sys.modules:
        return
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.loader is None or spec.submodule_search_locations is None:
        return  # not installed: the import that follows says so
    loader = spec.loader
    package = types.ModuleType(_PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    package.__file__ = spec.origin

    def attribute(name: str) -> Any:
        if name in _MODULES:
            return getattr(importlib.import_module(_MODULES[name]), name)
        if name.startswith("__") or importlib.util.find_spec(f"{_PACKAGE}.{name}") is not None:
            raise AttributeError(name)  # of a module: the import system then imports it
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, name)

    package.__getattr__ = attribute  # type: ignore[method-assign]  # PEP 562
    sys.modules[_PACKAGE] = package


_lean()

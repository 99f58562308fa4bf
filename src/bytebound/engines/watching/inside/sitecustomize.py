"""Loaded by every Python of a watched command: starts the recorder, then gives way to the user's own sitecustomize.

The interpreter may be another than ours, without bytebound: the recorder is loaded from its files under a name of its own.
"""  # noqa: INP001 - a folder on PYTHONPATH, not a package

import contextlib
import importlib.machinery
import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib would be imported into every program


def _record() -> None:
    """Load the recorder's package and let it wait for torch."""
    folder = os.path.dirname(_HERE)  # noqa: PTH120
    file = os.path.join(folder, "__init__.py")  # noqa: PTH118
    spec = importlib.util.spec_from_file_location("_bytebound_watching", file, submodule_search_locations=[folder])
    if spec is not None and spec.loader is not None:
        package = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = package
        spec.loader.exec_module(package)
        importlib.import_module("_bytebound_watching.arrival").wait_for_torch()


def _give_way() -> None:
    """Leave the path as the user set it and run the sitecustomize that would have run without us."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        theirs = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = theirs
        spec.loader.exec_module(theirs)


if os.environ.get("BYTEBOUND_WATCH"):
    with contextlib.suppress(Exception):  # a watched program must run as if it were not
        _record()
_give_way()

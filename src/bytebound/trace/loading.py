"""Heavy packages imported without what only costs time: rounds of the garbage collector, and SciPy for one function of one loss."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SOLVERS = "scipy.optimize"


class _Later(ModuleType):
    """Stands for ``scipy.optimize`` until something of it is wanted.

    transformers imports one function of it with every model, for the losses of object detection; it takes a tenth of the time.
    """

    @staticmethod
    def linear_sum_assignment(*args: Any, **named: Any) -> Any:
        """As SciPy's, which is loaded at the first call."""
        return _real().linear_sum_assignment(*args, **named)

    def __getattr__(self, name: str) -> Any:
        """Anything else is SciPy's own at once."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(), name)


def _real() -> Any:
    if isinstance(sys.modules.get(SOLVERS), _Later):
        del sys.modules[SOLVERS]
    return import_module(SOLVERS)


@contextmanager
def loading() -> Iterator[None]:
    """Import faster while the context lasts; what is imported works as ever."""
    collecting = gc.isenabled()
    gc.disable()  # it would walk the packages' lasting objects again and again: a quarter of the time
    sys.modules.setdefault(SOLVERS, _Later(SOLVERS))
    try:
        yield
    finally:
        if isinstance(sys.modules.get(SOLVERS), _Later):
            del sys.modules[SOLVERS]
        if collecting:
            gc.enable()

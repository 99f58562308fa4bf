"""Which model a trial of a transformers folder runs, and the shallow copies of it that are probed first."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.engines.model_making import REAL_NAME, REAL_SHAPE, real_gguf
from bytebound.errors import DocumentError, RequestError, UnknownNameError
from bytebound.ledger.table import compile_table
from bytebound.models import read_model
from bytebound.prove.gguf_models import RANDOM, SHAPES
from bytebound.prove.quality import ALREADY_LOST
from bytebound.prove.remote import open_engine

if TYPE_CHECKING:
    from bytebound.documents.architecture import Architecture
    from bytebound.prove.trial import Bench

MAKER = "bytebound.engines.model_making"
SHALLOW, MIDDLE = 0.2, 0.5
"""Depths that are probed, as shares of the model's: the fewer layers, the more the ends count, so both are far apart."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A transformers folder: where, what it is called, what it describes, and whether it was trained."""

    path: Path
    name: str
    architecture: Architecture
    real: bool

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return int(compile_table(self.architecture).layers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its quality must know."""
        return (ALREADY_LOST,) if self.name == REAL_NAME else ()


def need(*packages: str) -> str:
    """Return the version of the first package, having made sure that all are installed.

    Raises:
        DocumentError: one is not.
    """
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise DocumentError(f"{name} is not installed", place=name, mend=f"pip install {name.replace('_', '-')}")
    return importlib.metadata.version(packages[0].replace("_", "-"))


def chosen(bench: Bench, layers: int = 0) -> Folder:
    """Return the user's folder, a random shape, or the real weights that a package carries (random ones without it).

    Args:
        bench: what to prove on.
        layers: keep so many at most; 0: all.

    Raises:
        UnknownNameError: no such shape. RequestError: no folder.
    """
    folder = _whole(bench)
    return _cut(bench, folder, layers) if 0 < layers < folder.layers else folder


def _whole(bench: Bench) -> Folder:
    asked = bench.model
    if asked and not asked.startswith(RANDOM):
        path = Path(asked)
        if not (path / "config.json").is_file():
            raise RequestError(
                "this engine runs a transformers folder",
                place=asked,
                mend="name a folder with config.json and safetensors",
            )
        return Folder(path, path.name, read_model(asked), real=True)
    if not asked:
        try:
            real_gguf()
        except DocumentError:
            return _random(bench, "smollm2-135m")
        return Folder(made(bench, "real", REAL_NAME), REAL_NAME, read_model(str(bench.folder / REAL_NAME)), real=True)
    return _random(bench, asked.removeprefix(RANDOM))


def _random(bench: Bench, name: str) -> Folder:
    shapes = {**SHAPES, "smollm2-135m": REAL_SHAPE}
    if name not in shapes:
        raise UnknownNameError("shape", name, shapes, place="--model", mend="or name a folder")
    path = made(bench, "random", f"random-{name}", **asdict(shapes[name]))
    return Folder(path, RANDOM + name, read_model(str(path)), real=False)


def shallower(bench: Bench, folder: Folder) -> tuple[tuple[int, Folder], tuple[int, Folder]]:
    """Return two copies with fewer layers, and how many.

    Raises:
        RequestError: the model has too few layers to leave some out.
    """
    first, second = (max(1, round(share * folder.layers)) for share in (SHALLOW, MIDDLE))
    if not first < second < folder.layers:
        raise RequestError(
            f"{folder.name} has {folder.layers} layers, too few to probe fewer",
            place="--model",
            mend="take a deeper model",
        )
    return (first, _cut(bench, folder, first)), (second, _cut(bench, folder, second))


def _cut(bench: Bench, folder: Folder, layers: int) -> Folder:
    path = made(bench, "cut", f"{folder.path.name}-{layers}-layers", source=str(folder.path), layers=layers)
    return Folder(path, f"{folder.name} of {layers} layers", read_model(str(path)), folder.real)


def made(bench: Bench, make: str, name: str, **arguments: Any) -> Path:
    """Return ``name`` in the bench's folder, made by ``engines.model_making`` in a process of its own if it is not there."""
    at = bench.folder / name
    if not at.exists():
        bench.say(f"making {name}")
        with open_engine(MAKER, {"make": make, "at": str(at), **arguments}, wait_s=600.0):
            pass
    return at

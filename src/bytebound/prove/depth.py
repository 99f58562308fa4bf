"""Predict a trial from shallow models of the same width on the same engine: what one layer costs, and what the rest does.

A step of a decoder repeats one layer, and around it are the embedding, the head and the engine's own work. Two depths tell both
apart, ``t(L) = a + b L`` (as in LLMCompass and other layer-wise models), so a third is foretold before it is ever run. Memory
grows by the bytes that the formats take. The depths of both sides take turns, so that one state of the machine is in all.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.architecture import Embedding
from bytebound.documents.values import Interval, Provenance
from bytebound.facts.formats import find_format
from bytebound.prove.remote import open_engine
from bytebound.prove.trial import Forecast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.documents.architecture import Architecture
    from bytebound.prove.remote import Remote, Turn
    from bytebound.prove.trial import Bench, Side, Timed

    Array = NDArray[Any]

ROUNDS, PROBE_S, LEAST = 10, 12.0, 4
"""Rounds at most, seconds for each metric after which no further round starts, and the rounds that are always run."""
BOOTSTRAPS, LEVEL = 1000, 0.8
KEEP_PAGES = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_TOP_PAD_": str(64 * 2**20),
}  # fmt: skip
"""Environment of engines whose own buffers come and go (CTranslate2, OpenVINO), on both sides: glibc then keeps freed memory. By default it may give the pages back after every product
and fetch them again, or not, by how the heap happens to lie: CTranslate2 took 28 ms or 20 ms of processor time for one step of one
model (int8, 15 layers 576 wide, 8 sequences) by that alone. PyTorch runs as
users run it: there the pages of widened weights are most of what int8 costs without a fused kernel. Source: mallopt(3)."""
MEMORY_SPREAD = 0.05
"""How far resident bytes may lie from the formats' own: heap the allocator keeps. Assumed."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One depth: its layers, both sides, and the bytes that the formats of each give its weights (0: not told)."""

    layers: int
    before: Side
    after: Side
    stored: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Known:
    """What probing found: seconds by metric, (probes, sides, rounds), and resident bytes (probes, sides)."""

    seconds: dict[str, Array]
    resident: Array


def by_depth(
    bench: Bench, probes: tuple[Probe, Probe], timed: Sequence[Timed], *, layers: int, stored: tuple[float, float] = (0.0, 0.0),
    engine: str,
) -> dict[str, Forecast]:  # fmt: skip
    """Return the forecasts of every timed metric, and of ``memory`` where ``stored`` is told.

    Args:
        bench: whom to tell.
        probes: two depths, the shallower first.
        timed: what the trial will time, run here at the same settings.
        layers: of the model to foretell.
        stored: bytes of its weights in the formats of both sides.
        engine: its name, for the record.

    Raises:
        ByteboundError: an engine could not be opened or died.
    """
    known = probed(bench, probes, timed)
    depths = (probes[0].layers, probes[1].layers)
    found = {
        metric.metric: Forecast(
            extrapolated(known.seconds[metric.metric] / np.array(metric.per)[:, None], depths, layers), "calibrated",
            (Provenance(f"{metric.metric} of {engine}", "calibrated", f"probes of {depths[0]} and {depths[1]} layers of this width, in turn"),),
        )
        for metric in timed
    }  # fmt: skip
    if stored[0] and known.resident.all():
        found["memory"] = grown(known.resident[1], probes[1].stored, stored)
    return found


def extrapolated(seconds: Array, depths: tuple[int, int], layers: int) -> Interval:
    """Return after over before at ``layers``, with an 80 % bootstrap interval over rounds.

    Args:
        seconds: (2 depths, 2 sides, rounds), each round's median.
        depths: the two depths.
        layers: to foretell.
    """
    rounds = seconds.shape[2]
    reach = (layers - depths[0]) / (depths[1] - depths[0])

    def ratio(taken: Array) -> Array:
        middle = np.median(taken, axis=-1)  # (2, 2, …)
        deep = middle[0] + reach * (middle[1] - middle[0])
        return np.asarray(deep[1] / deep[0])

    drawn = np.random.default_rng(0).integers(0, rounds, (BOOTSTRAPS, rounds))
    low, high = np.quantile(ratio(seconds[:, :, drawn]), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(ratio(seconds)), float(low), float(high), LEVEL)


def grown(resident: Array, probe: tuple[float, float], model: tuple[float, float]) -> Forecast:
    """Return the forecast of resident memory: a probe's, and the bytes by which the formats make the model larger.

    Args:
        resident: bytes both sides of a probe took.
        probe: bytes of its weights.
        model: bytes of the weights to foretell.
    """
    before, after = (float(seen) - small + large for seen, small, large in zip(resident, probe, model, strict=True))
    value = after / before
    source = Provenance(
        f"weights of {model[0] / 1e6:.0f} MB before and {model[1] / 1e6:.0f} MB after", "derived",
        "formats and shapes; what the engine holds beside them from a shallower model",
    )  # fmt: skip
    return Forecast(
        Interval(value, value * (1 - MEMORY_SPREAD), value * (1 + MEMORY_SPREAD), LEVEL), "formula", (source,)
    )


def probed(bench: Bench, probes: tuple[Probe, ...], timed: Sequence[Timed]) -> Known:
    """Open every depth of both sides at once and let them take turns."""
    with ExitStack() as stack:
        engines = [
            [stack.enter_context(open_engine(side.adapter, side.settings, environment=side.environment))[0] for side in (probe.before, probe.after)]
            for probe in probes
        ]  # fmt: skip
        seconds = {metric.metric: _turns(bench, engines, metric) for metric in timed}
        resident = np.array([[engine.ask("memory").get("resident", 0.0) for engine in depth] for depth in engines])
    return Known(seconds, resident)


def _turns(bench: Bench, engines: list[list[Remote]], metric: Timed) -> Array:
    """Return each round's median seconds, (depths, sides, rounds)."""
    ways = ((metric.what, metric.before), (metric.what_after or metric.what, metric.after))
    if metric.prepare is not None:
        for depth in engines:
            for engine in depth:
                engine.ask("prepare", **metric.prepare)
    found: list[list[list[float]]] = []
    start = time.perf_counter()
    while len(found) < ROUNDS and (len(found) < LEAST or time.perf_counter() - start < PROBE_S):
        bench.say(f"probing {metric.metric}, round {len(found) + 1}")
        found.append([
            [float(np.median(rested(engine, metric, what, given).seconds)) for engine, (what, given) in zip(depth, ways, strict=True)]
            for depth in engines
        ])  # fmt: skip
    return np.moveaxis(np.array(found), 0, -1)


def rested(engine: Remote, metric: Timed, what: str, given: dict[str, Any]) -> Turn:
    """Return one engine's turn, after the rest that the metric asks for."""
    time.sleep(metric.rest_s)
    return engine.time(what, given, skip=metric.skip, times=metric.times)


def stored_bytes(
    architecture: Architecture, layers: str, *, embedding: str, head: str = "", vectors: str = "fp32"
) -> float:
    """Return the bytes of all weights of a decoder with each kind in a format.

    Args:
        architecture: the model.
        layers: format of the matrices in layers.
        embedding: of the embedding.
        head: of the head; empty: it is tied to the embedding, or as that is.
        vectors: of norms and biases.
    """
    total = 0.0
    for block in architecture.main.blocks:
        for op in block.operators:
            for tensor in op.tensors():
                ends = isinstance(op, Embedding) or op.role == "head"
                if tensor.tied and not head:
                    continue
                kind = vectors if len(tensor.shape) < 2 else layers
                if ends and len(tensor.shape) > 1:
                    kind = (head or embedding) if op.role == "head" else embedding
                total += find_format(kind).tensor_bytes(tensor.shape) * tensor.copies * block.repeat
    return total

"""Read the records that the processes of a watched run left behind."""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.observation import Spread
from bytebound.documents.trace import Held
from bytebound.documents.watched import WatchedModel, WatchedOptimizer, WatchedPeak, WatchedRank

if TYPE_CHECKING:
    from pathlib import Path

KEPT = 1000
"""Step times kept in the document."""

Line = dict[str, Any]


def read_records(folder: Path) -> tuple[WatchedRank, ...]:
    """Return every process in ``folder`` that took an optimizer step, by rank.

    A line that a killed process left half written is left out.
    """
    found = [read_rank(lines_of(file.read_bytes())) for file in sorted(folder.glob("*.jsonl"))]
    return tuple(sorted((rank for rank in found if rank is not None), key=lambda rank: (rank.rank, rank.pid)))


def lines_of(content: bytes) -> list[Line]:
    """Return the whole lines of a record."""
    found = []
    for line in content.split(b"\n"):
        try:
            value = json.loads(line) if line.strip() else None
        except ValueError:
            continue
        if isinstance(value, dict) and "what" in value:
            found.append(value)
    return found


def read_rank(lines: list[Line]) -> WatchedRank | None:
    """Return one process; None where it took no step."""

    def last(what: str) -> Line:
        return next((line for line in reversed(lines) if line["what"] == what), {})

    steps = [line for line in lines if line["what"] == "step"]
    start, model, states, end = (last(what) for what in ("start", "model", "states", "end"))
    if not (start and steps):
        return None
    timed = [line for line in steps if line["kind"] == "timed"]
    seconds = [line["seconds"] for line in timed]
    fed = [line for line in steps if line["samples"]]
    ranks = [line for line in (*steps, end) if line]
    shape: list[Any] = next(iter(steps[-1]["inputs"].values()), []) if steps[-1]["tokens"] else []
    return WatchedRank(
        rank=start["rank"], world=start["world"], pid=start["pid"], device=model["device"], device_name=model["device_name"],
        threads=start["threads"], versions={name: start[name] for name in ("python", "torch", "transformers") if start[name]},
        model=_model(model), optimizers=tuple(WatchedOptimizer(**optimizer) for optimizer in model["optimizers"]),
        steps=steps[-1]["number"], timed=spread_of(seconds), samples=_middle(fed, "samples"), tokens=_middle(fed, "tokens"),
        seq=float(shape[1]) if shape else 0.0, microbatches=_middle(steps, "micro"), autocast=states.get("autocast", ""),
        states=_held(states) if states else None, elsewhere_bytes=states.get("elsewhere", 0), peak=_peak(lines),
        max_allocated_bytes=_most(ranks, "max_allocated_bytes"), max_reserved_bytes=_most(ranks, "max_reserved_bytes"),
        rss_bytes=_most(ranks, "rss_bytes") or 0.0,
        recording_share=sum(line["own_s"] for line in timed) / sum(seconds) if seconds else 0.0,
        inputs=next((line["inputs"] for line in reversed(fed)), {}), seconds=tuple(seconds[:KEPT]), finished=bool(end),
        troubles=tuple(line["why"] for line in lines if line["what"] == "trouble"),
    )  # fmt: skip


def spread_of(seconds: list[float]) -> Spread | None:
    """Return the spread of step times; None where there are none."""
    if not seconds:
        return None
    p10, p50, p90 = (float(value) for value in np.percentile(seconds, (10, 50, 90)))
    return Spread(best=min(seconds), median=p50, p10=p10, p90=p90, samples=len(seconds))


def _middle(lines: list[Line], key: str) -> float:
    return float(median(line[key] for line in lines)) if lines else 0.0


def _most(lines: list[Line], key: str) -> float | None:
    return max((float(line[key]) for line in lines if key in line), default=None)


def _held(line: Line) -> Held:
    return Held(**{name: float(line.get(name, 0)) for name in Held.__dataclass_fields__})


def _peak(lines: list[Line]) -> WatchedPeak | None:
    """Return the fullest closely seen step, or failing that the one that led to it."""
    peaks = [line for line in lines if line["what"] == "peak"]
    peaks = [line for line in peaks if not line["lead"]] or peaks
    if not peaks:
        return None
    line = max(peaks, key=lambda line: _held(line).total)
    held = _held(line)
    other = None if line["total"] is None else max(line["total"] - held.total, 0.0)
    return WatchedPeak(line["number"], line["phase"], held, float(line["after_forward"]), other, lead=line["lead"])


def _model(line: Line) -> WatchedModel | None:
    if "model" not in line:
        return None
    return WatchedModel(
        name=line["model"], parameters=line["parameters"], trainable=line["trainable"], frozen=line["frozen"],
        wrappers=tuple(line["wrappers"]), compiled=line["compiled"], checkpointing=line["checkpointing"],
        attention=line.get("attention", ""), source=line.get("name", ""), adapters=line.get("adapters", {}),
        config=line.get("config", {}),
    )  # fmt: skip

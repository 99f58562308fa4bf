"""Training runs predicted beside published ones, peers beside both: makes docs/accuracy-training.md.

    python validation/training_accuracy.py --truth FOLDER --out docs/accuracy-training.md

FOLDER holds the public layout of training runs (``truth.training.FILES``); without it the rows that ship are taken. Peers' answers
come from validation/training_peers.csv (``python validation/training_peers.py`` asks them again). Two minutes on two cores: one
refit per publication.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.ledger.training_plan import resolve
from bytebound.predict.train_memory import bounds, chance_of_fitting
from bytebound.predict.training import train_time
from bytebound.report.training_validation import share, table, training_validation_markdown
from bytebound.truth.training import FILES, read_any_training, shipped_training_truth
from bytebound.validate.training import MEMORY, alike, one_per_run, refusal, validate_training
from bytebound.validate.training_left_out import left_out_times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.documents.train_truth import TrainTruth
    from bytebound.documents.training_validation import TrainingValidation

HERE = Path(__file__).parent
GIB = 2.0**30
NEAR = 0.85
"""Share of the usable bytes from which on a run that fitted is listed beside those that did not."""
CALCULON = (
    "Calculon is not on PyPI (the package of that name is a queue of producers and consumers), so it could not be asked. Its own "
    "validation command (`calculon llm-validation`, commit caa4b11) gives a mean error of 3.7 % and at most 8.9 % for the eight step "
    "times of Korthikanti et al. 2022, table 5, with efficiencies its authors measured on that machine."
)


def main(argv: list[str] | None = None) -> int:
    """Run both protocols and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "accuracy-training.md")
    given = parser.parse_args(argv)
    rows, unread = read_any_training(given.truth) if given.truth else (shipped_training_truth(), Counter[str]())
    left = left_out_times(rows, tell=lambda word: print(word, file=sys.stderr))
    seen = validate_training(rows, unread)
    names = tuple(name for name in FILES if (given.truth / name).is_file()) if given.truth else ("the shipped table",)
    unseen = replace(validate_training(rows, unread, protocol="leave-one-source-out", left_out=left), truth=names)
    given.out.write_text(page(rows, seen, unseen), encoding="utf-8")
    return 0


def page(rows: Sequence[TrainTruth], seen: TrainingValidation, unseen: TrainingValidation) -> str:
    """Return the page: the report of ``validate --training``, with what the fit had not seen, margins, peers and the shipped rows."""
    head, *sections = training_validation_markdown(unseen).split("\n\n## ")
    of = {section.split("\n", 1)[0]: f"## {section}".rstrip() for section in sections}
    parts = [
        head.strip(), of["Weak spots"], WHAT, times(seen, unseen), memory(seen), of["Does it fit?"], margins(rows), peers(rows, unseen),
        shipped(), of["How this was made"], REPRODUCE, ASSUMED, *(of[name] for name in DETAILS if name in of),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


DETAILS = (
    "Step time by device", "Step time by framework", "Step time by precision", "The rows furthest off", "What cannot be expressed",
)  # fmt: skip
"""Sections of the report that the page takes as they are."""

WHAT = """## What is compared

A run counts once: rates and utilisations become the seconds of its step, under the FLOP convention of their publication.
Step times are predicted by a fit that had seen no row of the run's publication (`leave-one-source-out`), and their 80 % intervals come
from the left-out errors of the other publications.
Memory has no fit: it is a sum of what the code holds, from traces and source code. The few constants that runs told us are named under
what is assumed.
Three numbers of memory differ: *allocated* is the peak of `torch.cuda.max_memory_allocated`, *reserved* adds what the allocator keeps,
and *the driver's* is what `nvidia-smi` shows."""

REPRODUCE = """```sh
python validation/training_accuracy.py --truth FOLDER   # this page; FOLDER holds the public tables, without it the rows that ship
bytebound validate --training                           # the rows that ship, without network
bytebound validate --training --protocol leave-one-source-out
bytebound validate --training --truth mine.csv          # your own runs, in the layout of truth.md
```"""

ASSUMED = """## What is assumed

- Most publications leave something out; what we filled in stands beside each row (`uncertain` in the shipped table).
- Megatron-Bridge's performance tables state no recomputation: none is assumed.
- litgpt's runs are taken at their longest sample (512 tokens), with the ranks, targets and batches of today's configuration files.
- litgpt's 4-bit runs keep inputs of 4 bytes per value. That figure alone is told from its runs (4-bit against 16-bit ones); the rest is
  traced from its code.
- What the driver shows of DeepSpeed runs over what they allocate (1.17 times, and 3 GB) is told from BLOOM's readings, and that FSDP's loss
  holds the 16-bit logits too from torchtitan's published peaks.
- `selective` recomputation drops attention scores, as Megatron's does. torchtitan's, which keeps every second product, has no word in a
  request: asked as `selective`, its memory comes out far too high.
- Widths of allocated memory are in `facts/data/training_reserves.csv`: those of Megatron, DeepSpeed and litgpt come from the errors shown
  here, so their coverage is not a test; 8-bit formats are as wide as five runs of Megatron-Bridge are wrong; what no row shows (fsdp, jax)
  is assumed and wider.
- Megatron-Bridge's memory (13 % over) is what one rank logs. Which rank is not stated, and the page says that rank 0 ran out of 80 GB where
  58.8 are printed; ours is of the fullest.
- The V100 runs' readings of `nvidia-smi` differ by a quarter for one plan (26 to 32 GB, on cards of 32). We say 28 GiB where DeepSpeed drove
  the run, and 21 for the one it did not drive, which read 32.
- A run is said to fit where the high end of its interval fits: nine chances in ten, for running out of memory costs more than a device
  left half empty. `probability_fits` of the estimate says how sure that is."""


def times(seen: TrainingValidation, unseen: TrainingValidation) -> str:
    """Return step times by publication, left out and seen."""
    kinds = {id(v): {(s.by, s.name): s for s in v.groups if s.kind == "step_s"} for v in (seen, unseen)}
    lines, medians = [], []
    for (by, name), out in kinds[id(unseen)].items():
        if by not in {"source", "all"}:
            continue
        own = kinds[id(seen)][by, name]
        if by == "source":
            medians.append(out.median_error)
        cells = (
            share(out.median_error), share(out.mean_error), share(out.p90_error), share(out.bias, signed=True), share(out.coverage),
            share(own.median_error), share(own.coverage),
        )  # fmt: skip
        lines.append((_safe(name) if name else "**all rows**", str(out.rows), *cells))
    lines.sort(key=lambda cells: (cells[0].startswith("**"), -int(cells[1])))
    lines.append(("**median of the publications' medians**", "", share(float(np.median(medians))), *[""] * 6))
    heads = (
        "publication",
        "rows",
        "median",
        "mean",
        "90 %",
        "bias",
        "intervals hold",
        "seen: median",
        "seen: intervals hold",
    )
    return "## Step time, publication by publication\n\n" + table(heads, lines)


def memory(found: TrainingValidation) -> str:
    """Return memory by publication, for each of the three numbers."""
    lines = []
    for kind, name in zip(MEMORY, ("allocated", "reserved", "the driver's"), strict=True):
        for score in sorted(found.groups, key=lambda score: score.by == "all"):
            if score.kind == kind and score.by in {"source", "all"}:
                cells = (
                    share(score.median_error), share(score.mean_error), share(score.p90_error), share(score.bias, signed=True),
                    share(score.coverage),
                )  # fmt: skip
                lines.append((name, _safe(score.name) if score.name else "**all rows**", str(score.rows), *cells))
    heads = ("memory", "publication", "rows", "median", "mean", "90 %", "bias", "intervals hold")
    return "## Memory, publication by publication\n\n" + table(heads, lines)


@dataclass(frozen=True, slots=True)
class Margin:
    """One run that fitted or did not, and how near to the device we say it comes."""

    row: TrainTruth
    total_bytes: float
    high_bytes: float
    usable_bytes: float
    chance: float


def margins_of(rows: Sequence[TrainTruth]) -> list[Margin]:
    """Return the margins of all rows of ``fits``, tightest last."""
    asked = [row for row in one_per_run(rows) if row.metric == "fits" and not refusal(row)]
    found: list[Margin] = []
    for setting, work, where in alike(asked):
        timed = train_time(setting, resolve(work, setting.table))
        laid = [
            np.broadcast_to(x, len(where))
            for x in (timed.total_bytes, bounds(timed)[1], timed.usable_bytes, chance_of_fitting(timed))
        ]
        found += [Margin(asked[at], *(float(x[i]) for x in laid)) for i, at in enumerate(where)]
    return sorted(found, key=lambda m: -m.total_bytes / m.usable_bytes)


def margins(rows: Sequence[TrainTruth]) -> str:
    """Return every run that ran out of memory, and the runs that fitted narrowly."""
    lines = [
        (
            _safe(m.row.model), m.row.source, m.row.device, "fitted" if m.row.value else "**ran out**", f"{m.total_bytes / GIB:.1f}",
            f"{m.high_bytes / GIB:.1f}", f"{m.usable_bytes / GIB:.1f}", f"{m.total_bytes / m.usable_bytes:.2f}", f"{m.chance:.2f}",
            "fits" if m.high_bytes <= m.usable_bytes else "does not",
        )
        for m in margins_of(rows) if not m.row.value or m.total_bytes > NEAR * m.usable_bytes
    ]  # fmt: skip
    heads = (
        "model",
        "publication",
        "device",
        "measured",
        "predicted, GiB",
        "high end",
        "usable",
        "ratio",
        "chance",
        "we say it",
    )
    text = (
        f"Every run that ran out of memory, and those that fitted above {NEAR:.0%} of the device by our prediction. "
        "*Ratio* is predicted over usable."
    )
    return "\n\n".join(["### How near", text.replace("%", " %"), table(heads, lines)])


def answered() -> list[dict[str, str]]:
    """Return what peers said, one line per run and peer."""
    with (HERE / "training_peers.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def peers(rows: Sequence[TrainTruth], unseen: TrainingValidation) -> str:
    """Return peers' errors beside ours on the runs each answers, by publication."""
    p = unseen.points
    run_of = {row.id: row.run for row in rows}
    ours = {
        (run_of[i], kind): (measured, predicted)
        for i, kind, measured, predicted in zip(p.id, p.kind, p.measured, p.predicted, strict=True)
    }
    lines: list[tuple[str, ...]] = []
    said = answered()
    for kind, column, what in (
        ("step_s", "step_s", "step time"),
        ("allocated_bytes", "allocated_bytes", "allocated memory"),
    ):
        for peer in dict.fromkeys(a["peer"] for a in said):
            mine = [a for a in said if a["peer"] == peer and a[column] and (a["run"], kind) in ours]
            sizes = Counter(a["source"] for a in mine)
            groups = [(name, [a for a in mine if a["source"] == name]) for name, _ in sizes.most_common()]
            if len(groups) > 1:
                groups.append(("**all it answers**", mine))
            for name, here in groups:
                measured = np.array([ours[a["run"], kind][0] for a in here])
                theirs = np.array([float(a[column]) for a in here]) / measured - 1
                own = np.array([ours[a["run"], kind][1] for a in here]) / measured - 1
                lines.append(
                    (what, f"{peer} {here[0]['version']}", _safe(name), str(len(here)), *figures(theirs), *figures(own))
                )
    heads = (
        "what",
        "peer",
        "publication",
        "runs",
        "its median",
        "its mean",
        "its bias",
        "our median",
        "our mean",
        "our bias",
    )
    failed = Counter(a["peer"] for a in said if a["reason"])
    notes = [
        (
            "The same runs, the peer's own answer and ours. Ours of a step time had seen no row of the publication. llm-analysis takes "
            "one efficiency from the user, 0.5 as in its README. The Megatron formula is `theoretical_memory_usage.py` (commit d98e8a6), "
            "asked of Megatron runs without full recomputation. accelerate prints the largest of four parts without activations, for "
            "one device. SimuMax is what its authors published beside each run, with kernels timed on that machine first. "
            "A question out of a peer's scope is not asked."
        ),
        CALCULON + korthikanti(unseen),
    ]
    notes += [f"{peer} failed on {count} runs." for peer, count in failed.items()]
    return "\n\n".join(["## Beside peers", *notes, table(heads, lines)])


def korthikanti(unseen: TrainingValidation) -> str:
    """Return our figures on the runs Calculon validates itself on, as a sentence."""
    for score in unseen.groups:
        if (score.by, score.name, score.kind) == ("source", "korthikanti-2022", "step_s"):
            return f" Ours, without any row of that paper: mean {share(score.mean_error)}, {score.rows} rows."
    return ""


def figures(error: NDArray[np.float64]) -> tuple[str, str, str]:
    """Return median and mean without sign, and the median with it."""
    size = np.abs(error)
    return share(float(np.median(size))), share(float(size.mean())), share(float(np.median(error)), signed=True)


def shipped() -> str:
    """Return memory and outcomes of the rows that ship, which tests compare with this page."""
    found = validate_training(shipped_training_truth(), by=("source",))
    o = found.outcomes
    text = (
        f"`bytebound validate --training` has {found.rows} rows of {len(set(found.points.source))} publications without any file. "
        f"Of the {o.oom_said_fits + o.oom_said_oom} that ran out of memory {o.oom_said_fits} are said to fit, of the "
        f"{o.ran_said_fits + o.ran_said_oom} that fitted {o.ran_said_oom} are said not to."
    )
    return "\n\n".join(["## The rows that ship", text, memory(found).split("\n\n", 1)[1]])


def _safe(name: str) -> str:
    return name.replace("_", r"\_")


if __name__ == "__main__":
    sys.exit(main())

"""Every protocol of ``bytebound validate`` over the same rows, and peers beside it: makes docs/accuracy.md.

    python validation/accuracy.py --truth rows.csv [...] [--silicon] --out docs/accuracy.md

Rows of aiconfigurator's sample that a corpus file repeats are taken from the sample. Peers' answers come from
validation/peers.csv (``python validation/peers.py --out validation/peers.csv`` asks them again). Takes some ten minutes on two
cores: a hundred refits.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.validation import PROTOCOLS, Validation
from bytebound.fitting.fit import contradicts, design
from bytebound.fitting.refit import columns_of, leave_out, refit
from bytebound.report.validation_markdown import validation_markdown
from bytebound.truth import read_any, read_silicon
from bytebound.truth.silicon import SOURCE, run_of
from bytebound.validate.run import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.truth import Truth
    from bytebound.truth.readings import Unexpressed

HERE = Path(__file__).parent
PUBLISHED = "leave-one-model-out"
"""The protocol the page shows group by group."""
SINGLE = ("decode_tokens_per_s", "tpot_s")
LARGE = 50


def main(argv: list[str] | None = None) -> int:
    """Run every protocol and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--truth", nargs="*", type=Path, default=[])
    parser.add_argument("--silicon", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "accuracy.md")
    parser.add_argument("--one-run", type=Path, help="text of validation/one_run.py to quote")
    given = parser.parse_args(argv)
    readings = [read_any(path) for path in given.truth]
    rows = [row for reading in readings for row in reading.rows]
    unexpressed = [row for reading in readings for row in reading.unexpressed]
    names = [path.name for path in given.truth]
    if given.silicon:
        sample = read_silicon()
        rows = [row for row in rows if row.source != SOURCE] + list(sample.rows)
        unexpressed += sample.unexpressed
        names.append("aiconfigurator-core")
    newest = {r.model for r in rows if r.source == SOURCE} - {r.model for reading in readings for r in reading.rows}
    refitted = refit(rows, source="; ".join(names), date="", tell=lambda word: print(word, file=sys.stderr))
    found = pages(rows, unexpressed, tuple(names), refitted.left_out)
    page = validation_markdown(found[PUBLISHED])
    head, rest = page.split("## How this was made", 1)
    parts = [head.rstrip(), protocols(found), beside_peers(found), generations(found["leave-one-generation-out"])]
    if newest and given.truth:
        parts.append(at_once(rows, newest))
    if given.one_run:
        parts.append("## One run of your own\n\n" + given.one_run.read_text(encoding="utf-8").strip())
    given.out.write_text("\n\n".join([*parts, "## How this was made" + rest]), encoding="utf-8")
    return 0


def pages(
    rows: list[Truth], unexpressed: list[Unexpressed], names: tuple[str, ...], left_out: Mapping[str, np.ndarray]
) -> dict[str, Validation]:
    """Return a validation per protocol, from predictions that had not seen their rows (see ``fitting.refit``)."""
    found: dict[str, Validation] = {}
    for protocol in PROTOCOLS:
        ratio = None if protocol == "fit" else left_out[OF[protocol]]
        found[protocol] = replace(validate(rows, unexpressed, protocol=protocol, left_out=ratio), truth=names)
    return found


OF = {"leave-one-device-out": "device", "leave-one-model-out": "model", "leave-one-engine-out": "engine",
      "leave-one-generation-out": "family"}  # fmt: skip
"""Protocol -> the name of what is left out in a refit."""


def columns(validation: Validation) -> dict[str, np.ndarray]:
    """Return the points of a validation as arrays, with the error of each."""
    p = validation.points
    names = ("id", "source", "device", "family", "engine", "model", "kind", "metric", "regime")
    table = {name: np.array(getattr(p, name)) for name in names}
    predicted = np.array([np.nan if x is None else x for x in p.predicted], dtype=float)
    low, high = (np.array([np.nan if x is None else x for x in ends], dtype=float) for ends in (p.low, p.high))
    measured = np.array(p.measured, dtype=float)
    table["error"] = np.abs(predicted / measured - 1)
    table["bias"] = predicted / measured - 1
    table["inside"] = np.where(np.isfinite(low), (low <= measured) & (measured <= high), np.nan).astype(float)
    return table


def answered() -> dict[str, dict[str, tuple[float, float]]]:
    """Return peer -> run -> (TTFT, TPOT) [s], NaN where it gave none."""
    out: dict[str, dict[str, tuple[float, float]]] = {}
    with (HERE / "peers.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["tpot_s"] or row["ttft_s"]:
                out.setdefault(row["peer"], {})[row["run"]] = tuple(
                    float(row[k] or "nan") for k in ("ttft_s", "tpot_s")
                )
    return out


def figures(error: np.ndarray) -> str:
    """Return median and mean of errors as two cells' text."""
    known = error[np.isfinite(error)]
    return f"{np.median(known):.1%} / {known.mean():.1%}" if len(known) else "–"


def protocols(found: dict[str, Validation]) -> str:
    """Return the table of protocols: what each predictor had not seen, and how wrong it is."""
    asked = answered().get("aiconfigurator", {})
    lines = [
        "## What the fit had not seen",
        "",
        (
            "Errors are median / mean of |predicted / measured − 1|. *Sample*: the aggregated runs of aiconfigurator-core's end-to-end "
            "sample that aiconfigurator 0.12 answers too and whose device count is right. *One stream*: llama.cpp on Apple, CUDA, "
            "ROCm, Vulkan and processors."
        ),
        "",
        (
            "| a prediction saw no row of its | sample, TPOT | dense | MoE | sample, TTFT | dense | MoE | one stream, decode | "
            "all times, median | 80 % intervals hold |"
        ),
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    words = {"fit": "(every row was seen)", "leave-one-device-out": "device", "leave-one-model-out": "model",
             "leave-one-engine-out": "engine", "leave-one-generation-out": "hardware generation"}  # fmt: skip
    for protocol, validation in found.items():
        t = columns(validation)
        timed = ~np.isin(t["metric"], ("kv_tokens", "resident_bytes", "weights_bytes", "joules_per_token"))
        sample = np.array(
            [run_of(i) in asked if s == SOURCE else False for i, s in zip(t["id"], t["source"], strict=True)]
        )
        dense = t["kind"] == "dense"
        cells = [
            figures(t["error"][sample & (t["metric"] == metric) & kind])
            for metric in ("tpot_s", "ttft_s")
            for kind in (np.ones_like(dense), dense, ~dense)
        ]
        single = (t["engine"] == "llama.cpp") & (t["regime"] == "single") & np.isin(t["metric"], SINGLE)
        known = timed & np.isfinite(t["error"])
        cells += [
            figures(t["error"][single]),
            f"{np.median(t['error'][known]):.1%}",
            f"{np.nanmean(t['inside'][known]):.0%}",
        ]
        lines.append(f"| {words[protocol]} | {' | '.join(cells)} |")
    t = columns(found["fit"])
    count = Counter(t["metric"])
    lines += ["", "Rows: " + ", ".join(f"{name} {n:,}" for name, n in count.most_common()) + "."]
    return "\n".join(lines)


def beside_peers(found: dict[str, Validation]) -> str:
    """Return the bake-off: peers and ours on the runs each peer answers."""
    t = columns(found[PUBLISHED])
    here = t["source"] == SOURCE
    ours = {(run_of(i), m): e for i, m, e in zip(t["id"][here], t["metric"][here], t["error"][here], strict=True)}
    measured = {
        (run_of(i), m): v
        for i, s, m, v in zip(t["id"], t["source"], t["metric"], found[PUBLISHED].points.measured, strict=True)
        if s == SOURCE
    }
    kinds = {run_of(i): k for i, k in zip(t["id"][here], t["kind"][here], strict=True)}
    lines = [
        "## Beside peers",
        "",
        f"The same runs, the peer's own answer and ours ({PUBLISHED}: no row of the model was seen). Median / mean.",
        "",
        "| peer | runs | its TPOT | our TPOT | its TTFT | our TTFT |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for peer, answers in answered().items():
        for kind in ("all", "dense", "moe"):
            runs = [
                r
                for r in answers
                if (r, "tpot_s") in measured and (kind == "all" or (kinds[r] == "dense") == (kind == "dense"))
            ]
            if len(runs) < 2:
                continue
            cells = []
            for place, metric in ((1, "tpot_s"), (0, "ttft_s")):
                theirs = np.array(
                    [
                        abs(answers[r][place] / measured[r, metric] - 1) if (r, metric) in measured else np.nan
                        for r in runs
                    ]
                )
                cells += [figures(theirs), figures(np.array([ours.get((r, metric), np.nan) for r in runs]))]
            lines.append(f"| {peer}{'' if kind == 'all' else ', ' + kind} | {len(runs):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def generations(validation: Validation) -> str:
    """Return how a fit without a whole hardware generation predicts it."""
    t = columns(validation)
    lines = [
        "## A hardware generation the fit had never seen",
        "",
        "Each row: refitted without any measurement of the family, then asked about it.",
        "",
        "| family | rows | median | mean | bias | intervals hold |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for family, _count in Counter(t["family"]).most_common():
        here = (t["family"] == family) & np.isfinite(t["error"])
        if here.sum() >= LARGE:
            lines.append(
                f"| {family} | {int(here.sum()):,} | {np.median(t['error'][here]):.1%} | {t['error'][here].mean():.1%} | "
                f"{np.median(t['bias'][here]):+.1%} | {np.nanmean(t['inside'][here]):.0%} |"
            )
    return "\n".join(lines)


def at_once(rows: list[Truth], models: set[str]) -> str:
    """Return how a fit without any of several models predicts them: leaving out one of a kind keeps the others."""
    d = design(rows)
    columns_of_rows = {name: values[d.rows] for name, values in columns_of(rows).items()}
    usable = (d.weight > 0) & ~contradicts(d)
    held = np.where(np.isin(columns_of_rows["model"], sorted(models)), "held", "seen")
    error = np.abs(np.exp(-leave_out(d, held, usable, only={"held"})) - 1)
    lines = [
        "## All new models left out at once",
        "",
        (
            f"The {len(models)} models of the sample that no other file has, most of them mixtures of experts of 2026, predicted by one "
            "fit that saw none of them: it has hardly a row of today's expert kernels. Median / mean."
        ),
        "",
        "| metric | rows | error |",
        "| --- | ---: | ---: |",
    ]
    for metric in ("tpot_s", "ttft_s"):
        here = (held == "held") & usable & (columns_of_rows["metric"] == metric)
        lines.append(f"| {metric} | {int(here.sum()):,} | {figures(error[here])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Published effects of levers beside what our formulas give: writes the tables of docs/levers.md.

    python validation/lever_effects.py [--out docs/levers.md]

Every row of lever_effects.csv is asked; the page keeps its text and takes new tables between its markers. Seconds of work.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.facts.levers import effect_rows, engine_rows
from bytebound.plan.cards import CARDS
from bytebound.plan.effects import predict_row, read_request
from bytebound.plan.rank import case_of, effect_of
from bytebound.plan.spot import look
from bytebound.predict.estimate import settle
from bytebound.units import significant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bytebound.facts.levers import EffectRow

PAGE = Path(__file__).parents[1] / "docs" / "levers.md"
HURT = 0.97
"""A printed ratio under this is a slow-down."""
BEGIN, END = "<!-- {}: validation/lever_effects.py writes what follows -->", "<!-- end of {} -->"

UNEXPRESSED = (
    ("llama.cpp tools/quantize README, tokens/s by format", "the device is not named"),
    (
        "fp8 KV on A100, 0.20 times (LLM-Inference-Bench)",
        "no ledger of emulated fp8; the lever is refused there (rule 2)",
    ),
    ("torchao on an M1 Pro, 16-bit against 4-bit", "the 16-bit run swaps: not a matter of bytes over bandwidth"),
    ("torchao peak memory at 131 k tokens", "most of it is a mask of the eager model, which no engine of ours builds"),
    ("LMDeploy, InternLM2-7B", "its shape is not in our tables"),
    ("TurboQuant K4V2, KIVI 2-bit", "the formats are not in our tables"),
    ("EAGLE-3 Table 4, batch 1 in tokens/s", "acceptance by model and task is what it measures"),
    ("gpt-fast speculative decoding", "draft length and acceptance are not printed"),
    (
        "FlexGen, OPT-30B and larger on a T4",
        "keys and values lie in host memory while decoding; our request keeps them on the device",
    ),
    ("ZeRO-Inference, OPT-30B on V100", "the batch is not printed"),
    ("KTransformers, DeepSeek-R1", "experts are computed on the CPU: two ceilings at once"),
    ("SuperOffload on GH200", "what the host computes meanwhile is not in our step"),
    ("Mooncake, DistServe, Splitwise: capacity under an objective", "needs their traces of requests"),
    ("Mooncake, time of a transfer by size", "efficiency of one link by message size is not in our ceilings"),
    (
        "MPT fp8 gain by sequence length",
        "the 3B shape is not in our tables; `fp8-training` must be proven from 16 k tokens on",
    ),
    (
        "torchtitan AsyncTP and interleaved 405B",
        "degrees are not in the rows; asynchronous tensor parallelism is not modelled",
    ),
    ("GaLore 7B in 22.8 GB", "weights are updated layer by layer in the backward pass; ours holds all gradients"),
    ("Liger, 60 % less memory", "batch and length are not stated"),
    ("QLoRA 65B under 48 GB", "an inequality; `bytebound train --fit` answers it"),
    ("2:4 sparsity, 1.10 times", "no maintained engine runs it, and we have no such format"),
    ("FlashAttention Figure 2", "one attention call; serving and training rows hold it with the rest of a step"),
    ("MLPerf-style scaling of MPT over 32 to 512 devices", "rows of `bytebound validate --training`"),
)
"""Published effects that no request of ours states, and why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=PAGE)
    out = parser.parse_args(argv).out
    text = out.read_text(encoding="utf-8")
    asked = [(row, predict_row(row)) for row in effect_rows()]
    for name, lines in (
        ("counts", counts(asked)), ("summary", summary(asked)), ("effects", effects(asked)), ("hurting", hurting()), ("unexpressed", unexpressed()), ("cards", cards()),
    ):  # fmt: skip
        text = filled(text, name, lines)
    out.write_text(text, encoding="utf-8")
    return 0


def filled(text: str, name: str, lines: Iterable[str]) -> str:
    """Return the page with the lines between the markers of ``name`` replaced."""
    begin, end = BEGIN.format(name), END.format(name)
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return "\n".join([f"{head}{begin}", "", *lines, "", f"{end}{tail}"])


def error(row: EffectRow, predicted: float) -> float:
    """Return predicted over printed minus 1."""
    return predicted / row.printed - 1


def counts(asked: Sequence[tuple[EffectRow, float]]) -> list[str]:
    """Return what the tables hold in one sentence."""
    formula = sum(row.kind == "formula" for row, _ in asked)
    return [
        (
            f"{len(CARDS)} cards; {len(engine_rows())} rows of engines and libraries with their flags; {len(asked)} published effects, "
            f"{formula} of them pure formula; {len(UNEXPRESSED)} published effects that we cannot ask."
        )
    ]


def summary(asked: Sequence[tuple[EffectRow, float]]) -> list[str]:
    """Return errors by group, formulas first."""
    lines = ["| kind | group | rows | median error | 80 % within | bias |", "|---|---|---:|---:|---:|---:|"]
    for kind in ("formula", "engine"):
        of_kind = [(row.part, error(row, value)) for row, value in asked if row.kind == kind]
        for part in (*sorted({part for part, _ in of_kind}), ""):
            errors = np.array([each for name, each in of_kind if part in {"", name}])
            within, bias = np.quantile(np.abs(errors), 0.8), np.median(errors)
            name = f"{part}" if part else "**all**"
            lines.append(
                f"| {kind} | {name} | {len(errors)} | {np.median(np.abs(errors)):.1%} | {within:.1%} | {bias:+.1%} |"
            )
    return lines


def effects(asked: Sequence[tuple[EffectRow, float]]) -> list[str]:
    """Return every row, printed against predicted."""
    lines: list[str] = []
    ordered = sorted(asked, key=lambda pair: (pair[0].kind != "formula", pair[0].part))
    for (kind, part), rows in groupby(ordered, key=lambda pair: (pair[0].kind, pair[0].part)):
        lines += [
            f"### {part[0].upper()}{part[1:]} ({kind})",
            "",
            "| lever | setting | printed | predicted | error | source |",
            "|---|---|---:|---:|---:|---|",
        ]
        for row, value in rows:
            note = f" ({row.note})" if row.note else ""
            lines.append(
                f"| `{row.lever}` | {row.name}{note} | {significant(row.printed, 4)} {row.unit} | {significant(value, 4)} {row.unit} "
                f"| {error(row, value):+.1%} | {row.source} |"
            )
        lines.append("")
    return lines[:-1]


def hurting() -> list[str]:
    """Return what our levers say in settings where a slow-down was printed."""
    lines = ["| lever | setting | printed | here | predicted |", "|---|---|---:|---|---:|"]
    for row in effect_rows():
        if (
            row.kind != "engine"
            or row.printed >= HURT
            or row.quantity not in {"decode_speedup", "throughput_ratio", "prefill_speedup"}
        ):
            continue
        work = replace(read_request(row.before).serve(), engine=row.engine)
        case = case_of(settle(row.model, row.machine, row.engine), work)
        effect = effect_of(case, look(case), [row.lever])
        rate = "–" if effect.speed is None else f"{float(effect.speed.value):.2f} ×"
        lines.append(f"| `{row.lever}` | {row.name} | {row.printed:.2f} × | {effect.outcome} | {rate} |")
    return lines


def unexpressed() -> list[str]:
    """Return what is published and cannot be asked."""
    return ["| published | why not asked |", "|---|---|", *(f"| {what} | {why} |" for what, why in UNEXPRESSED)]


def cards() -> list[str]:
    """Return every card in one line."""
    lines = ["| lever | group | quality | kept engines | proof here |", "|---|---|---|---|---|"]
    for card in CARDS.values():
        kept = ", ".join(each.engine for each in card.engines if each.status == "maintained") or "–"
        lines.append(f"| `{card.name}` | {card.group} | {card.quality} | {kept} | {'yes' if card.proof else '–'} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())

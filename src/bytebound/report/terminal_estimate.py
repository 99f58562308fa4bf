"""An estimate in the terminal: what it holds, reads, takes and costs; and, explained, operator by operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.observed import grade_words
from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.words import clean, first, first_text, interval, percent, ridge, tokens_rate, usd
from bytebound.units import show_bytes, show_capacity, show_rate, show_time, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from bytebound.documents.estimate import Estimate, OperatorTime, Phase
    from bytebound.report.page import Page

SHOWN_SHARE = 0.0005
SHORT = {
    "weight-bandwidth": "weights",
    "kv-bandwidth": "KV",
    "activation-bandwidth": "activations",
    "scale-up-link": "scale-up",
    "scale-out-link": "scale-out",
    "host-link": "host",
}


def estimate_text(estimate: Estimate, page: Page) -> str:
    """Return an estimate as a block: memory, bytes and time side by side, then the answers."""
    parts: list[RenderableType] = [
        heading(title_of(estimate)),
        Text(""),
        _columns(estimate),
        Text(""),
        *_answers(estimate),
        Text(""),
        *_basis(estimate),
    ]
    return draw(parts, page)


def explain_text(estimate: Estimate, page: Page) -> str:
    """Return an estimate operator by operator, then how each input is known."""
    parts: list[RenderableType] = [heading(title_of(estimate))]
    for name, phase in (("decode", estimate.decode), ("prefill", estimate.prefill)):
        line = f"{name}: {phase_line(phase)}"
        parts += [Text(""), Text(line, style="bold"), *([_operators(phase.operators)] if phase.operators else [])]
    rows = [(item.how, clean(item.what), clean(item.source)) for item in estimate.provenance]
    known = grid(("how", "!"), ("what", "w"), ("source", "w"), rows=rows)
    parts += [Text(""), Text("how each number is known", style="bold"), known]
    parts += [indented(f"{clean(key)}: unknown, {clean(why)}") for key, why in estimate.missing.items()]
    return draw([*parts, *_notes(estimate)], page)


def title_of(estimate: Estimate) -> str:
    """Return the question in one line: model, machine and the work as understood."""
    work = estimate.work
    degrees = [
        f"{key.upper()}{_plain(work[key])}" for key in ("tp", "pp", "ep", "dp") if _plain(work.get(key, 1)) != "1"
    ]
    words = [
        clean(estimate.model.name),
        clean(estimate.machine.name) + (f" ({' '.join(degrees)})" if degrees else ""),
        f"batch {_plain(work.get('batch', '–'))}",
        f"{_plain(work.get('prompt', '–'))} in / {_plain(work.get('output', '–'))} out",
        f"weights {_plain(work.get('weights', 'auto'))}",
        f"KV {_plain(work.get('kv', 'auto'))}",
        _plain(work.get("engine", "")),
    ]
    return " · ".join(word for word in words if word)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else clean(value)


def memory_rows(estimate: Estimate) -> list[tuple[str, float]]:
    """Return what memory of the fullest device holds, in bytes; the last row is free or, negative, missing."""
    memory = estimate.memory
    held = [
        ("weights", first(memory.weights_bytes)),
        ("KV cache", first(memory.kv_bytes)),
        ("activations", first(memory.activation_bytes)),
        ("reserve", first(memory.reserve_bytes)),
    ]
    return [*held, ("free", first(memory.usable_bytes) - first(memory.total_bytes))]


def time_rows(phase: Phase) -> list[tuple[str, float, float]]:
    """Return (resource, seconds, share) of one step, longest first, without what takes no time."""
    whole = first(phase.seconds)
    rows = [(clean(name), whole * first(share), first(share)) for name, share in phase.shares.items()]
    return sorted((row for row in rows if row[2] > SHOWN_SHARE), key=lambda row: -row[2])


def _columns(estimate: Estimate) -> RenderableType:
    decode = estimate.decode
    memory = [(name, show_capacity(value)) for name, value in memory_rows(estimate)]
    if first(estimate.memory.usable_bytes) < first(estimate.memory.total_bytes):
        memory[-1] = ("missing", show_capacity(-memory_rows(estimate)[-1][1]))
    traffic = [
        ("weights", show_bytes(first(decode.weight_bytes))),
        ("KV cache", show_bytes(first(decode.kv_bytes))),
        ("activations", show_bytes(first(decode.activation_bytes))),
        ("network", show_bytes(first(decode.network_bytes))),
    ]
    steps = [(SHORT.get(name, name), show_time(t), percent(share)) for name, t, share in time_rows(decode)]
    rows = []
    for row in range(max(len(memory), len(traffic), len(steps))):
        held, moved = (part[row] if row < len(part) else ("", "") for part in (memory, traffic))
        rows.append([*held, *moved, *(steps[row] if row < len(steps) else ("", "", ""))])
    titles = (
        ("memory", "!"),
        ("/device", "r!"),
        ("bytes", "!"),
        ("/step", "r!"),
        ("time", "!"),
        ("/step", "r!"),
        ("", "r!"),
    )
    return grid(*titles, rows=rows, indent=2)


def _answers(estimate: Estimate) -> list[RenderableType]:
    wall = estimate.next_wall
    after = f", then {clean(wall.resource)} at {clean(wall.at)}" if wall else ""
    rates = [
        ("TPOT", interval(estimate.tpot_s, show_time)),
        ("TTFT", interval(estimate.ttft_s, show_time)),
        ("output", interval(estimate.tokens_per_s, tokens_rate)),
        ("request", interval(estimate.request_s, show_time)),
        ("cost", _cost(estimate)),
    ]
    known = [name for name in ("tpot_s", "tokens_per_s") if name not in estimate.missing]
    if "tokens_per_s" not in known:
        rates = []  # what does not fit has no speed
    elif "tpot_s" not in known:
        rates = rates[1:]
    lines = [
        ("verdict", first_text(estimate.verdict) + after),
        *rates,
        ("grade", grade_words(estimate.grade)),
        ("decode", phase_line(estimate.decode)),
        ("prefill", phase_line(estimate.prefill)),
        ("+1 % of", _elasticity(estimate)),
    ]
    return [labelled(lines)]


def _cost(estimate: Estimate) -> str:
    parts = []
    if estimate.usd_per_mtok is not None:
        parts.append(f"{interval(estimate.usd_per_mtok, usd)} per million output tokens")
    if estimate.joules_per_token is not None:
        parts.append(f"{interval(estimate.joules_per_token, lambda value: f'{significant(value)} J')} per token")
    if estimate.power_w is not None:
        parts.append(show_rate(first(estimate.power_w), "W"))
    return ", ".join(parts) or "unknown"


def phase_line(phase: Phase) -> str:
    """Return one phase in a line: time, floor, what binds, shares of the peaks, intensity."""
    turn = ridge(phase)
    against = f" (ridge about {significant(turn, 2)})" if turn == turn else ""  # noqa: PLR0124  (NaN: unknown)
    return (
        f"{show_time(first(phase.seconds))}, floor {show_time(first(phase.floor_s))}, bound by {first_text(phase.bound)}, "
        f"MBU {significant(first(phase.mbu), 2)}, MFU {significant(first(phase.mfu), 2)}, "
        f"{significant(first(phase.intensity))} FLOP/B{against}"
    )


def _elasticity(estimate: Estimate) -> str:
    parts = [
        f"{clean(name).replace('_', ' ')} {first(value):+.2f} %"
        for name, value in estimate.elasticity.items()
        if abs(first(value)) >= 0.005
    ]
    return "throughput: " + ", ".join(parts).replace("-", "−") if parts else "throughput does not change"


def _basis(estimate: Estimate) -> list[RenderableType]:
    kinds: dict[str, int] = {}
    for item in estimate.provenance:
        kinds[item.how] = kinds.get(item.how, 0) + 1
    counted = ", ".join(f"{count} {how}" for how, count in kinds.items())
    level = percent(estimate.tpot_s.level)
    lines = [("basis", f"{counted or 'nothing stated'}; ranges should hold the truth {level} of the time")]
    lines += [("unknown", f"{clean(key)}: {clean(why)}") for key, why in estimate.missing.items()]
    named = clean(estimate.model.asked or estimate.model.name)
    lines += [
        (
            "next",
            f"bytebound explain {quoted(named)} --on {quoted(clean(estimate.machine.asked or estimate.machine.name))}",
        )
    ]
    return [*_notes(estimate), labelled(lines, style="dim")]


def quoted(text: str) -> str:
    """Return ``text`` in quotes where a shell would split it."""
    return f'"{text}"' if " " in text or "(" in text else text


def _notes(estimate: Estimate) -> list[RenderableType]:
    return [indented(f"note: {clean(note)}") for note in estimate.notes]


def _operators(operators: Sequence[OperatorTime]) -> RenderableType:
    titles = ("FLOP", "weights", "KV", "activ.", "net", "time")
    columns = (("operator", ""), *((title, "r!") for title in titles), ("bound", "!"))
    return grid(*columns, rows=[[*row[:-1], SHORT.get(row[-1], row[-1])] for row in operator_rows(operators)])


def operator_rows(operators: Sequence[OperatorTime]) -> list[list[str]]:
    """Return name, FLOP, bytes of weights, KV, activations and network, time and bound of each operator."""
    rows = []
    for operator in operators:
        flows = (
            operator.flops,
            operator.weight_bytes,
            operator.kv_bytes,
            operator.activation_bytes,
            operator.network_bytes,
        )
        repeat = first(operator.repeat)
        name = clean(operator.name) if repeat == 1 else f"{repeat:g}× {clean(operator.name)}"
        sizes = (_size(first(flow)) for flow in flows)
        rows.append([name, *sizes, show_time(first(operator.seconds)), first_text(operator.bound)])
    return rows


def estimate_sentence(estimate: Estimate) -> str:
    """Return the verdict in one sentence."""
    memory = estimate.memory
    if not bool(first(memory.fits)):
        short = show_capacity(first(memory.total_bytes) - first(memory.usable_bytes))
        return f"Does not fit: the fullest device is {short} short."
    wall = estimate.next_wall
    after = f"; the next wall is {clean(wall.resource)}, at {clean(wall.at)}" if wall else ""
    cost = estimate.usd_per_mtok
    money = "" if cost is None else f" at {usd(first(cost.value))} per million tokens"
    rate = tokens_rate(first(estimate.tokens_per_s.value))
    return f"{rate}{money}, bound by {first_text(estimate.verdict)}{after}."


def estimate_tiles(estimate: Estimate) -> list[tuple[str, str, str]]:
    """Return the answers to show large: name, value, range."""
    asked = [
        ("time per output token", estimate.tpot_s, show_time),
        ("time to first token", estimate.ttft_s, show_time),
        ("output", estimate.tokens_per_s, tokens_rate),
        ("one request", estimate.request_s, show_time),
        ("million output tokens", estimate.usd_per_mtok, usd),
        ("energy per token", estimate.joules_per_token, lambda value: f"{significant(value)} J"),
    ]
    tiles = []
    for name, value, show in asked:
        shown, _, band = interval(value, show).partition(" (")
        tiles.append((name, shown, band.rstrip(")")))
    held = f"of {show_capacity(first(estimate.memory.usable_bytes))} usable per device"
    return [*tiles, ("memory", show_capacity(first(estimate.memory.total_bytes)), held)]


def _size(value: float) -> str:
    return "–" if value == 0 else show_rate(value, "").strip()

"""An estimate in the terminal: one block to read at a glance, and the same operator by operator with its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.page import draw, grid, heading, indented, table_text
from bytebound.report.words import clean, first, first_text, interval, percent, ridge, tokens_rate
from bytebound.units import show_bytes, show_capacity, show_rate, show_time, show_usd, significant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bytebound.documents.estimate import Estimate, Phase
    from bytebound.report.page import Page

SHOWN_RESOURCES = (
    "weight-bandwidth",
    "kv-bandwidth",
    "activation-bandwidth",
    "compute",
    "scale-up-link",
    "scale-out-link",
    "host-link",
    "overhead",
)


def estimate_text(estimate: Estimate, page: Page) -> str:
    """Return one estimate: memory, bytes and time by resource, rates with intervals, verdict, next wall, basis."""
    return draw(
        [
            *_head(estimate),
            *_memory(estimate),
            *_phases(estimate),
            *_rates(estimate),
            *_verdict(estimate),
            *_basis(estimate),
        ],
        page,
    )


def explain_text(estimate: Estimate, page: Page) -> str:
    """Return an estimate operator by operator, then every source."""
    parts = [draw([*_head(estimate), *_verdict(estimate)], page)]
    for name, phase in (("decode step", estimate.decode), ("prefill", estimate.prefill)):
        columns, rows = _operator_rows(phase)
        note = f"{show_time(first(phase.seconds))} in all, floor {show_time(first(phase.floor_s))}; a row's figures are totals over its repeats on one device"
        parts.append(table_text(title=name, columns=columns, rows=rows, page=page, note=note))
    sources = [indented(f"{item.what} · {item.how} · {clean(item.source)}") for item in estimate.provenance]
    unknown = [indented(f"{key}: unknown, {why}") for key, why in estimate.missing.items()]
    parts.append(draw([heading("where every number comes from"), *sources, *unknown], page))
    return "\n".join(parts)


def _operator_rows(phase: Phase) -> tuple[tuple[tuple[str, str], ...], list[tuple[str, ...]]]:
    """Return the columns that hold anything, and a row per operator."""
    every = (
        ("operator", "!", lambda o: o.name),
        ("×", "r!", lambda o: f"{first(o.repeat):.0f}"),
        ("GFLOP", "r!", lambda o: significant(first(o.flops) / 1e9)),
        ("weights", "r!", lambda o: show_bytes(first(o.weight_bytes))),
        ("KV", "r!", lambda o: show_bytes(first(o.kv_bytes))),
        ("activations", "r", lambda o: show_bytes(first(o.activation_bytes))),
        ("network", "r", lambda o: show_bytes(first(o.network_bytes))),
        ("time", "r!", lambda o: show_time(first(o.seconds))),
        ("share", "r", lambda o: percent(first(o.seconds) / first(phase.seconds))),
        ("bound by", "", lambda o: first_text(o.bound)),
    )
    silent = {"network"} if not any(first(o.network_bytes) for o in phase.operators) else set()
    kept = [column for column in every if column[0] not in silent]
    rows = [tuple(cell(o) for _, _, cell in kept) for o in phase.operators]
    return tuple((title, flags) for title, flags, _ in kept), rows


def _head(e: Estimate) -> list[RenderableType]:
    w = e.work
    degrees = " ".join(f"{name}{w[name]}" for name in ("tp", "pp", "ep", "dp") if w[name] != 1)
    title = f"{e.model.name} on {e.machine.name}{' ' + degrees if degrees else ''}"
    request = f"batch {w['batch']} · {w['prompt']} in / {w['output']} out · weights {w['weights']} · KV {w['kv']} · {w['engine']}"
    return [heading(clean(title)), indented(clean(request)), Text("")]


def _memory(e: Estimate) -> list[RenderableType]:
    m = e.memory
    table = grid(("memory per device", "!"), ("", "r"), indent=2)
    total, usable = first(m.total_bytes), first(m.usable_bytes)
    rows = (
        ("weights", first(m.weights_bytes)), ("KV cache", first(m.kv_bytes)), ("activations", first(m.activation_bytes)),
        ("engine reserve", first(m.reserve_bytes)),
    )  # fmt: skip
    for name, value in rows:
        table.add_row("", name, show_capacity(value))
    table.add_row("", "free" if total <= usable else "short", show_capacity(abs(usable - total)))
    note = f"usable {show_capacity(usable)}; room for {first(m.max_kv_tokens):,.0f} KV tokens per replica"
    return [table, indented(note, by=4, style="dim"), Text("")]


def _phases(e: Estimate) -> list[RenderableType]:
    table = grid(("one step on one device", "!"), ("decode", "r"), ("prefill", "r"), indent=2)

    def row(name: str, decode: str, prefill: str) -> None:
        table.add_row("", name, decode, prefill)

    both = (e.decode, e.prefill)
    row("weights read", *(show_bytes(first(p.weight_bytes)) for p in both))
    row("KV read and written", *(show_bytes(first(p.kv_bytes)) for p in both))
    row("activations", *(show_bytes(first(p.activation_bytes)) for p in both))
    row("arithmetic", *(show_rate(first(p.flops), "FLOP") for p in both))
    for name in SHOWN_RESOURCES:
        shares = [first(p.shares.get(name, 0.0)) for p in both]
        if max(shares) > 0.0005:
            row(f"time on {name}", *(_time_share(p, share) for p, share in zip(both, shares, strict=True)))
    row("time", *(show_time(first(p.seconds)) for p in both))
    row("physical floor", *(show_time(first(p.floor_s)) for p in both))
    row("MBU / MFU", *(f"{percent(first(p.mbu))} / {percent(first(p.mfu))}" for p in both))
    row("FLOP per byte, ridge", *(f"{significant(first(p.intensity))}, {significant(ridge(p))}" for p in both))
    return [table, Text("")]


def _time_share(phase: Phase, share: float) -> str:
    return f"{show_time(first(phase.seconds) * share)} {share:4.0%}" if share > 0.0005 else "–"


def _rates(e: Estimate) -> list[RenderableType]:
    if not bool(e.memory.fits):
        return [indented(e.missing.get("tokens_per_s", "does not fit"), style="bold"), Text("")]
    pairs = [
        ("TTFT", interval(e.ttft_s, show_time)),
        ("TPOT", interval(e.tpot_s, show_time)),
        ("throughput", interval(e.tokens_per_s, tokens_rate)),
        ("request", interval(e.request_s, show_time)),
    ]
    if e.usd_per_mtok is not None:
        pairs.append(("per million output tokens", interval(e.usd_per_mtok, show_usd)))
    if e.joules_per_token is not None:
        pairs.append(("energy", interval(e.joules_per_token, lambda value: f"{significant(value)} J/token")))
    table = grid(("", "!"), ("", "w"), header=False, indent=2)
    for name, value in pairs:
        table.add_row("", name, value)
    return [
        table,
        indented(f"intervals hold {e.tpot_s.level:.0%} of the time, if we are as good as we say", by=4, style="dim"),
        Text(""),
    ]


def _verdict(e: Estimate) -> list[RenderableType]:
    parts: list[RenderableType] = [heading(f"bound by {first_text(e.verdict)}")]
    if e.next_wall is not None:
        parts.append(indented(f"next wall: {e.next_wall.resource}, at {e.next_wall.at}"))
    moved = [
        (name.replace("_", " "), first(value)) for name, value in e.elasticity.items() if abs(first(value)) >= 0.005
    ]
    if moved and bool(e.memory.fits):
        parts.append(
            indented("+1 % of it moves throughput by: " + ", ".join(f"{name} {value:+.2f} %" for name, value in moved))
        )
    return [*parts, Text("")]


def _basis(e: Estimate) -> list[RenderableType]:
    assumed = [item.what for item in e.provenance if item.how == "assumed"]
    parts: list[RenderableType] = [
        indented(
            "basis: "
            + "; ".join(
                f"{i.what} {i.how}" for i in e.provenance if i.how != "assumed" and not i.what.startswith("attainable")
            ),
            style="dim",
        )
    ]
    if assumed:
        parts.append(indented("assumed: " + "; ".join(assumed), style="dim"))
    parts += [indented(f"{key}: {why}", style="dim") for key, why in e.missing.items()]
    parts += [indented(f"note: {clean(note)}", style="dim") for note in e.notes]
    return [
        *parts,
        Text(""),
        indented(
            "next  bytebound explain … shows it operator by operator; bytebound fit … what else fits", style="dim"
        ),
    ]

"""Devices, models, prices and trends in the terminal: lists, and one thing in full with its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bytebound.report.page import record_text, table_text
from bytebound.units import show_bytes, show_capacity, show_rate, show_usd, significant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.device import Device, Figure
    from bytebound.documents.trends import Trends, TrendSeries
    from bytebound.report.page import Page

UNKNOWN = "–"
DECADE = 10.0  # years: a shorter series says nothing about twenty


def devices_text(rows: Sequence[Any], page: Page) -> str:
    """Return a list of devices, one a line: memory, bandwidth, best dense 16-bit rate, status and how sure."""
    cells = [
        (
            row.id,
            row.released[:7] or UNKNOWN,
            show_capacity(row.memory_bytes) if row.memory_bytes else UNKNOWN,
            show_rate(row.memory_bytes_per_s, "B/s") if row.memory_bytes_per_s else UNKNOWN,
            show_rate(rate, "FLOP/s") if (rate := row.bf16_flop_per_s or row.fp16_flop_per_s) else UNKNOWN,
            show_rate(row.scaleup_bytes_per_s, "B/s") if row.scaleup_bytes_per_s else UNKNOWN,
            row.status,
            row.confidence,
        )
        for row in rows
    ]
    columns = (
        ("device", "!"),
        ("released", ""),
        ("memory", "r"),
        ("bandwidth", "r"),
        ("dense 16-bit", "r"),
        ("link, one way", "r"),
        ("status", ""),
        ("sure", ""),
    )
    return table_text(
        title=f"{len(rows)} devices",
        columns=columns,
        rows=cells,
        page=page,
        note="bytebound devices ID shows one in full with its sources",
    )


def figure_words(figure: Figure | None, show: Any) -> str:
    """Return a figure with how it is known and from where."""
    if figure is None:
        return "unknown"
    span = f" ({show(figure.low)}–{show(figure.high)})" if figure.low is not None and figure.high is not None else ""
    when = f", {figure.when}" if figure.when else ""
    return f"{show(figure.value)}{span} · {figure.how} · {figure.source}{when}"


def device_text(device: Device, page: Page) -> str:
    """Return one device in full, every figure with its source."""

    def rate(value: float) -> str:
        return show_rate(value, "B/s")

    fields = [
        ("name", f"{device.name} ({device.vendor}, {device.kind}, {device.family})"),
        ("released", f"{device.released or 'unknown'} · {device.status} · confidence {device.confidence}"),
        (
            "memory",
            f"{figure_words(device.memory_bytes, show_capacity)} · sold as {device.memory_marketed or 'not stated'} {device.memory_type}",
        ),
        ("bandwidth", figure_words(device.memory_bytes_per_s, rate)),
        *(
            (f"{dtype} dense", figure_words(figure, lambda value: show_rate(value, "FLOP/s")))
            for dtype, figure in device.flop_per_s.items()
        ),
        ("cache", figure_words(device.cache_bytes, show_capacity)),
        (
            f"link {device.scaleup_link}".strip(),
            f"{figure_words(device.scaleup_bytes_per_s, rate)} · one way, {device.scaleup_devices} devices",
        ),
        ("network", figure_words(device.scaleout_bytes_per_s, rate)),
        (f"host {device.host_link}".strip(), figure_words(device.host_bytes_per_s, rate)),
        ("power", figure_words(device.power_w, lambda value: f"{value:,.0f} W")),
    ]
    return record_text(title=device.id, fields=fields, page=page, note=device.notes)


def device_row_text(row: Any, page: Page) -> str:
    """Return a device that cannot be computed on, with what is missing."""
    fields = [
        ("name", f"{row.name} ({row.vendor})"),
        ("status", row.status),
        ("missing", ", ".join(row.missing)),
        ("source", row.source),
    ]
    return record_text(
        title=row.id,
        fields=fields,
        page=page,
        note=row.notes or "give the missing figures in a device file to compute on it",
    )


def models_text(records: Sequence[Any], page: Page) -> str:
    """Return a list of bundled models with their published counts."""
    rows = [
        (r.id, r.family, f"{r.total:,}" if r.total else UNKNOWN, f"{r.active:,}" if r.active else UNKNOWN)
        for r in records
    ]
    columns = (("model", "!"), ("family", ""), ("published parameters", "r"), ("active", "r"))
    return table_text(
        title=f"{len(records)} models",
        columns=columns,
        rows=rows,
        page=page,
        note="bytebound models ID shows its shape; any config.json of a known family works too",
    )


def model_card(architecture: Architecture) -> dict[str, Any]:
    """Return a model as plain data: counts, KV per token, towers, and every distinct tensor."""
    return {
        "schema": "bytebound.model/1",
        "name": architecture.name,
        "family": architecture.family,
        "parameters": architecture.parameters,
        "parameters_tied_twice": architecture.parameters_tied_twice,
        "checkpoint_parameters": architecture.checkpoint_parameters,
        "active_parameters": architecture.active_parameters,
        "kv_elements_per_token": architecture.kv_elements_per_token,
        "dtype": architecture.dtype,
        "source": architecture.source,
        "notes": list(architecture.notes),
        "towers": [
            {
                "name": tower.name,
                "kind": tower.kind,
                "blocks": [{"name": b.name, "repeat": b.repeat} for b in tower.blocks],
            }
            for tower in architecture.towers
        ],
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "copies": t.copies, "stored": t.stored, "tied": t.tied}
            for t in architecture.tensors()
        ],
    }


def model_text(architecture: Architecture, page: Page) -> str:
    """Return one model: its counts, its towers, and its distinct tensors."""
    kv = architecture.kv_elements_per_token
    fields = [
        ("family", architecture.family),
        (
            "parameters",
            f"{architecture.parameters:,} ({significant(architecture.parameters / 1e9)} billion), tied matrices once",
        ),
        ("active per token", f"{architecture.active_parameters:,}"),
        ("in the checkpoint", f"{architecture.checkpoint_parameters:,}, multi-token-prediction layers included"),
        ("KV per token", f"{show_bytes(kv * 2)} at 16 bits, {kv:,.0f} values, while every window has room"),
        ("source", architecture.source),
        *(
            (f"tower {tower.name}", f"{tower.kind}, {sum(b.repeat for b in tower.blocks)} blocks, width {tower.hidden}")
            for tower in architecture.towers
        ),
        *(("note", note) for note in architecture.notes),
    ]
    rows = [
        (t.name, " × ".join(map(str, t.shape)), f"{t.copies:,}", t.stored, "tied" if t.tied else "")
        for t in architecture.tensors()
    ]
    columns = (("tensor", "!"), ("shape", "r"), ("copies", "r"), ("stored", ""), ("", ""))
    return (
        record_text(title=architecture.name, fields=fields, page=page)
        + "\n"
        + table_text(title="tensors", columns=columns, rows=rows, page=page)
    )


def prices_text(rows: Sequence[Mapping[str, Any]], page: Page) -> str:
    """Return rental and purchase prices, one device a line."""

    def shown(figure: Figure | None, unit: str) -> str:
        return UNKNOWN if figure is None else f"{show_usd(figure.value)}{unit}"

    def span(figure: Figure | None) -> str:
        return (
            UNKNOWN
            if figure is None or figure.low is None or figure.high is None
            else f"{show_usd(figure.low)}–{show_usd(figure.high)}"
        )

    cells = [
        (
            r["device"],
            shown(r["rental"], "/h"),
            span(r["rental"]),
            r["rental"].when if r["rental"] else UNKNOWN,
            shown(r["purchase"], ""),
        )
        for r in rows
    ]
    columns = (("device", "!"), ("rental", "r"), ("10–90 % of providers", "r"), ("newest", ""), ("purchase", "r"))
    return table_text(
        title=f"prices of {len(rows)} devices",
        columns=columns,
        rows=cells,
        page=page,
        note="rental: median on-demand price per device-hour; bytebound prices ID shows every offer",
    )


def price_text(device: str, summary: Mapping[str, Any], page: Page) -> str:
    """Return one device's prices: the summary, then every offer with its source."""
    fields = [
        ("rental", figure_words(summary["rental"], lambda v: f"{show_usd(v)}/h")),
        ("purchase", figure_words(summary["purchase"], show_usd)),
    ]
    rows = [
        (
            offer.date,
            offer.provider,
            offer.kind,
            f"{show_usd(offer.usd_per_device_hour)}/h",
            str(offer.devices_count),
            offer.source,
        )
        for offer in reversed(summary["offers"])
    ]
    columns = (("date", "!"), ("provider", ""), ("kind", ""), ("price", "r"), ("devices", "r"), ("source", ""))
    return (
        record_text(title=device, fields=fields, page=page)
        + "\n"
        + table_text(title=f"{len(rows)} offers", columns=columns, rows=rows, page=page)
    )


def trends_text(trends: Trends, page: Page) -> str:
    """Return every series: what was claimed, what the points support, with the 95 % interval."""
    rows = []
    for series in trends.series:
        fit = series.fit
        claim = (
            UNKNOWN
            if series.claim is None
            else f"{series.claim.text} ({'inside' if series.claim.inside else 'outside'})"
        )
        rows.append(
            (
                f"{series.title} ({series.id})",
                claim,
                f"×{significant(fit.factor_per_2_years)}",
                f"{significant(fit.low95)}–{significant(fit.high95)}",
                f"×{significant(fit.factor_per_20_years)}" if fit.end_year - fit.start_year >= DECADE else UNKNOWN,
                str(fit.n),
                f"{fit.r2:.2f}",
            )
        )
    columns = (
        ("series", "w"),
        ("claimed", "w"),
        ("per 2 years", "r"),
        ("95 % interval", "r"),
        ("per 20 years", "r"),
        ("points", "r"),
        ("r²", "r"),
    )
    return table_text(
        title="the memory wall, from the data",
        columns=columns,
        rows=rows,
        page=page,
        note="least squares of log(value) on time; bytebound trends ID shows the points, --html FILE draws them",
    )


def series_text(series: TrendSeries, page: Page) -> str:
    """Return one series in full: its claim, its fit, and every point with its source."""
    fit, claim = series.fit, series.claim
    fields = [
        ("series", f"{series.title} ({series.id}), {series.unit}"),
        (
            "claimed",
            UNKNOWN
            if claim is None
            else f"{claim.text}, {'inside' if claim.inside else 'outside'} the interval · {claim.source}",
        ),
        (
            "fitted",
            f"×{significant(fit.factor_per_2_years)} per 2 years (95 %: {significant(fit.low95)}–{significant(fit.high95)}), {fit.n} points, r² {fit.r2:.2f}",
        ),
        ("honest interval", f"{significant(fit.low95_t)}–{significant(fit.high95_t)} (Student, for few points)"),
    ]
    rows = [(point.date, point.name, significant(point.value), point.source) for point in series.points]
    columns = (("date", "!"), ("point", ""), (series.unit, "r"), ("source", ""))
    return (
        record_text(title=series.id, fields=fields, page=page, note=series.note)
        + "\n"
        + table_text(title=f"{len(rows)} points", columns=columns, rows=rows, page=page)
    )


def fit_text(found: Any, page: Page) -> str:
    """Return the edges of what fits."""

    def shown(value: object) -> str:
        return "nothing fits" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

    free = found.free_bytes
    fields = [
        ("fits as asked", "yes" if found.fits else "no"),
        ("free memory", show_capacity(free) if free >= 0 else f"short by {show_capacity(-free)}"),
        ("largest batch", shown(found.max_batch)),
        ("longest prompt", shown(found.max_context_tokens)),
        ("KV tokens", f"{found.max_kv_tokens:,.0f}"),
        ("fewest devices (TP)", shown(found.min_devices)),
        ("widest weights", shown(found.weights)),
    ]
    return record_text(title=f"{found.model} on {found.machine}", fields=fields, page=page)

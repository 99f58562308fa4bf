"""The facts: ``devices``, ``models``, ``prices``, ``trends``, ``formats``, ``engines``, ``schema``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from bytebound.cli.output import FINE, Html, Json, Quiet, emit, page, show, writable, write
from bytebound.errors import UnknownNameError


def devices(
    query: Annotated[str, Parameter(help="An id, or words to search for.")] = "", /, *, json: Json = False
) -> int:
    """List devices, search them, or show one in full with its sources.

    Examples:
        bytebound devices blackwell

        bytebound devices h100-sxm --json
    """
    from bytebound.facts.devices import aliases, find_device  # noqa: PLC0415
    from bytebound.facts.devices import devices as table  # noqa: PLC0415
    from bytebound.report import facts as render  # noqa: PLC0415

    rows = table()
    wanted = query.strip().lower()
    if wanted in rows or wanted in aliases():
        row = rows[aliases().get(wanted, wanted)]
        if row.missing:
            emit(row, json=json, text=lambda: render.device_row_text(row, page()))
        else:
            device = find_device(wanted)
            emit(device, json=json, text=lambda: render.device_text(device, page()))
        return FINE
    found = [
        row
        for row in rows.values()
        if all(word in f"{row.id} {row.name} {row.vendor} {row.family} {row.kind}".lower() for word in wanted.split())
    ]
    if not found:
        raise UnknownNameError("device", query, [*rows, *aliases()], mend="`bytebound devices` lists every id")
    emit(found, json=json, text=lambda: render.devices_text(found, page()))
    return FINE


def models(
    query: Annotated[str, Parameter(help="An id, a path, or words to search for.")] = "",
    /,
    *,
    families: Annotated[bool, Parameter(negative="", help="List the model families that are understood.")] = False,
    json: Json = False,
) -> int:
    """List bundled models, search them, or show one: parameters, KV bytes per token, towers and tensors.

    Examples:
        bytebound models qwen3

        bytebound models deepseek-ai/DeepSeek-V3
    """
    from bytebound.report import facts as render  # noqa: PLC0415

    if families:
        from bytebound.models.families import registry  # noqa: PLC0415

        names = sorted(registry())
        emit(names, json=json, text=lambda: "\n".join(names))
        return FINE
    from bytebound.models.catalogue import model_ids, record  # noqa: PLC0415

    words = query.lower().split()
    found = [name for name in model_ids() if all(word in name.lower() for word in words)]
    exact = [name for name in found if query and name.lower() == query.lower()]
    if query and (exact or len(found) <= 1):
        from bytebound.models import read_model  # noqa: PLC0415

        architecture = read_model(exact[0] if exact else found[0] if found else query)
        emit(render.model_card(architecture), json=json, text=lambda: render.model_text(architecture, page()))
        return FINE
    records = [record(name) for name in found]
    emit(records, json=json, text=lambda: render.models_text(records, page()))
    return FINE


def prices(
    query: Annotated[str, Parameter(help="A device id, or words to search for.")] = "", /, *, json: Json = False
) -> int:
    """List rental and purchase prices, search them, or show one device's with every offer and source.

    Examples:
        bytebound prices h100-sxm

        bytebound prices rtx
    """
    from bytebound.facts.devices import aliases  # noqa: PLC0415
    from bytebound.facts.devices import devices as table  # noqa: PLC0415
    from bytebound.facts.prices import price_history, purchase, rental  # noqa: PLC0415
    from bytebound.report import facts as render  # noqa: PLC0415

    wanted = aliases().get(query.lower(), query.lower())
    if wanted in table():
        offers = price_history(wanted)
        summary = {"device": wanted, "rental": rental(wanted), "purchase": purchase(wanted), "offers": offers}
        emit(summary, json=json, text=lambda: render.price_text(wanted, summary, page()))
        return FINE
    names = [
        row.id
        for row in table().values()
        if all(word in f"{row.id} {row.name}".lower() for word in query.lower().split())
    ]
    if not names:
        raise UnknownNameError("device", query, [*table(), *aliases()], mend="`bytebound devices` lists every id")
    found = [(name, rental(name), purchase(name)) for name in names]
    known = [{"device": name, "rental": rent, "purchase": buy} for name, rent, buy in found if rent or buy]
    emit(known, json=json, text=lambda: render.prices_text(known, page()))
    return FINE


def trends(
    query: Annotated[str, Parameter(help="A series id, or words to search for.")] = "",
    /,
    *,
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:
    """Redraw the memory-wall figures from the data: model size, memory, compute, bandwidth and links, with claims beside fits.

    With a series id, show its points with their sources.

    Examples:
        bytebound trends --html trends.html

        bytebound trends dram-bandwidth
    """
    writable(html)
    from bytebound.facts.trends import trends as collect  # noqa: PLC0415
    from bytebound.report import facts as render  # noqa: PLC0415

    found = collect()
    words = query.lower().split()
    named = [series for series in found.series if series.id == query.lower()]
    kept = named or [
        series for series in found.series if all(word in f"{series.id} {series.title}".lower() for word in words)
    ]
    if not kept:
        raise UnknownNameError(
            "series", query, [series.id for series in found.series], mend="`bytebound trends` lists them"
        )
    shown = replace(found, series=tuple(kept))
    if html is not None:
        from bytebound.report.html import trends_html  # noqa: PLC0415

        write(html, trends_html(shown), quiet=quiet)
    one = len(kept) == 1 and bool(query)
    emit(
        shown, json=json, text=lambda: render.series_text(kept[0], page()) if one else render.trends_text(shown, page())
    )
    return FINE


def formats(*, json: Json = False) -> int:
    """List weight and KV formats with their real bits per value.

    Example:
        bytebound formats --json
    """
    from bytebound.facts.formats import formats as table  # noqa: PLC0415
    from bytebound.report.page import table_text  # noqa: PLC0415

    unique = list({item.name: item for item in table().values()}.values())
    rows = [(item.name, f"{item.bits:.4g}", item.math, item.kind, item.source) for item in unique]
    emit(
        unique,
        json=json,
        text=lambda: table_text(
            title="weight and KV formats",
            columns=(("format", "!"), ("bits per value", "r"), ("multiplies in", ""), ("kind", ""), ("source", "w")),
            rows=rows,
            page=page(),
        ),
    )
    return FINE


def engines(*, json: Json = False) -> int:
    """List inference engines with the memory they keep and the host time they cost.

    Example:
        bytebound engines
    """
    from bytebound.facts.engines import engines as table  # noqa: PLC0415
    from bytebound.report.page import table_text  # noqa: PLC0415
    from bytebound.units import show_capacity, show_time  # noqa: PLC0415

    found = list(table().values())
    rows = [
        (
            e.name,
            e.version,
            f"{e.memory_share:.0%}",
            show_capacity(e.reserve_bytes),
            str(e.block_tokens),
            show_time(e.host_s_per_step),
            e.how,
        )
        for e in found
    ]
    emit(
        found,
        json=json,
        text=lambda: table_text(
            title="engines",
            columns=(
                ("engine", "!"),
                ("version", ""),
                ("usable", "r"),
                ("reserve", "r"),
                ("page tokens", "r"),
                ("host per step", "r"),
                ("known", ""),
            ),
            rows=rows,
            page=page(),
        ),
    )
    return FINE


SCHEMAS = {
    "machine": ("bytebound.documents.device", "Device"),
    "fleet": ("bytebound.documents.fleet", "Fleet"),
    "estimate": ("bytebound.documents.estimate", "Estimate"),
    "train": ("bytebound.documents.training", "TrainEstimate"),
    "trace": ("bytebound.documents.trace", "Trace"),
    "trace-estimate": ("bytebound.documents.trace_estimate", "TraceEstimate"),
    "audit": ("bytebound.documents.audit", "Audit"),
    "observation": ("bytebound.documents.observation", "Observation"),
    "run": ("bytebound.documents.observation", "Run"),
    "calibration": ("bytebound.documents.calibration", "Calibration"),
    "correction": ("bytebound.documents.correction", "Correction"),
    "comparison": ("bytebound.documents.comparison", "Comparison"),
    "validation": ("bytebound.documents.validation", "Validation"),
    "baseline": ("bytebound.documents.validation", "Baseline"),
    "refitted": ("bytebound.documents.refitted", "Refitted"),
    "watched": ("bytebound.documents.watched", "Watched"),
    "levers": ("bytebound.documents.lever", "Levers"),
    "lever-ranking": ("bytebound.documents.lever", "LeverRanking"),
    "plan": ("bytebound.documents.plan", "Plan"),
    "plan-request": ("bytebound.documents.plan_file", "PlanFile"),
    "proof": ("bytebound.documents.proof", "Proof"),
    "proofs": ("bytebound.documents.proof", "Proofs"),
    "proof-errors": ("bytebound.documents.proof", "ProofErrors"),
    "sweep": ("bytebound.documents.sweep", "Sweep"),
    "sweep-summary": ("bytebound.documents.sweep", "SweepSummary"),
}


def schema(
    name: Annotated[
        str,
        Parameter(
            help="machine, fleet, estimate, train, audit, observation, run, calibration, correction, comparison, validation, baseline, refitted, watched, trace, trace-estimate, levers, lever-ranking, plan, plan-request, proof, proofs, proof-errors, sweep or sweep-summary."
        ),
    ],
    /,
) -> int:
    """Print the JSON Schema of a document.

    Example:
        bytebound schema fleet
    """
    if name not in SCHEMAS:
        raise UnknownNameError("document", name, SCHEMAS, place="schema", mend=f"choose one of {', '.join(SCHEMAS)}")
    from importlib import import_module  # noqa: PLC0415
    from json import dumps  # noqa: PLC0415

    from bytebound.documents.values import json_schema  # noqa: PLC0415

    module, kind = SCHEMAS[name]
    show(dumps(json_schema(getattr(import_module(module), kind)), indent=2))
    return FINE

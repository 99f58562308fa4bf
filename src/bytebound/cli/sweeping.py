"""Larger sweeps: ``bytebound sweep``."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import Annotated

from cyclopts import Group, Parameter

from bytebound.cli.output import FINE, Json, Quiet, emit, page, say

RUNNING = Group("Running", sort_key=8)
Some = Parameter(consume_multiple=True, negative="")


def sweep(
    fleet: Annotated[Path, Parameter(help="The fleet file (TOML); see docs/fleet.md.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for the tables; new, or of this sweep with --resume.")],
    months: Annotated[int | None, Parameter(help="Horizon; the file's own by default.")] = None,
    draws: Annotated[int, Parameter(help="Samples of growth, slip and model error.")] = 10_000,
    seed: Annotated[int, Parameter(help="Seed; the same seed gives the same tables.")] = 0,
    plans: Annotated[
        list[str] | None,
        Some,
        Parameter(
            help="fp8-kv, fp8-weights+fp8-kv, roadmap-device:ID, more-devices:N; levers (each alone, the default) or pairs."
        ),
    ] = None,
    slip_months: Annotated[
        list[float] | None, Some, Parameter(help="Scenarios: roadmap additions this much later.")
    ] = None,
    memory_price: Annotated[list[float] | None, Some, Parameter(help="Scenarios: factors on memory prices.")] = None,
    on_ray: Annotated[
        str | None, Parameter(group=RUNNING, help="Ray cluster: HOST:PORT, auto, or local for one of its own.")
    ] = None,
    workers: Annotated[int | None, Parameter(group=RUNNING, help="Processes here, or parts at once on Ray.")] = None,
    resume: Annotated[bool, Parameter(negative="", group=RUNNING, help="Go on with what the folder lacks.")] = False,
    part_draws: Annotated[int, Parameter(group=RUNNING, help="Draws of a part, the most a kill can lose.")] = 20_000,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Audit a fleet under many plans, roadmap scenarios and draws, into Parquet; say the cheapest plan that keeps the risk.

    Examples:
        bytebound sweep examples/fleet.toml --out out/sweep --slip-months 0 3 --memory-price 1 1.5

        bytebound sweep fleet.toml --out out/pairs --plans pairs --draws 100000 --on-ray 10.0.0.5:6379

        bytebound sweep fleet.toml --out out/pairs --plans pairs --draws 100000 --resume
    """
    from bytebound.sweep import sweep_fleet  # noqa: PLC0415 - heavy imports belong to the verb

    shown = quiet or not sys.stderr.isatty()

    def progress(done: int, parts: int) -> None:
        if done % max(parts // 20, 1) == 0:
            say(f"{done:,} of {parts:,} parts", quiet=shown)

    found = sweep_fleet(
        fleet, out, months=months, draws=draws, seed=seed, plans=plans or ("levers",), slip_months=slip_months or (0.0,),
        memory_price=memory_price or (1.0,), on=on_ray, workers=workers, resume=resume, part_draws=part_draws,
        progress=progress,
    )  # fmt: skip

    def text() -> str:
        from bytebound.report.terminal_sweep import sweep_text  # noqa: PLC0415

        return sweep_text(found, page())

    emit(found, json=json, text=text)
    return FINE

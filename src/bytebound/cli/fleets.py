"""The main job: ``bytebound audit``."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bytebound.cli.output import FINE, NO, OUTPUT, Html, Json, Quiet, emit, page, say, writable, write
from bytebound.errors import QuantityError, UnknownNameError

if TYPE_CHECKING:
    from bytebound.documents.audit import Audit


def audit(
    fleet: Annotated[Path, Parameter(help="The fleet file (TOML); see docs/fleet.md.")],
    /,
    *,
    months: Annotated[int | None, Parameter(help="Horizon; the file's own by default.")] = None,
    draws: Annotated[int, Parameter(help="Samples of growth, slip and model error.")] = 10_000,
    seed: Annotated[int, Parameter(help="Seed; the same seed gives the same audit.")] = 0,
    memory_price: Annotated[float, Parameter(help="Scenario: factor on memory prices, such as 1.5 or 2.")] = 1.0,
    slip_months: Annotated[float, Parameter(help="Scenario: every roadmap addition comes this much later.")] = 0.0,
    fail_on: Annotated[str, Parameter(help="starves-within=MONTHS or never; decides exit code 1.")] = "never",
    json: Json = False,
    html: Html = None,
    sarif: Annotated[Path | None, Parameter(group=OUTPUT, help="Also write SARIF 2.1.0 to this file.")] = None,
    junit: Annotated[Path | None, Parameter(group=OUTPUT, help="Also write JUnit XML to this file.")] = None,
    quiet: Quiet = False,
) -> int:
    """Say which workload of a fleet starves first, on what, in which month, and the cheapest fix.

    Examples:
        bytebound audit examples/fleet.toml --html out/audit.html

        bytebound audit fleet.toml --memory-price 1.5 --slip-months 3 --fail-on starves-within=6
    """
    within = read_fail_on(fail_on)
    for target in (html, sarif, junit):
        writable(target)
    from bytebound.audit import audit_fleet, starving  # noqa: PLC0415
    from bytebound.prove.known import kept  # noqa: PLC0415

    say(f"auditing {fleet} …", quiet=quiet or not sys.stderr.isatty())
    found = audit_fleet(
        fleet, months=months, draws=draws, seed=seed, memory_price=memory_price, slip_months=slip_months,
        proofs=kept(),
    )  # fmt: skip
    flags = {"draws": draws, "seed": seed, "memory-price": memory_price, "slip-months": slip_months}
    found = replace(found, run={**found.run, "command": command_of(found, fleet, flags)})
    hungry = starving(found, within) if within is not None else []
    pages: list[tuple[Path, str]] = []
    if html is not None:
        from bytebound.report.html import audit_html  # noqa: PLC0415

        pages.append((html, audit_html(found)))
    if sarif is not None:
        from bytebound.report.sarif import audit_sarif  # noqa: PLC0415

        pages.append((sarif, audit_sarif(found, file=relative(fleet), lines=workload_lines(fleet))))
    if junit is not None:
        from bytebound.report.junit import audit_junit  # noqa: PLC0415

        failing = starving(found, len(found.months)) if within is None else hungry
        pages.append((junit, audit_junit(found, failing=failing, within=within)))
    for path, content in pages:
        write(path, content, quiet=quiet)

    def text() -> str:
        from bytebound.report.terminal import audit_text  # noqa: PLC0415

        return audit_text(found, page())

    emit(found, json=json, text=text)
    if hungry:
        say(f"exit 1: {', '.join(hungry)} starve{'s' if len(hungry) == 1 else ''} within {within} months", quiet=quiet)
    return NO if hungry else FINE


def command_of(audit: Audit, fleet: Path, flags: dict[str, float]) -> str:
    """Return the command that gives this audit again: horizon, draws and seed always, scenarios where they are on."""
    off = {"memory-price": 1.0, "slip-months": 0.0}
    stated = [
        f"--{name} {value:g}" if name in off else f"--{name} {value}"
        for name, value in flags.items()
        if value != off.get(name)
    ]
    return " ".join(["bytebound audit", shlex.quote(relative(fleet)), f"--months {len(audit.months)}", *stated])


def relative(path: Path) -> str:
    """Return ``path`` from the working directory with forward slashes, or its name where it lies elsewhere."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.name


def workload_lines(path: Path) -> dict[str, int]:
    """Return the line of the fleet file on which each name is given, for tools that point at lines."""
    found: dict[str, int] = {}
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        named = re.match(r"""\s*name\s*=\s*["']([^"']+)["']""", line)
        if named:
            found[named[1]] = number
    return found


def read_fail_on(text: str) -> int | None:
    """Return the months of ``starves-within=MONTHS``, None for ``never``."""
    if text == "never":
        return None
    name, _, value = text.partition("=")
    if name != "starves-within":
        raise UnknownNameError(
            "condition", text, ["starves-within=6", "never"], place="--fail-on", mend="write starves-within=6"
        )
    if not value.isdecimal() or not 0 < int(value) <= 120:
        raise QuantityError(
            f"{value!r} is not a number of months from 1 to 120", place="--fail-on", mend="write starves-within=6"
        )
    return int(value)

"""One run calibrates: ``bytebound calibrate``, and what ``estimate --corrected-by`` reads."""

from __future__ import annotations

import json as text_json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bytebound.cli.measuring import kept_in
from bytebound.cli.observing import format_of, keep_all, progress
from bytebound.cli.output import FINE, OUTPUT, Json, Quiet, emit, page, writable, write
from bytebound.cli.serving import DEFAULT, Asked
from bytebound.errors import DocumentError, RequestError, UnfinishedError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.correction import Correction
    from bytebound.documents.observation import Observation, Run
    from bytebound.fitting.one_run import Point

TIME_NAMES = {"tpot": "tpot_s", "ttft": "ttft_s", "request": "request_s"}
RATE_NAMES = {
    "decode": "decode_tokens_per_s", "prefill": "prefill_tokens_per_s", "tokens": "tokens_per_s",
    "total": "total_tokens_per_s", "requests": "requests_per_s",
}  # fmt: skip
"""Short names of --measured; the metric's own name will do as well."""
MOST_BYTES = 2**26
"""An observation with every request of a long run is some megabytes."""


def calibrate(
    model: Annotated[str, Parameter(help="The model that ran; a record may name it.")] = "",
    /,
    *,
    from_: Annotated[
        tuple[str, ...],
        Parameter(name="--from", negative="", help="A run: an id of the history, latest, a JSON file of observe, or a truth CSV."),
    ] = (),
    measured: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="NAME=VALUE: tpot, ttft, request in time; decode, prefill, tokens, total, requests per second."),
    ] = (),
    truth: Annotated[
        tuple[Path, ...],
        Parameter(negative="", consume_multiple=True, help="Refit everything from these tables of measured rows; needs --out."),
    ] = (),
    silicon: Annotated[
        bool, Parameter(negative="", help="Refit also from the measurements inside the installed aiconfigurator-core package.")
    ] = False,
    on: Annotated[str, Parameter(name="--on", help="The machine it ran on; here for runs of the history.")] = "",
    asked: Asked = DEFAULT,
    out: Annotated[Path | None, Parameter(negative="", group=OUTPUT, help="Also write the correction to this file; of a refit, the folder its tables go to.")] = None,
    db: Annotated[str | None, Parameter(help="History: a file or an SQLAlchemy URL; BYTEBOUND_DB by default.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:  # fmt: skip
    """Tighten the predictions of one deployment with one measured run of it, or a few.

    The correction is kept in the history; estimate and explain lay it on with --corrected-by.

    Examples:
        bytebound calibrate llama-3.1-8b --on h100-sxm --batch 8 --measured tpot=9.1ms --measured ttft=210ms

        bytebound calibrate --from latest --weights q4_0

        bytebound calibrate --from observed.json llama-3.1-8b --on here --out ours.json

        bytebound calibrate --truth rows.csv --silicon --out refitted/
    """
    if truth or silicon:
        if from_ or measured or model:
            raise RequestError(
                "a refit is of tables of measured rows alone",
                place="--truth",
                mend="leave the model, --from and --measured out",
            )
        return refit_all(truth, silicon=silicon, out=out, json=json, quiet=quiet)
    writable(out)
    if bool(from_) == bool(measured):
        raise RequestError(
            "a run is needed: --from RUN or --measured NAME=VALUE, one of the two", place="--from",
            mend="see bytebound calibrate --help",
        )  # fmt: skip
    from bytebound.fitting.one_run import based, correct_points  # noqa: PLC0415

    if measured:
        given = _given(measured, model, on, asked)
    elif all(name.lower().endswith(".csv") for name in from_):
        given = _of_tables(from_, model, on)
    else:
        given = _of_runs([read_run(name, db) for name in from_], model, on, asked)
    setting = based(given.model, given.machine, given.points[0].work)
    found = correct_points(setting, given.points, engine_version=given.engine_version)
    history = kept_in(db, quiet=quiet)
    keep_all(history, found, quiet=quiet)
    if out is not None:
        from bytebound.documents.values import to_json  # noqa: PLC0415

        write(out, to_json(found) + "\n", quiet=quiet)

    def text() -> str:
        from bytebound.report.correction import correction_text  # noqa: PLC0415

        return correction_text(found, page(), name=str(out or found.id))

    emit(found, json=json, text=text)
    return FINE


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line named: model, machine, the engine's version and the measured points."""

    model: str
    machine: str
    engine_version: str
    points: tuple[Point, ...]


def _given(measured: Sequence[str], model: str, on: str, asked: Asked) -> Given:
    """Return the numbers of --measured."""
    _need(model, "MODEL", "name the model that ran")
    _need(on, "--on", "name the machine it ran on")
    from bytebound.fitting.one_run import Point  # noqa: PLC0415

    work = asked.work()
    pairs = [read_measured(text) for one in measured for text in one.split(",")]
    return Given(model, on, "", tuple(Point(metric, value, work, "given by hand") for metric, value in pairs))


def _need(given: str, place: str, mend: str) -> None:
    if not given:
        raise RequestError(f"{place} is missing", place=place, mend=mend)


def read_measured(text: str) -> tuple[str, float]:
    """Return (metric, SI value) of ``tpot=12.3ms`` or ``tokens=950``.

    Raises:
        UnknownNameError, QuantityError: not a metric, or not a positive time or rate.

    Example:
        >>> read_measured("tpot=12ms"), read_measured("tokens_per_s=950/s")
        (('tpot_s', 0.012), ('tokens_per_s', 950.0))
    """
    from bytebound.documents.work import check_range  # noqa: PLC0415
    from bytebound.units import parse  # noqa: PLC0415

    name, _, value = (part.strip() for part in text.partition("="))
    known = {**TIME_NAMES, **RATE_NAMES}
    metric = known.get(name, name)
    if metric not in known.values():
        raise UnknownNameError(
            "metric", name, [*known, *known.values()], place="--measured", mend=f"one of {', '.join(known)}"
        )
    dimension = "seconds" if metric in TIME_NAMES.values() else "requests per second"
    number = parse(value, dimension, place="--measured")
    check_range("--measured", number, 1e-12, 1e12)
    return metric, number


def _of_tables(tables: Sequence[str], model: str, on: str) -> Given:
    from bytebound.fitting.points import points_of_truth  # noqa: PLC0415
    from bytebound.truth.table import read_truth  # noqa: PLC0415

    rows = [row for name in tables for row in read_truth(Path(name))]
    if not rows:
        raise RequestError("the file holds no row", place=tables[0], mend="give one measured row at least")
    points = points_of_truth(rows)
    first = rows[0]
    if model and model.lower() != first.model.lower() and not first.model.lower().endswith(model.lower()):
        raise RequestError(f"the rows are of {first.model}", place=tables[0], mend="leave MODEL out")
    count = max(row.devices for row in rows)
    return Given(first.model, on or f"{count}x {first.device}", first.engine_version, points)


def _of_runs(records: Sequence[Observation | Run], model: str, on: str, asked: Asked) -> Given:
    """Return the points of runs; formats come from the record where it states them."""
    from bytebound.documents.observation import Run  # noqa: PLC0415
    from bytebound.facts.engines import engines  # noqa: PLC0415
    from bytebound.fitting.points import points_of_run  # noqa: PLC0415
    from bytebound.observe.compare import engine_of  # noqa: PLC0415

    runs = [record if isinstance(record, Run) else record.run for record in records]
    named = model or records[0].model
    _need(named, "MODEL", "name the model that ran")
    points: list[Point] = []
    for run in runs:
        known = run.engine.lower() in {*engines(), "ollama"}
        cache = str(run.settings.get("kv", "auto"))
        work = replace(
            asked.work(), engine=engine_of(run) if known else asked.engine, weights=format_of(run, asked.weights),
            kv=cache if asked.kv == "auto" and cache.startswith("q") else asked.kv,
            attention="eager" if run.settings.get("flash") == "off" else asked.attention,
        )  # fmt: skip
        points += points_of_run(run, work)
    return Given(named, on or "here", runs[0].engine_version, tuple(points))


def read_run(name: str, db: str | None = None) -> Observation | Run:
    """Return the run or observation that ``name`` is: a JSON file, or an id of the history.

    Raises:
        DocumentError, UnknownNameError: no such file or record, or another kind of document.
    """
    from bytebound.documents.observation import OBSERVATION_SCHEMA, RUN_SCHEMA  # noqa: PLC0415

    kinds = {OBSERVATION_SCHEMA: "observation", RUN_SCHEMA: "run"}
    found = _document(name, db, "run")
    if getattr(found, "schema_", "") not in kinds:
        raise DocumentError(
            "neither a run nor an observation", place=name, mend="give what `bytebound observe` printed or kept"
        )
    return found  # type: ignore[no-any-return]  # checked by its schema


def read_correction(name: str, db: str | None = None) -> Correction:
    """Return the correction that ``name`` is: a JSON file, or an id of the history.

    Raises:
        DocumentError, UnknownNameError: no such file or record, or another kind of document.
    """
    from bytebound.documents.correction import Correction  # noqa: PLC0415

    found = _document(name, db, "correction")
    if not isinstance(found, Correction):
        raise DocumentError("not a correction", place=name, mend="give what `bytebound calibrate` wrote or kept")
    return found


def _document(name: str, db: str | None, kind: str) -> Any:
    """Return the document in the file ``name``, or kept under that id; ``latest`` is of ``kind``."""
    if name.lower().endswith(".json") or Path(name).is_file():
        from bytebound.facts.tables import read_bounded  # noqa: PLC0415
        from bytebound.history.describe import read  # noqa: PLC0415

        text = read_bounded(Path(name), MOST_BYTES)
        try:
            data = text_json.loads(text)
        except ValueError as error:
            raise DocumentError(f"not JSON: {error}", place=name, mend="write it with --json") from None
        return read(str(data.get("schema", "")) if isinstance(data, dict) else "", text, place=name)
    from bytebound.history.store import fetch, open_history  # noqa: PLC0415

    history = open_history(db)
    if kind == "run" and name in {"latest", "previous"}:
        return fetch(history, name, kind="observation")
    return fetch(history, name, kind="correction" if kind == "correction" else None)


def refit_all(truth: tuple[Path, ...], *, silicon: bool, out: Path | None, json: bool, quiet: bool) -> int:
    """Refit offsets and interval terms from tables of measured rows and write both tables to a folder.

    Raises:
        RequestError: no folder is given, or it is no folder.
        DocumentError: the folder it is to be in does not exist, or a table's name is taken by a folder.
        UnfinishedError: the tables cannot be written, or the fit does not settle.
    """
    if out is None or (out.exists() and not out.is_dir()):
        raise RequestError("a refit writes two tables", place="--out", mend="give a folder: --out refitted/")
    files = (out / "calibration.csv", out / "intervals.csv")
    for path in files if out.exists() else (out,):
        writable(path)
    import time  # noqa: PLC0415
    from datetime import UTC, datetime  # noqa: PLC0415

    from bytebound.cli.validating import read_all  # noqa: PLC0415
    from bytebound.documents.refitted import Refitted  # noqa: PLC0415
    from bytebound.facts.calibration import format_offsets  # noqa: PLC0415
    from bytebound.facts.intervals import format_terms  # noqa: PLC0415
    from bytebound.fitting.refit import errors_left_out, refit  # noqa: PLC0415
    from bytebound.report.refitted import refitted_text  # noqa: PLC0415

    begun, today = time.perf_counter(), datetime.now(tz=UTC).date().isoformat()
    with progress(quiet=quiet) as tell:
        rows, _, names = read_all(truth, silicon=silicon, tell=tell)
        source = "; ".join(names)
        found = refit(rows, source=source, date=today, tell=tell)
    made_folder(out)
    write(files[0], format_offsets(found.offsets), quiet=quiet)
    write(files[1], format_terms(found.terms, source=source, date=today), quiet=quiet)
    document = Refitted(
        when=datetime.now(tz=UTC).isoformat(timespec="seconds"), truth=names, rows=len(rows), used=int(found.usable.sum()),
        beyond_physics=found.beyond, offsets=len(found.offsets), terms=len(found.terms),
        left_out=errors_left_out(found, rows), files=tuple(map(str, files)), seconds=time.perf_counter() - begun,
    )  # fmt: skip
    emit(document, json=json, text=lambda: refitted_text(document))
    return FINE


def made_folder(path: Path) -> None:
    """Make the folder ``path`` where it is not there.

    Raises:
        UnfinishedError: it cannot be made.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise UnfinishedError(
            f"cannot make the folder: {error.strerror}", place=str(path), mend="name one that can be written"
        ) from None

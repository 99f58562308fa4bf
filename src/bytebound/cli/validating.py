"""Predictions beside public measurements: ``bytebound validate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003 - the parser reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from bytebound.cli.observing import progress
from bytebound.cli.output import FINE, NO, Html, Json, Quiet, emit, page, say, writable, write
from bytebound.errors import DocumentError, QuantityError, RequestError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bytebound.documents.truth import Truth
    from bytebound.documents.validation import Protocol, Validation
    from bytebound.truth.readings import Readings, Unexpressed

MOST = 1000
"""Worst rows that may be asked for."""
EVERY_KEY = "source,device,family,engine,model,kind,metric,regime"
Asked = Literal["fit", "leave-one-device-out", "leave-one-model-out", "leave-one-engine-out", "leave-one-generation-out",
                "leave-one-source-out"]  # fmt: skip


def validate(
    *,
    truth: Annotated[
        tuple[Path, ...],
        Parameter(
            negative="",
            consume_multiple=True,
            show_default=False,
            help="Measured rows: tables of ours or of the public corpus' layout; the table shipped with bytebound by default.",
        ),
    ] = (),
    training: Annotated[
        bool,
        Parameter(
            negative="",
            help="Training runs: step time, memory, what fits. Tables of ours or of the public layout, or a folder of it.",
        ),
    ] = False,
    proofs: Annotated[
        bool,
        Parameter(negative="", help="What was proven on machines here (bytebound prove), beside what was predicted."),
    ] = False,
    silicon: Annotated[
        bool, Parameter(negative="", help="Also the measurements inside the installed aiconfigurator-core package.")
    ] = False,
    protocol: Annotated[Asked, Parameter(help="What the fit may have seen of the rows it predicts.")] = "fit",
    by: Annotated[
        str,
        Parameter(
            help="Group by source, device, family, engine, model, kind, metric, regime (training: source, device, framework, precision, model, "
            "metric, recompute, trainable): any, with commas."
        ),
    ] = EVERY_KEY,
    worst: Annotated[int, Parameter(help="Rows furthest off to show, with our best explanation.")] = 20,
    markdown: Annotated[Path | None, Parameter(help="Also write the accuracy page of the documentation.")] = None,
    baseline: Annotated[Path | None, Parameter(help="Compare with the figures committed in this file.")] = None,
    save_baseline: Annotated[Path | None, Parameter(help="Write the figures that later runs compare with.")] = None,
    fail_on: Annotated[
        Literal["worse", "never"],
        Parameter(help="worse: exit 1 when a group is worse than committed by more than noise."),
    ] = "never",
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:
    """Say how wrong the predictions are: predicted beside measured, with error, bias and coverage by group.

    Without --truth it is offline and takes the rows that ship with bytebound, each with its source.
    Rows that cannot be expressed are counted by reason.

    Examples:
        bytebound validate

        bytebound validate --protocol leave-one-device-out --by device,engine --html accuracy.html

        bytebound validate --truth mine.csv --truth theirs.csv --json

        bytebound validate --training --protocol leave-one-source-out

        bytebound validate --proofs

        bytebound validate --baseline validation/baseline.json --fail-on worse -q
    """
    for path in (html, markdown, save_baseline):
        writable(path)
    if proofs:
        others = (truth, training, silicon, html, markdown, baseline, save_baseline, fail_on != "never")
        return validate_proofs(alone=not any(others), json=json)
    keys = () if training else read_by(by)
    check_worst(worst)
    if training:
        from bytebound.cli.validating_training import refuse_with_training, validate_training_rows  # noqa: PLC0415

        refuse_with_training({"--silicon": silicon, "--html": html is not None, "--baseline": baseline is not None,
                              "--save-baseline": save_baseline is not None, "--fail-on": fail_on != "never"})  # fmt: skip
        asked = "" if by == EVERY_KEY else by
        return validate_training_rows(
            truth, protocol=protocol, by=asked, worst=worst, markdown=markdown, json=json, quiet=quiet
        )
    if protocol == "leave-one-source-out":
        raise RequestError(
            "leave-one-source-out is a protocol of training rows", place="--protocol", mend="add --training"
        )
    if fail_on == "worse" and baseline is None:
        raise RequestError(
            "--fail-on worse compares with committed figures", place="--fail-on", mend="add --baseline FILE"
        )
    from bytebound.validate.baseline import baseline_of, read_baseline, regressions  # noqa: PLC0415

    committed = None if baseline is None else read_baseline(baseline)
    with progress(quiet=quiet) as tell:
        rows, unexpressed, names = read_all(truth, silicon=silicon, tell=tell)
        tell(f"predicting {len(rows)} rows, {protocol}")
        found = run_validation(rows, unexpressed, protocol=protocol, by=keys, worst=worst)
    found = replace(found, truth=names)
    if committed is not None:
        found = replace(found, regressions=regressions(found, committed, place=str(baseline)))
    for path, text in pages(found, html=html, markdown=markdown):
        write(path, text, quiet=quiet)
    if save_baseline is not None:
        from bytebound.documents.values import to_json  # noqa: PLC0415

        write(save_baseline, to_json(baseline_of(found)) + "\n", quiet=quiet)

    def shown() -> str:
        from bytebound.report.validation import validation_text  # noqa: PLC0415

        return validation_text(found, page())

    emit(found, json=json, text=shown)
    return verdict(found, fail_on=fail_on, quiet=quiet)


def check_worst(worst: int) -> None:
    """Raise QuantityError where more rows are asked for than are shown."""
    if not 0 <= worst <= MOST:
        raise QuantityError(
            f"{worst} rows are outside 0 … {MOST}", place="--worst", mend="ask for fewer, or use --json"
        )


def read_by(text: str) -> tuple[str, ...]:
    """Return what to group by.

    Raises:
        UnknownNameError: a name that is no key.
    """
    from bytebound.documents.validation import KEYS  # noqa: PLC0415

    keys = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for key in keys:
        if key not in KEYS:
            raise UnknownNameError("group", key, KEYS, place="--by", mend=f"choose from {', '.join(KEYS)}")
    if not keys:
        raise RequestError("no group is named", place="--by", mend=f"choose from {', '.join(KEYS)}")
    return keys


def read_all(
    files: Sequence[Path], *, silicon: bool, tell: Callable[[str], None]
) -> tuple[tuple[Truth, ...], tuple[Unexpressed, ...], tuple[str, ...]]:
    """Return the rows of every table that was asked for, those that cannot be expressed, and what the tables are called.

    Raises:
        DocumentError: a table cannot be read, two hold the same id, or none holds a row that can be expressed.
    """
    from bytebound.truth import read_any, shipped_truth  # noqa: PLC0415

    parts: list[tuple[str, tuple[Truth, ...], tuple[Unexpressed, ...]]] = []
    for path in files:
        tell(f"reading {path.name}")
        read: Readings = read_any(path)
        parts.append((path.name, read.rows, read.unexpressed))
    if silicon:
        from bytebound.truth.silicon import read_silicon  # noqa: PLC0415

        tell("reading the measurements of aiconfigurator-core")
        read = read_silicon()
        parts.append(("aiconfigurator-core", read.rows, read.unexpressed))
    if not parts:
        parts.append(("the shipped table", shipped_truth(), ()))
    seen: dict[str, str] = {}
    for name, rows, _ in parts:
        for row in rows:
            if row.id in seen:
                raise DocumentError(
                    f"row {row.id!r} is also in {seen[row.id]}",
                    place=name,
                    mend="give each table once, with ids of its own",
                )
        seen.update(dict.fromkeys((row.id for row in rows), name))
    everything = tuple(row for _, rows, _ in parts for row in rows)
    unexpressed = tuple(row for _, _, rows in parts for row in rows)
    names = tuple(name for name, _, _ in parts)
    if not everything:
        reasons = dict.fromkeys(row.reason for row in unexpressed)
        why = f": {'; '.join(list(reasons)[:3])}" if reasons else ""
        raise DocumentError(
            f"no row can be expressed{why}", place=", ".join(names), mend="give a table with measured rows"
        )
    return everything, unexpressed, names


def run_validation(
    rows: Sequence[Truth], unexpressed: Sequence[Unexpressed], *, protocol: Protocol, by: Sequence[str], worst: int
) -> Validation:
    """Return the validation of ``rows``; apart, so that nothing heavy is imported before the tables are read."""
    from bytebound.validate.run import validate as compare  # noqa: PLC0415

    return compare(rows, unexpressed, protocol=protocol, by=by, worst=worst)


def pages(found: Validation, *, html: Path | None, markdown: Path | None) -> list[tuple[Path, str]]:
    """Return the files that were asked for, rendered."""
    made: list[tuple[Path, str]] = []
    if html is not None:
        from bytebound.report.validation_html import validation_html  # noqa: PLC0415

        made.append((html, validation_html(found)))
    if markdown is not None:
        from bytebound.report.validation_markdown import validation_markdown  # noqa: PLC0415

        made.append((markdown, validation_markdown(found)))
    return made


def verdict(found: Validation, *, fail_on: str, quiet: bool) -> int:
    """Return the exit code, and say why it is 1."""
    if fail_on != "worse" or not found.regressions:
        return FINE
    from bytebound.report.validation_words import count, regression_words  # noqa: PLC0415

    worse = found.regressions
    say(f"exit 1: {count(len(worse), 'group')} worse than committed; {regression_words(worse[0])}", quiet=quiet)
    return NO


def validate_proofs(*, alone: bool, json: bool) -> int:
    """Print how wrong the predictions of the proofs in the history were.

    Raises:
        RequestError: the history has none, or something else was asked for with them (not ``alone``).
    """
    if not alone:
        raise RequestError("proofs are validated by themselves", place="--proofs", mend="leave the other flags out")
    from bytebound.prove.known import kept  # noqa: PLC0415
    from bytebound.validate.proofs import proof_errors  # noqa: PLC0415

    found = proof_errors(kept())
    if not found.rows:
        raise RequestError("no conclusive proof is kept", place="--proofs", mend="bytebound prove --all")

    def text() -> str:
        from bytebound.report.proof import proof_errors_text  # noqa: PLC0415

        return proof_errors_text(found, page())

    emit(found, json=json, text=text)
    return FINE

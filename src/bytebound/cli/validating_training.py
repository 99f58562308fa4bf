"""``bytebound validate --training``: predictions beside published training runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.cli.observing import progress
from bytebound.cli.output import FINE, emit, page, write
from bytebound.errors import DocumentError, RequestError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bytebound.documents.train_truth import TrainTruth
    from bytebound.documents.training_validation import TrainingProtocol


def validate_training_rows(
    truth: Sequence[Path], *, protocol: str, by: str, worst: int, markdown: Path | None, json: bool, quiet: bool
) -> int:
    """Print how wrong predictions of training runs are; see ``cli.validating.validate``.

    Raises:
        RequestError: a protocol or group that training has not.
        DocumentError: a table cannot be read, two hold the same id, or none holds a row that can be expressed.
    """
    from bytebound.documents.training_validation import TRAINING_PROTOCOLS  # noqa: PLC0415

    keys = training_keys(by)
    if protocol not in TRAINING_PROTOCOLS:
        raise UnknownNameError(
            "protocol", protocol, TRAINING_PROTOCOLS, place="--protocol", mend=f"one of {', '.join(TRAINING_PROTOCOLS)}"
        )
    chosen: TrainingProtocol = "fit" if protocol == "fit" else "leave-one-source-out"
    with progress(quiet=quiet) as tell:
        rows, unread, names = read_training(truth)
        tell(f"predicting {len(rows)} rows of training runs, {protocol}")
        from bytebound.validate.training import validate_training  # noqa: PLC0415

        left_out = None
        if chosen == "leave-one-source-out":
            from bytebound.validate.training_left_out import left_out_times  # noqa: PLC0415

            left_out = left_out_times(rows, tell=tell)
        found = validate_training(rows, unread, protocol=chosen, by=keys, worst=worst, left_out=left_out)
    found = replace(found, truth=names)
    if markdown is not None:
        from bytebound.report.training_validation import training_validation_markdown  # noqa: PLC0415

        write(markdown, training_validation_markdown(found), quiet=quiet)

    def shown() -> str:
        from bytebound.report.training_validation import training_validation_text  # noqa: PLC0415

        return training_validation_text(found, page())

    emit(found, json=json, text=shown)
    return FINE


def training_keys(by: str) -> tuple[str, ...]:
    """Return what to group by; an empty text: by what is shown where nobody says.

    Raises:
        UnknownNameError: a name that is no key of training rows.
    """
    from bytebound.documents.training_validation import SHOWN_KEYS, TRAINING_KEYS  # noqa: PLC0415

    keys = tuple(dict.fromkeys(part.strip() for part in by.split(",") if part.strip())) or SHOWN_KEYS
    for key in keys:
        if key not in TRAINING_KEYS:
            raise UnknownNameError(
                "group",
                key,
                TRAINING_KEYS,
                place="--by",
                mend=f"with --training choose from {', '.join(TRAINING_KEYS)}",
            )
    return keys


def read_training(files: Sequence[Path]) -> tuple[tuple[TrainTruth, ...], Mapping[str, int], tuple[str, ...]]:
    """Return the rows of every table or folder, what cannot be expressed by reason, and what they are called.

    Raises:
        DocumentError: a table cannot be read, two hold the same id, or none holds a row that can be expressed.
    """
    from collections import Counter  # noqa: PLC0415

    from bytebound.truth.training import read_any_training, shipped_training_truth  # noqa: PLC0415

    if not files:
        return shipped_training_truth(), {}, ("the shipped table",)
    rows: list[TrainTruth] = []
    unread: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for path in files:
        more, reasons = read_any_training(path)
        unread += reasons
        for row in more:
            if row.id in seen:
                raise DocumentError(
                    f"row {row.id!r} is also in {seen[row.id]}", place=str(path), mend="give each table once"
                )
            seen[row.id] = path.name
        rows += more
    if not rows:
        why = f": {'; '.join(list(unread)[:3])}" if unread else ""
        raise DocumentError(
            f"no row can be expressed{why}",
            place=", ".join(p.name for p in files),
            mend="give a table with measured rows",
        )
    return tuple(rows), dict(unread), tuple(path.name for path in files)


def refuse_with_training(given: Mapping[str, bool]) -> None:
    """Raise RequestError for an option that goes with serving rows alone."""
    for option, is_given in given.items():
        if is_given:
            raise RequestError(f"{option} does not go with --training", place=option, mend=f"leave {option} out")

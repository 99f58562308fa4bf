"""Step times of each publication predicted by a fit that had seen none of its rows, with intervals from the other publications."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.errors import RequestError
from bytebound.fitting.training import cases
from bytebound.fitting.training_left_out import half_widths, leave_publications_out, publication
from bytebound.validate.training import TIMES, one_per_run, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bytebound.documents.train_truth import TrainTruth


def left_out_times(
    rows: Sequence[TrainTruth], *, tell: Callable[[str], None] = lambda _: None
) -> dict[str, tuple[float, float]]:
    """Return row id -> log of predicted over measured step time, and log half-width of its 80 % interval.

    Neither has seen the row's publication: the widths are those of the other publications' left-out rows.

    Args:
        rows: measured rows; those of other metrics than a step time are left aside.
        tell: progress.

    Raises:
        RequestError: fewer than two publications state a step time.
    """
    timed = [row for row in one_per_run(rows) if row.metric in TIMES and not refusal(row)]
    named = {publication(row.source) for row in timed}
    if len(named) < 2:
        raise RequestError(
            f"step times of {len(named)} publication{'s' if len(named) != 1 else ''} cannot leave one out",
            place="--protocol", mend="give rows of several sources, or use --protocol fit",
        )  # fmt: skip
    tell(f"fitting step times without each of {len(named)} publications")
    left = leave_publications_out(cases(timed))
    return {one.row.id: (one.error, float(width)) for one, width in zip(left, half_widths(left), strict=True)}

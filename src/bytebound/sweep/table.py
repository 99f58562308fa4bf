"""The table of a sweep: one row per workload, plan, scenario and draw, as Parquet that any reader takes.

About 30 bytes a row on disk; 10,000 draws × 11 workloads × 20 plans are 2.2 million rows. Risk by month, quantiles and costs of
any slice follow from it by grouping.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.audit.surface import LIMITS
from bytebound.errors import UnfinishedError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bytebound.documents.sweep import SweepPart

COLUMNS = {
    "draw": "int32", "starves_month": "int16", "headroom_now": "float32", "headroom_least": "float32",
    "least_month": "int16", "need_now": "float32", "need_last": "float32", "need_peak": "float32", "supply_now": "float32",
    "supply_last": "float32", "usd_needed": "float32", "usd_paid": "float32",
}  # fmt: skip
"""Name -> type. ``starves_month`` counts from 0 and is null where a draw does not starve; headroom is supply over need minus one,
now and at its least (in ``least_month``); needs and supplies are devices, null where no number of them is enough; ``usd_*`` are
US dollars over the horizon, null where a price is unknown or no number of devices is enough."""
NAMES = ("workload", "plan", "scenario", "resource")
"""Columns of names. ``resource`` is what limits in the month a draw starves."""
KEY = b"bytebound.sweep"


def libraries() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet.

    Raises:
        UnfinishedError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ModuleNotFoundError:
        raise UnfinishedError(
            "a sweep writes Parquet, which needs pyarrow", mend='pip install "bytebound[sweep]"'
        ) from None
    return pa, pq


def encoded(
    rows: dict[str, NDArray[Any]], *, part: SweepPart, scenarios: tuple[str, ...], sha256: str, said: dict[str, str]
) -> bytes:
    """Return a part's Parquet file, with what is ``said`` of its plan; no rows where it was refused. Same rows, same bytes."""
    pa, pq = libraries()
    count = len(rows["draw"]) if rows else 0
    limit = rows.get("limit", np.empty(0, dtype=np.int64))
    names = {
        "workload": (np.zeros(count), (part.workload,)),
        "plan": (np.zeros(count), (part.plan,)),
        "scenario": (np.repeat(np.arange(len(scenarios)), count // len(scenarios)), scenarios),
        "resource": (limit, LIMITS),
    }
    columns = {
        name: pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int16), mask=codes < 0), pa.array(values, pa.string())
        )
        for name, (codes, values) in names.items()
    }
    for name, kind in COLUMNS.items():
        values = np.asarray(rows.get(name, np.empty(0)))
        absent = values < 0 if name == "starves_month" else ~np.isfinite(values)
        columns[name] = pa.array(np.where(absent, 0, values).astype(kind), mask=absent)
    about = {"sha256": sha256, "part": part.index, "rows": count, "said": said}
    table = pa.table(
        {name: columns[name] for name in (*NAMES[:3], "draw", "starves_month", "resource", *list(COLUMNS)[2:])}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({KEY: json.dumps(about)}), sink, compression="zstd", write_page_checksum=True
    )
    return bytes(sink.getvalue())


def decoded(path: Path, *, part: SweepPart, sha256: str) -> tuple[Any, dict[str, str]] | None:
    """Return the table and what is said of its plan, or None where the file is absent, damaged or of another sweep."""
    pa, pq = libraries()
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        about = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
    except (OSError, ValueError, pa.ArrowException):
        return None
    if (about.get("sha256"), about.get("part"), about.get("rows")) != (sha256, part.index, table.num_rows):
        return None
    return table, dict(about["said"])

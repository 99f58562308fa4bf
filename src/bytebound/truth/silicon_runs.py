"""The lines of aiconfigurator-core's end-to-end sample as they stand there, each checked to be a run at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bytebound.errors import DocumentError, RequestError
from bytebound.facts.tables import read_bounded
from bytebound.truth.table import read_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = "aiconfigurator-core"
LARGEST_FILE = 2**25

COUNTS = ("isl", "osl", "batch_size", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
COLUMNS = (
    "id", "silicon_data_source", "backend", "backend_version", "model_path", "system", "precision", "mode",
    "gemm_quant_mode", "moe_quant_mode", *COUNTS, "silicon_ttft_ms", "silicon_tpot_ms",
)  # fmt: skip

_STATED = re.compile(r"_tp(\d+)(?:_0)?_ep\d+(?:_|$)")
_CONCURRENCY = re.compile(r"silicon_concurrency=(\d+)")
_DATE = re.compile(r"measured=(\d{4}-\d{2}-\d{2})")


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the sample as it stands there; counts that are blank are 0.

    Args:
        id, line: its id and its line in the file.
        origin: where the maker of the file has it from.
        model, system, backend, backend_version, precision, gemm, moe, mode: the sample's words.
        prompt, output: nominal tokens per request.
        batch: requests in flight per replica; tp, pp, dp, moe_tp, moe_ep: parallel degrees.
        ttft_s, tpot_s: means over requests [s].
    """

    id: str
    line: int
    origin: str
    model: str
    system: str
    backend: str
    backend_version: str
    precision: str
    gemm: str
    moe: str
    mode: str
    prompt: int
    output: int
    batch: int
    tp: int
    pp: int
    dp: int
    moe_tp: int
    moe_ep: int
    ttft_s: float
    tpot_s: float

    @property
    def public(self) -> bool:
        """Whether the run is one of InferenceX's; the others are benchmark jobs of NVIDIA's own."""
        return "source_file=/" not in self.origin

    @property
    def date(self) -> str:
        """When it was measured, or empty."""
        found = _DATE.search(self.origin)
        return found[1] if found else ""

    @property
    def concurrency(self) -> int:
        """Requests in flight of the whole deployment; 0: not stated."""
        found = _CONCURRENCY.search(self.origin)
        return int(found[1]) if found else 0

    @property
    def stated_tp(self) -> int:
        """Devices the run's own id names; 0: it names none."""
        found = _STATED.search(self.id)
        return int(found[1]) if found and self.public else 0

    @property
    def replicas(self) -> int:
        """Replicas of the attention layers; where not stated, what the degrees of the experts leave over."""
        if self.dp:
            return self.dp
        spread = self.moe_tp * self.moe_ep
        return spread // self.tp if self.tp and spread > self.tp and spread % self.tp == 0 else 1


def silicon_path() -> Path:
    """Return the sample of the installed package.

    Raises:
        RequestError: the package is not installed.
    """
    spec = find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(f"{PACKAGE} is not installed", place="silicon", mend='pip install "bytebound[validate]"')
    return Path(spec.submodule_search_locations[0]) / "systems" / "silicon_sample.csv"


def read_runs(path: str | Path | None = None) -> tuple[Run, ...]:
    """Return every line of the sample, unjudged.

    Args:
        path: a file of that layout; None: the installed package's.

    Raises:
        DocumentError: the file cannot be read, lacks a column, or has a cell that is no number; carries ``file:line``.
        RequestError: no path, and the package is not installed.
    """
    file = silicon_path() if path is None else Path(path)
    header, rows = read_rows(read_bounded(file, LARGEST_FILE), str(file))
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise DocumentError(f"the column {missing[0]!r} is missing", place=f"{file}:1", mend="is it a silicon sample?")
    return tuple(_run(cells, line, f"{file}:{line}") for line, cells in rows)


def _run(cells: Mapping[str, str], line: int, place: str) -> Run:
    counts = [_count(cells, name, place) for name in COUNTS]
    prompt, output, batch, tp, pp, dp, moe_tp, moe_ep = counts
    return Run(
        id=cells["id"], line=line, origin=cells["silicon_data_source"], model=cells["model_path"],
        system=cells["system"], backend=cells["backend"], backend_version=cells["backend_version"],
        precision=cells["precision"], gemm=cells["gemm_quant_mode"], moe=cells["moe_quant_mode"], mode=cells["mode"],
        prompt=prompt, output=output, batch=batch, tp=tp, pp=pp, dp=dp, moe_tp=moe_tp, moe_ep=moe_ep,
        ttft_s=_seconds(cells, "silicon_ttft_ms", place), tpot_s=_seconds(cells, "silicon_tpot_ms", place),
    )  # fmt: skip


def _number(cells: Mapping[str, str], name: str, place: str) -> float:
    try:
        value = float(cells[name])
    except ValueError:
        raise DocumentError(f"{name} is {cells[name]!r}, not a number", place=place) from None
    if not 0 <= value < 1e9:
        raise DocumentError(f"{name} is {cells[name]}, not a finite number from 0 up", place=place)
    return value


def _count(cells: Mapping[str, str], name: str, place: str) -> int:
    if not cells[name]:
        return 0
    value = _number(cells, name, place)
    if value != int(value):
        raise DocumentError(f"{name} is {cells[name]}, not a whole number", place=place)
    return int(value)


def _seconds(cells: Mapping[str, str], name: str, place: str) -> float:
    value = _number(cells, name, place) / 1e3
    if value <= 0:
        raise DocumentError(f"{name} is {cells[name]}, not a time", place=place)
    return value

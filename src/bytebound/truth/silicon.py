"""Reads the end-to-end measurements that ship with aiconfigurator-core: mean TTFT and TPOT of servers under closed load."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bytebound.documents.truth import Truth
from bytebound.documents.work import Serve
from bytebound.errors import DocumentError, RequestError, UnknownNameError
from bytebound.facts.tables import read_bounded
from bytebound.models.catalogue import resolve
from bytebound.truth.readings import Readings, Unexpressed
from bytebound.truth.silicon_names import (
    BLOCK_FP8,
    CHECKPOINTS,
    DEVICES,
    ENGINES,
    FORMATS,
    MODELS,
    SPECULATION,
)
from bytebound.truth.table import read_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = "aiconfigurator-core"
SOURCE = "aiconfigurator_silicon"
LARGEST_FILE = 2**25
DRAWN = 0.9
"""InferenceX draws lengths evenly from 0.8 to 1.0 of the nominal ones. Source: its benchmark's --random-range-ratio 0.8."""

NODE_DEVICES = 8
"""Devices of one node in InferenceX's aggregated runs; its racks serve disaggregated."""

COUNTS = (
    "isl", "osl", "batch_size", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size",
)  # fmt: skip
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


class _RefusedError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


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


def read_silicon(path: str | Path | None = None) -> Readings:
    """Return the sample as measured numbers of ours: ``ttft_s`` and ``tpot_s`` of each run.

    Every line gives two numbers, so rows and unexpressed together are twice the lines. Left out are disaggregated runs,
    runs that decoded speculatively or may have, runs whose device count contradicts their id (tp × ep counted as tp),
    degrees no engine can run, and the same run listed again in a later dump.

    Raises:
        DocumentError, RequestError: as ``read_runs``; also when a run's id stands twice.
    """
    runs = read_runs(path)
    release = _release() if path is None else ""
    found: list[Truth] = []
    refused: list[Unexpressed] = []
    for run, truths in zip(runs, _expressed(runs, release), strict=True):
        if isinstance(truths, tuple):
            found.extend(truths)
        else:
            refused.extend(
                Unexpressed(f"{run.id}/{metric}", SOURCE, run.line, truths.reason, truths.detail)
                for metric in ("ttft_s", "tpot_s")
            )
    return Readings(tuple(found), tuple(refused))


def run_of(truth_id: str) -> str:
    """Return the run's id of a row of ``read_silicon``.

    Example:
        >>> run_of("some_run_cfg1/tpot_s")
        'some_run_cfg1'
    """
    return truth_id.rpartition("/")[0]


def _expressed(runs: tuple[Run, ...], release: str) -> list[tuple[Truth, ...] | _RefusedError]:
    answers: list[tuple[Truth, ...] | _RefusedError] = []
    for run in runs:
        try:
            answers.append(_truths(run, release))
        except _RefusedError as refused:
            answers.append(refused)
    same: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, (run, answer) in enumerate(zip(runs, answers, strict=True)):
        if isinstance(answer, tuple):
            truth = answer[0]
            clocks = round(run.ttft_s, 5), round(run.tpot_s, 5)
            key = truth.device, truth.engine, truth.model, run.prompt, run.output, run.concurrency, *clocks
            same[key].append(index)
    for indices in same.values():
        kept = max(
            indices, key=lambda i: (bool(runs[i].date), bool(runs[i].stated_tp), bool(runs[i].backend_version), -i)
        )
        for index in indices:
            if index != kept:
                answers[index] = _RefusedError("the same run is listed twice", f"as {runs[kept].id}")
    return answers


def _truths(run: Run, release: str) -> tuple[Truth, ...]:
    if run.mode != "agg":
        raise _RefusedError("disaggregated deployment", run.mode)
    if run.system not in DEVICES:
        raise _RefusedError("device not in the catalogue", run.system)
    if run.backend not in ENGINES:
        raise _RefusedError("engine not in the catalogue", run.backend)
    _check_degrees(run)
    device, engine = DEVICES[run.system], ENGINES[run.backend]
    model, weights, stored = _weights(run)
    _check_plain(run, (MODELS.get(run.model, run.model), stored, device, engine))
    share = DRAWN if run.public else 1.0
    work = Serve(
        batch=run.batch, prompt=max(round(share * run.prompt), 1), output=max(round(share * run.output), 1),
        weights=weights, kv="fp8" if engine == "tensorrt-llm" and stored != "bf16" else "auto",
        tp=run.tp, pp=run.pp, ep=max(run.moe_ep, 1), dp=run.replicas, engine=engine,
    )  # fmt: skip

    def truth(metric: str, value: float) -> Truth:
        return Truth(
            id=f"{run.id}/{metric}", source=SOURCE, licence="Apache-2.0", date=run.date,
            locator=f"{PACKAGE} {release} systems/silicon_sample.csv line {run.line}".replace("  ", " "),
            trust="A" if run.public else "B", device=device, devices=run.tp * run.pp * run.replicas, engine=engine,
            engine_version=run.backend_version, backend="cuda", model=model, work=work, regime="closed-loop",
            metric=metric, statistic="mean", value=value, notes=_notes(run, stored),
        )  # fmt: skip

    return truth("ttft_s", run.ttft_s), truth("tpot_s", run.tpot_s)


def _check_degrees(run: Run) -> None:
    """Raise unless the degrees are those of a real run.

    InferenceX names a run by its devices; later dumps multiplied them by the expert degree. Where the id is silent, the
    same product shows: experts split evenly both ways, or attention split and replicated at once.
    """
    devices = run.tp * run.pp * run.replicas
    degrees = f"tp {run.tp}, dp {run.dp or 'not stated'}, experts {run.moe_tp} × {run.moe_ep}"
    if run.stated_tp and devices != run.stated_tp:
        raise _RefusedError("device count contradicts the run's own id", f"{degrees}, id says {run.stated_tp}")
    multiplied = run.moe_tp == run.moe_ep > 1 or (run.tp > 1 and run.dp > 1)
    if run.public and (devices > NODE_DEVICES or (not run.stated_tp and multiplied)):
        raise _RefusedError("parallel degrees not possible", degrees)
    if run.moe_ep and run.moe_tp * run.moe_ep not in (1, run.tp * run.replicas):
        raise _RefusedError("parallel degrees not possible", degrees)


def _weights(run: Run) -> tuple[str, str, str]:
    """Return our model id, ``Serve.weights`` and the weight format as such."""
    named = run.gemm or run.precision
    if named not in FORMATS:
        raise _RefusedError("weight format not in our table", named)
    model, stored = MODELS.get(run.model, run.model), FORMATS[named]
    checkpoint = CHECKPOINTS.get((model, stored))
    weights = "auto" if checkpoint else "fp8-block128" if stored == "fp8" and model in BLOCK_FP8 else stored
    try:
        return resolve(checkpoint or model), weights, stored
    except UnknownNameError:
        raise _RefusedError("model shape not known", checkpoint or model) from None


def _check_plain(run: Run, deployment: tuple[str, str, str, str]) -> None:
    rule = SPECULATION.get(deployment)
    if not run.public or rule is None or run.tp in rule.plain_tp:
        return
    if not run.date or (run.date >= rule.first and run.date not in rule.plain_dates):
        when = run.date or "undated"
        raise _RefusedError("speculative decoding on or unknown", f"{when}; {rule.source}")


def _notes(run: Run, stored: str) -> str:
    origin = "InferenceX" if run.public else "NVIDIA benchmark jobs"
    lengths = f"; lengths drawn from 0.8-1.0 of {run.prompt} and {run.output}, {DRAWN} assumed" if run.public else ""
    unstated = "" if run.gemm or run.precision else "; weight format not stated, as the named checkpoint"
    spread = f"; experts tp {run.moe_tp} ep {run.moe_ep}" if run.moe_ep > 1 or run.replicas > 1 else ""
    inferred = "; replicas from the degrees of the experts" if run.replicas > 1 and not run.dp else ""
    return f"{origin}; weights {stored}{lengths}{unstated}{spread}{inferred}"


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


def _release() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return ""

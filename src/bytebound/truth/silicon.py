"""aiconfigurator's end-to-end measurements in our vocabulary: mean TTFT and TPOT of servers under closed load."""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from bytebound.documents.truth import Truth
from bytebound.documents.work import Serve
from bytebound.errors import UnknownNameError
from bytebound.models.catalogue import resolve
from bytebound.truth.inferencex import LENGTH_SHARE
from bytebound.truth.jobs import DEDUCED, job_load
from bytebound.truth.launch import DRAWN, Launch, launch_of
from bytebound.truth.readings import Readings, Unexpressed
from bytebound.truth.silicon_names import BLOCK_FP8, CHECKPOINTS, DEVICES, ENGINES, FORMATS, MODELS, speculates
from bytebound.truth.silicon_runs import PACKAGE, Run, read_runs

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PACKAGE", "SOURCE", "Run", "read_runs", "read_silicon", "run_of"]

SOURCE = "aiconfigurator_silicon"
NODE_DEVICES = 8
"""Devices of one node in InferenceX's aggregated runs; its racks serve disaggregated."""


class _RefusedError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


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
            work = truth.work
            degrees = work.tp, work.pp, work.ep, work.dp
            key = (
                truth.device,
                truth.engine,
                truth.model,
                work.weights,
                run.batch,
                run.prompt,
                run.output,
                degrees,
                clocks,
            )
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
    if not run.concurrency:
        raise _RefusedError("batch not stated", f"{run.batch} a replica, and no concurrency")
    _check_degrees(run)
    device, engine = DEVICES[run.system], ENGINES[run.backend]
    model, weights, stored = _weights(run)
    _check_plain(run, (MODELS.get(run.model, run.model), stored, device, engine))
    share = DRAWN if run.public else 1.0
    launch = _launch(run, model, device, engine, stored)
    work = Serve(
        batch=run.batch, prompt=max(round(share * run.prompt), 1), output=max(round(share * run.output), 1),
        weights=weights, kv=launch.kv, chunk=launch.chunk,
        tp=run.tp, pp=run.pp, ep=max(run.moe_ep, 1), dp=run.replicas, engine=engine,
    )  # fmt: skip

    def truth(metric: str, value: float) -> Truth:
        return Truth(
            id=f"{run.id}/{metric}", source=SOURCE, licence="Apache-2.0", date=run.date,
            locator=f"{PACKAGE} {release} systems/silicon_sample.csv line {run.line}".replace("  ", " "),
            trust="A" if run.public else "B", device=device, devices=run.tp * run.pp * run.replicas, engine=engine,
            engine_version=run.backend_version, backend="cuda", model=model, work=work, regime="closed-loop",
            metric=metric, statistic="mean", value=value, notes=_notes(run, stored) + (f"; launched as {launch.source}" if launch.source else ""),
            load=launch.load,
        )  # fmt: skip

    return truth("ttft_s", run.ttft_s), truth("tpot_s", run.tpot_s)


def _launch(run: Run, model: str, device: str, engine: str, stored: str) -> Launch:
    """Return what a run's script set: KV format, most prompt tokens per step (0: the engine's own limit), and its load."""
    kv = "fp8" if engine == "tensorrt-llm" and stored != "bf16" else "auto"
    if not run.public:
        return Launch(kv, load=job_load(engine, run.backend_version, model, run.batch))
    return launch_of(
        model, device, stored, engine, kv=kv, isl=run.prompt, osl=run.output, tp=run.tp * run.replicas,
        running=run.concurrency, date=run.date,
    )  # fmt: skip


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
    why = speculates(*deployment, tp=run.tp, date=run.date) if run.public else ""
    if why:
        raise _RefusedError("speculative decoding on or unknown", why)


def _notes(run: Run, stored: str) -> str:
    origin = "InferenceX" if run.public else "NVIDIA benchmark jobs"
    lengths = (
        f"; lengths drawn from {LENGTH_SHARE}-1.0 of {run.prompt} and {run.output}, {DRAWN} assumed"
        if run.public
        else ""
    )
    unstated = "" if run.gemm or run.precision else "; weight format not stated, as the named checkpoint"
    spread = f"; experts tp {run.moe_tp} ep {run.moe_ep}" if run.moe_ep > 1 or run.replicas > 1 else ""
    inferred = "; replicas from the degrees of the experts" if run.replicas > 1 and not run.dp else ""
    deduced = "" if run.public else f"; {DEDUCED}"
    return f"{origin}; weights {stored}{lengths}{unstated}{spread}{inferred}{deduced}"


def _release() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return ""

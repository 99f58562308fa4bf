"""Read files of the public corpus layout: one row per published number, units and names as printed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bytebound.documents.truth import METRICS, Truth
from bytebound.documents.work import Serve
from bytebound.errors import DocumentError, QuantityError
from bytebound.facts.devices import devices
from bytebound.facts.tables import read_bounded
from bytebound.truth.assumed import SOURCES, TASK_LENGTHS, USUAL, Lengths, Source
from bytebound.truth.jobs import DEDUCED, job_load
from bytebound.truth.launch import DRAWN, Launch, launch_of
from bytebound.truth.names import backend_of, device_of, engine_of, model_of
from bytebound.truth.readings import Inexpressible, Readings, Unexpressed
from bytebound.truth.silicon_names import speculates
from bytebound.truth.table import LARGEST_FILE, read_rows
from bytebound.truth.weights import cache_of, stored_as, weights_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.truth import Backend, Regime, Statistic, Trust

SHARED = (
    "id", "source", "citation_locator", "engine", "engine_version", "model", "quant", "kv_dtype", "hardware", "n_devices",
    "input_len", "output_len", "value", "unit", "notes", "date", "trust",
)  # fmt: skip
SPEED = (*SHARED, "metric", "tp", "pp", "batch_or_concurrency")
MEMORY = (*SHARED, "kind", "batch")
"""Columns of the two layouts; others may be there (``hw_key`` and ``tier`` are used when they are)."""

METRIC_SPELLINGS: Mapping[str, tuple[str, float]] = {
    "decode_tok_s_single": ("decode_tokens_per_s", 1.0),
    "decode_tok_s_total": ("tokens_per_s", 1.0),
    "total_tok_s": ("total_tokens_per_s", 1.0),
    "prefill_tok_s": ("prefill_tokens_per_s", 1.0),
    "ttft_ms": ("ttft_s", 1e-3),
    "tpot_ms": ("tpot_s", 1e-3),
    "e2e_latency_ms": ("request_s", 1e-3),
    "throughput_tok_s_per_gpu": ("tokens_per_s", 1.0),
    "request_per_s": ("requests_per_s", 1.0),
    "energy_j_per_output_token": ("joules_per_token", 1.0),
    "peak_gpu_allocated": ("resident_bytes", 1.0),
    "gpu_memory_used": ("resident_bytes", 1.0),
    "peak_vram": ("resident_bytes", 1.0),
    "memory_used": ("resident_bytes", 1.0),
    "peak_rss": ("resident_bytes", 1.0),
    "weight_file_size": ("weights_bytes", 1.0),
}
"""Printed metric -> ours and the factor to SI (memory: times what the unit column says)."""

UNITS: Mapping[str, str] = {
    "decode_tok_s_single": "tok/s",
    "decode_tok_s_total": "tok/s",
    "total_tok_s": "tok/s",
    "prefill_tok_s": "tok/s",
    "ttft_ms": "ms",
    "tpot_ms": "ms",
    "e2e_latency_ms": "ms",
    "throughput_tok_s_per_gpu": "tok/s/device",
    "request_per_s": "req/s",
    "energy_j_per_output_token": "J/token",
}
"""The unit each speed metric is printed in; anything else is a cell in the wrong column."""

MEMORY_UNITS = (
    (r"^GiB|1024\^3", 2.0**30),
    (r"^GB", 2.0**30),
    (r"^MiB", 2.0**20),
    (r"^MB", 2.0**20),
    (r"^(B|bytes)$", 1.0),
)
"""Printed memory unit -> bytes: tools that print "GB" or "MB" of device memory divide by powers of 1,024."""

STATISTICS = (
    (re.compile(r"\bp99\b", re.IGNORECASE), "p99"),
    (re.compile(r"\bp90\b", re.IGNORECASE), "p90"),
    (re.compile(r"\bp50\b|\bmedian\b", re.IGNORECASE), "median"),
    (re.compile(r"^mean\b|; ?mean\b(?! (running|output|inp))|\baverage speed|averaged", re.IGNORECASE), "mean"),
    (re.compile(r"range min", re.IGNORECASE), "min"),
    (re.compile(r"range max", re.IGNORECASE), "max"),
)
NO_SPECULATION = re.compile(r"spec_decode ?= ?none|speculat\w* off", re.IGNORECASE)
SPECULATION = re.compile(r"spec_decode|\bmtp\b|speculative|\beagle\b|draft model", re.IGNORECASE)
WITH_PREFILL = re.compile(r"incl(\.|uding) (prefill|ttft)|incl\. the prompt|tokens/total time", re.IGNORECASE)
DEPTH = re.compile(r"@ ?d(\d+)")
BATCHED = re.compile(r"(\d+) sequences x (\d+) tokens after (\d+)-token prompts|(\d+) sequences x (\d+) prompt tokens")
PARALLEL = re.compile(r"DP(\d+) EP(\d+) TP(\d+)")
SETTING = re.compile(r"(attn_dp|moe_tp|moe_ep|gemm_quant|moe_quant) ?= ?(\w+)")
PER_REPLICA = re.compile(r"(?:batch/replica|per-replica batch_size) ?= ?(\d+)")
RUNNING = re.compile(r"mean running batch ([\d.]+)")
TASK = re.compile(r"(?:task|dataset) ([\w/+-]+)")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
OFFLOAD = re.compile(r"offload target: (cpu|disk)|\bhybrid\b|experts in dram", re.IGNORECASE)
RUN_ID = re.compile(r"\bid=\S*?_tp(\d+)(?:_|\b)")
"""The tensor degree a run's own id states, in a locator that repeats the id."""

NVIDIA_JOB = "NVIDIA GTL benchmark jobs"
"""What the notes of aiconfigurator's rows call NVIDIA's own jobs, whose load ``truth.jobs`` deduces."""
INFERENCEX = re.compile(r"origin[ =]InferenceX")
LAYER_SPLIT = {"llama.cpp", "transformers", "exllama"}
"""Engines that deal whole layers to devices, which then work in turn."""

MOST_DEVICES = 100_000


def read_corpus(path: str | Path) -> Readings:
    """Return the rows of a file of the public corpus layout, speeds or memory, in our vocabulary.

    Args:
        path: a CSV file, UTF-8, with the columns ``SPEED`` or ``MEMORY``. A ``sources.csv`` beside it gives licences.

    Returns:
        ``rows`` and ``unexpressed``, together as many as the file has rows.

    Raises:
        DocumentError: the file cannot be read, is of neither layout, or an id stands twice; carries ``file:line``.
    """
    place = Path(path)
    header, found = read_rows(read_bounded(place, LARGEST_FILE), str(path))
    wanted = MEMORY if "kind" in header else SPEED
    missing = [name for name in wanted if name not in header]
    if missing:
        mend = f"this layout has the columns {', '.join(wanted)}"
        raise DocumentError(f"the column {missing[0]!r} is missing", place=f"{path}:1", mend=mend)
    licences = read_licences(place.with_name("sources.csv"))
    rows: list[Truth] = []
    left: list[Unexpressed] = []
    seen: dict[str, int] = {}
    for line, cells in found:
        name = cells["id"]
        if name in seen:
            message = f"the id {name!r} stands on line {seen[name]} already"
            raise DocumentError(message, place=f"{path}:{line}", mend="give every row its own id")
        seen[name] = line
        try:
            rows.append(express(cells, licences.get(cells["source"], "")))
        except Inexpressible as why:
            left.append(Unexpressed(name, cells["source"], line, why.reason, why.detail[:200]))
    return Readings(tuple(rows), tuple(left))


def read_licences(path: Path) -> Mapping[str, str]:
    """Return source -> licence of a corpus's table of sources; nothing when there is none."""
    if not path.is_file():
        return {}
    header, rows = read_rows(read_bounded(path, LARGEST_FILE), str(path))
    if "source" not in header or "licence" not in header:
        return {}
    return {cells["source"]: cells["licence"] for _, cells in rows}


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a row runs, before its numbers: names of ours, and what had to be assumed.

    ``stored`` is the format most weights are in; ``weights`` says ``auto`` where the model's own entry stores them so.
    """

    device: str
    engine: str
    backend: str
    model: str
    weights: str
    stored: str
    kv: str
    kv_assumed: str
    assumed: tuple[str, ...]
    doubtful: bool


def express(cells: Mapping[str, str], licence: str = "") -> Truth:
    """Return one row of the corpus layout as a Truth.

    Raises:
        Inexpressible: it cannot be said in our vocabulary; carries the reason and what was read.
    """
    source = SOURCES.get(cells["source"], USUAL)
    notes = cells["notes"]
    memory = "kind" in cells
    metric, value = read_value(cells, cells["kind"] if memory else cells["metric"])
    refuse(cells, notes)
    runs = deployment(
        Printed(
            cells["hardware"],
            cells.get("hw_key", ""),
            cells["engine"],
            cells["model"],
            cells["quant"],
            cells["kv_dtype"],
            cells["source"],
            _layout_quant(notes),
        )
    )
    count = read_count(cells, source)
    prompt, output, assumed_lengths = read_lengths(cells, source, metric)
    batch, capacity = read_batch(cells["batch"] if memory else cells["batch_or_concurrency"], notes, metric, cells)
    tier = cells.get("tier", "")
    regime = read_regime(source, tier, metric, batch, capacity=capacity)
    degrees = read_degrees(cells, count, runs.engine, notes, runs.model)
    assumed = [*runs.assumed, *assumed_lengths.said]
    _refuse_run(cells, source, runs, degrees["tp"])
    launch = _launch(cells, source, runs, degrees["tp"] * degrees["dp"], batch)
    assumed += [DEDUCED.removeprefix("assumed: ")] if NVIDIA_JOB in notes else []
    if launch.source:
        assumed.append(f"KV format, prompt tokens per step and load as launched by {launch.source}")
    elif runs.kv_assumed:
        assumed.append(runs.kv_assumed)
    hit = 0.0
    depth = int(found[1]) if (found := DEPTH.search(notes)) else 0
    batched = BATCHED.search(notes)
    if batched and batched[1]:
        batch, output, prompt = float(batched[1]), float(batched[2]), float(batched[3])
        metric, value = "tpot_s", batch / value
        assumed.append(f"decode rate of {batch:g} sequences, prefill excluded, told as time per token of each")
    elif batched:
        batch, prompt = float(batched[4]), float(batched[5])
    elif depth and metric == "prefill_tokens_per_s":
        prompt, hit = prompt + depth, depth / (prompt + depth)
        assumed.append("the rate counts the new tokens of the prompt only")
    elif depth:
        prompt = float(depth)
    if metric == "decode_tokens_per_s" and WITH_PREFILL.search(notes):
        metric = "tokens_per_s"
    if metric == "tokens_per_s" and cells.get("metric") == "throughput_tok_s_per_gpu":
        value *= count
    work = serve(
        batch=float(own[1]) if (own := PER_REPLICA.search(notes)) else max(batch / degrees["dp"], 1.0),
        prompt=prompt,
        output=output,
        weights=runs.weights,
        kv=launch.kv,
        chunk=launch.chunk,
        engine=runs.engine,
        scheduling="continuous" if regime in {"closed-loop", "open-loop", "capacity"} else "static",
        prefix_hit=hit,
        **degrees,
    )
    doubtful = (
        runs.doubtful or assumed_lengths.doubtful or (cells["source"].startswith("mlperf") and not cells.get("tp"))
    )
    trust = "C" if doubtful or cells["trust"] not in {"A", "B"} else cells["trust"]
    return Truth(
        id=cells["id"],
        source=cells["source"],
        locator=cells["citation_locator"],
        licence=licence,
        date=found[0] if (found := re.match(r"\d{4}(-\d{2}(?!\d)){0,2}", cells["date"])) else "",
        trust=cast("Trust", trust),
        device=runs.device,
        devices=count,
        engine=runs.engine,
        engine_version=cells["engine_version"],
        backend=cast("Backend", runs.backend),
        model=runs.model,
        work=work,
        regime=regime,
        metric=metric,
        statistic=read_statistic(notes),
        value=value,
        load=launch.load,
        notes="; ".join([*(f"assumed: {item}" for item in assumed), notes]) if assumed else notes,
    )


def _refuse_run(cells: Mapping[str, str], source: Source, runs: Deployment, tp: int) -> None:
    """Raise for a run on a part of the device we have no figures of, and for one that may have decoded speculatively."""
    if runs.backend == "cpu" and devices()[runs.device].kind != "cpu":
        raise Inexpressible("run on the processor of a device catalogued by its accelerator", runs.device)
    if source.inferencex or INFERENCEX.search(cells["notes"]):
        why = speculates(runs.model, runs.stored, runs.device, runs.engine, tp=tp, date=cells["date"])
        if why:
            raise Inexpressible("speculative decoding on or unknown", why)


def _launch(cells: Mapping[str, str], source: Source, runs: Deployment, tp: int, batch: float) -> Launch:
    """Return how a run was launched as far as we know: an InferenceX run by its script, any other by its row alone."""
    if NVIDIA_JOB in cells["notes"]:
        return Launch(runs.kv, load=job_load(runs.engine, cells["engine_version"], runs.model, batch))
    if not (source.inferencex or INFERENCEX.search(cells["notes"])):
        return Launch(runs.kv)
    isl, osl = (int(number(cells[name]) or 1) for name in ("input_len", "output_len"))
    date = cells["date"] if DAY.fullmatch(cells["date"]) else ""
    return launch_of(
        runs.model,
        runs.device,
        runs.stored,
        runs.engine,
        kv=runs.kv,
        isl=isl,
        osl=osl,
        tp=tp,
        running=int(batch),
        date=date,
    )


@lru_cache(maxsize=65536)
def serve(**fields: Any) -> Serve:
    """Return a request, checked once for all rows that share it.

    Raises:
        Inexpressible: a quantity outside what a request can be.
    """
    try:
        return Serve(**fields)
    except QuantityError as error:
        raise Inexpressible("cells do not fit their columns", error.message) from None


def read_value(cells: Mapping[str, str], printed: str) -> tuple[str, float]:
    """Return our metric and the value in SI units.

    Raises:
        Inexpressible: a metric we do not predict, a unit it does not have, or no positive number.
    """
    if printed == "out_of_memory":
        raise Inexpressible("out of memory, not a measurement", cells["model"])
    if printed not in METRIC_SPELLINGS:
        raise Inexpressible("metric not predicted", printed)
    metric, factor = METRIC_SPELLINGS[printed]
    unit = cells["unit"]
    if METRICS[metric][0] == "B":
        factors = [size for pattern, size in MEMORY_UNITS if re.search(pattern, unit)]
        if not factors:
            raise Inexpressible("cells do not fit their columns", f"unit {unit!r}")
        factor = factors[0]
    elif unit != UNITS.get(printed, unit):
        raise Inexpressible("cells do not fit their columns", f"unit {unit!r} of {printed}")
    value = number(cells["value"])
    if value is None or value <= 0:
        raise Inexpressible("value is not a positive number", cells["value"])
    return metric, value * factor


def number(text: str) -> float | None:
    """Return ``text`` as a finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def refuse(cells: Mapping[str, str], notes: str) -> None:
    """Raise for what we have no words for: speculation, disaggregation, offload, a wrong device count."""
    if SPECULATION.search(notes) and not NO_SPECULATION.search(notes):
        raise Inexpressible(
            "speculative decoding on or unknown", found[0] if (found := SPECULATION.search(notes)) else ""
        )
    if re.search(r"\bdisagg", notes, re.IGNORECASE):
        raise Inexpressible("disaggregated deployment", "")
    own = RUN_ID.search(cells["citation_locator"])
    if own and cells.get("tp") and cells["tp"] != own[1]:
        raise Inexpressible("device count contradicts the run's own id", f"tp {cells['tp']} and {own[0]}")
    if OFFLOAD.search(notes):
        raise Inexpressible("several kinds of device or host memory in one run", notes)
    if re.search(r"\+ ?(rtx|nvidia|amd)", cells["hardware"], re.IGNORECASE):
        raise Inexpressible("several kinds of device or host memory in one run", cells["hardware"])
    if "pre-allocates" in notes or "preallocates" in notes:
        raise Inexpressible("memory preallocated by the engine", cells["engine"])


def _layout_quant(notes: str) -> str:
    """Return what the notes say of the layout of FP8 weights, where the format's own column says only its width."""
    said: dict[str, str] = dict(SETTING.findall(notes))
    return said.get("moe_quant", "") if "block" in said.get("moe_quant", "") else said.get("gemm_quant", "")


class Printed(NamedTuple):
    """What a row prints of its deployment; ``layout`` is what its notes add about the weight format."""

    hardware: str
    key: str
    engine: str
    model: str
    quant: str
    kv: str
    source: str
    layout: str


@lru_cache(maxsize=8192)
def deployment(printed: Printed) -> Deployment:
    """Return names and formats of ours for what a row prints; equal rows are looked up once.

    Raises:
        Inexpressible: a name or format we do not have.
    """
    known = SOURCES.get(printed.source, USUAL)
    assumed: list[str] = []
    device, processor = device_of(printed.hardware, printed.key)
    if printed.hardware in known.device:
        device = known.device[printed.hardware]
        assumed.append(known.device_from)
    engine, said = engine_of(printed.engine)
    model = model_of(printed.model)
    quant = printed.quant
    if quant.replace(".", "").isdigit():
        raise Inexpressible("cells do not fit their columns", f"quant {quant!r}")
    if printed.layout not in {"", "blank"} and quant.startswith("fp"):
        quant = printed.layout
    doubtful = False
    if not quant and known.weights:
        quant, doubtful = known.weights, known.weights_doubtful
        assumed.append(f"weights: {known.weights_from}")
    stored = weights_of(quant, engine, model)
    cache, guess = cache_of(printed.kv, engine, stored, from_nvidia=devices()[device].vendor == "NVIDIA")
    model, weights = (model, stored) if engine == "llama.cpp" else stored_as(model, stored)
    if model != model_of(printed.model):
        assumed.append(f"layers outside the experts stored as in {model}")
    backend = backend_of(engine, said, device, processor)
    return Deployment(device, engine, backend, model, weights, stored, cache, guess, tuple(assumed), doubtful)


def read_count(cells: Mapping[str, str], source: Source) -> int:
    """Return how many devices the run used.

    Raises:
        Inexpressible: not stated, or no whole number.
    """
    text = cells["n_devices"] or cells.get("tp", "") or ("1" if source.one_device else "")
    if not text:
        raise Inexpressible("number of devices not stated", cells["hardware"])
    value = number(text)
    if value is None or value != int(value) or not 1 <= value <= MOST_DEVICES:
        raise Inexpressible("cells do not fit their columns", f"n_devices {text!r}")
    count = max(int(value) // (source.cores_per_device if not cells["n_devices"] else 1), 1)
    return count * _spread(cells, count)


def _spread(cells: Mapping[str, str], count: int) -> int:
    """Return the replicas of attention that expert degrees larger than the stated devices leave over, else 1."""
    settings = dict(SETTING.findall(cells["notes"]))
    experts = int(number(settings.get("moe_tp", "")) or 1) * int(number(settings.get("moe_ep", "")) or 1)
    return experts // count if experts > count and experts % count == 0 else 1


@dataclass(frozen=True, slots=True)
class Assumed:
    """What was assumed about lengths, in words, and whether it moves the number."""

    said: tuple[str, ...] = ()
    doubtful: bool = False


def read_lengths(cells: Mapping[str, str], source: Source, metric: str) -> tuple[float, float, Assumed]:
    """Return prompt and output tokens of a request, and what was assumed.

    Raises:
        Inexpressible: not stated and not known from the publication, or no number.
    """
    prompt, output = (_length(cells, name) for name in ("input_len", "output_len"))
    notes = cells["notes"]
    share = DRAWN if source.inferencex or INFERENCEX.search(notes) else 1.0
    said: list[str] = []
    doubtful = False
    task = TASK.search(notes)
    usual = TASK_LENGTHS.get(task[1]) if task else None
    usual = usual or source.lengths
    tool = "bench" in notes or "prompt eval" in notes or "generating 1024" in notes
    if prompt is None and output is not None and (tool or metric == "resident_bytes"):
        usual = usual or Lengths(1, output)
    if prompt is None or (output is None and metric not in {"prefill_tokens_per_s", "ttft_s"}):
        if usual is None:
            raise Inexpressible("lengths not stated", f"{cells['input_len']!r} in, {cells['output_len']!r} out")
        doubtful = usual.doubtful
        if prompt is None:
            prompt = usual.prompt
            said.append(f"prompt of {prompt:g} tokens, which is not stated")
        if output is None:
            output = usual.output
            said.append(f"output of {output:g} tokens, which is not stated")
    output = 1.0 if output is None else output
    if share != 1.0 and prompt > 1:
        prompt, output = prompt * share, output * share
        said.append(f"lengths {share:g} of the nominal ones, the mean of what is drawn")
    return max(prompt, 1.0), max(output, 1.0), Assumed(tuple(said), doubtful)


def _length(cells: Mapping[str, str], name: str) -> float | None:
    text = cells[name]
    if not text:
        return None
    value = number(text)
    if value is None or value < 0:
        raise Inexpressible("cells do not fit their columns", f"{name} {text!r}")
    return value


def read_batch(text: str, notes: str, metric: str, cells: Mapping[str, str]) -> tuple[float, bool]:
    """Return sequences at once over all replicas, and whether it is as many as fit.

    Raises:
        Inexpressible: not stated, or arrivals by the clock at a rate that is not stated.
    """
    running = RUNNING.search(notes)
    if running:
        return max(float(running[1]), 1.0), False
    value = number(text) if text else None
    if value is not None and value >= 1:
        return value, False
    if re.search(
        r"max(imum)? (that fits|achievable|throughput)|as many as fit|\boffline\b", f"{notes} {text}", re.IGNORECASE
    ):
        return 1.0, True
    if metric == "resident_bytes" and not text:
        return 1.0, False
    raise Inexpressible("batch not stated", text or cells.get("tier", ""))


def read_regime(source: Source, tier: str, metric: str, batch: float, *, capacity: bool) -> Regime:
    """Return how requests arrived, by publication, tier and metric."""
    if capacity:
        return "capacity"
    if source.closed or tier == "T4":
        return "closed-loop"
    if metric in {"ttft_s", "prefill_tokens_per_s"}:
        return "prefill"
    if batch == 1 and metric in {"tpot_s", "decode_tokens_per_s"}:
        return "single"
    return "static"


def read_degrees(cells: Mapping[str, str], count: int, engine: str, notes: str, model: str) -> dict[str, int]:
    """Return tp, pp, ep and dp whose product over tp, pp and dp is the number of devices.

    Expert parallelism without a stated tensor degree shards the experts over all devices and attention over the rest of
    each replica. Devices that no stated degree explains work as replicas; where none is stated at all, as one tensor group,
    or in turn where the engine splits layers.
    """
    settings = dict(SETTING.findall(notes))
    parallel = PARALLEL.search(notes)
    if parallel:
        dp, ep, tp = (int(item) for item in parallel.groups())
        if not dp or not ep:
            raise Inexpressible("parallel degrees not possible", parallel[0])
        tp = max(count // dp, tp)
        return {"tp": tp, "pp": 1, "ep": ep, "dp": dp}
    stated_tp, stated_pp = (number(cells.get(name, "")) for name in ("tp", "pp"))
    ep_found = re.search(r"\bep=(\d+)", notes)
    ep = max(int(settings.get("moe_ep", 0) or 0), int(ep_found[1]) if ep_found else 1, 1)
    dp = max(int(settings.get("attn_dp", 1)), 1) * _spread(cells, int(number(cells["n_devices"]) or 1))
    pp = int(stated_pp or 1)
    if engine in LAYER_SPLIT:
        tp, pp = 1, count
    elif "NeuronCore" in cells["hardware"] or not stated_tp:
        tp = max(count // pp, 1) if not cells["source"].startswith("mlperf") else _mlperf_tp(model, count)
    else:
        tp = int(stated_tp)
    if dp > 1 and tp * pp * dp > count:
        tp = max(count // (pp * dp), 1)
    if dp > 1 and re.search(r"dp_attention=True", notes):
        tp = max(count // (pp * dp), 1)
    if tp * pp * dp > count:
        raise Inexpressible("device count contradicts the run's own id", f"tp {tp} x pp {pp} x dp {dp} on {count}")
    dp = count // (tp * pp)
    return {"tp": tp, "pp": pp, "ep": ep, "dp": dp}


def _mlperf_tp(model: str, count: int) -> int:
    """Return the devices of one replica: two for a 70B model in FP8, one for smaller ones; an assumption."""
    return min(2, count) if "70b" in model.lower() else 1


def read_statistic(notes: str) -> Statistic:
    """Return what the value is of many, as the notes say it."""
    return cast("Statistic", next((name for pattern, name in STATISTICS if pattern.search(notes)), ""))

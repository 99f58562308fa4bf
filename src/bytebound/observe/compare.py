"""Lay a run beside the ledger, this machine's ceilings and our own prediction of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from bytebound.documents.observation import Observation, ObservedPhase, PhaseRun, Run
from bytebound.documents.values import Interval, Provenance
from bytebound.engines.summary import spread, steady_tokens_per_s, tpot_s, ttft_s
from bytebound.facts.engines import engines
from bytebound.ledger.ledger import MATH
from bytebound.predict.calibrated import calibrated
from bytebound.predict.diagnose import judge
from bytebound.predict.estimate import Setting, settle
from bytebound.predict.roofline import ACTIVATION, COMPUTE, KV, OVERHEAD, WEIGHT
from bytebound.predict.scaled import scaled

if TYPE_CHECKING:
    from bytebound.documents.architecture import Architecture
    from bytebound.documents.calibration import Calibration
    from bytebound.documents.device import Device, Machine
    from bytebound.documents.observation import Spread
    from bytebound.documents.work import Serve
    from bytebound.ledger.ledger import Ledger
    from bytebound.predict.roofline import Timing

UNKNOWN_ENGINE = "vllm"
"""Whose host costs the prediction assumes where the server does not say what it is."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """What one step must move and compute on one device, and the least time each takes on the measured ceilings."""

    flops: float
    weight_bytes: float
    kv_bytes: float
    compute_s: float
    memory_s: float
    network_s: float


def observe_run(
    run: Run,
    model: Architecture | None,
    machine: Machine,
    *,
    work: Serve,
    calibration: Calibration | None = None,
    datasheet: Device | None = None,
) -> Observation:
    """Return where ``run`` stands on ``machine``.

    Args:
        run: the record of a real run.
        model: what ran; None: unknown, and then nothing is said of bytes and FLOPs.
        machine: the measured machine it ran on.
        work: weight and KV formats, parallel degrees and attention of the run; batch and lengths come from the run.
        calibration: the engine's costs as probed here, for the prediction.
        datasheet: the printed ceilings of the same device, where there are any.
    """
    device = machine.device
    work = replace(work, engine=engine_of(run))
    missing: dict[str, str] = {}
    phases: list[ObservedPhase] = []
    setting = None
    if model is None:
        missing["mbu"] = (
            "the model behind this server is not known; name it with --model (a file, folder or bundled id)"
        )
    else:
        setting = settle(model, machine, work.engine)
        if calibration is not None:
            setting = calibrated(setting, calibration, str(work.weights))
        else:
            setting = scaled(setting, str(work.weights), work.attention)
        phases = [_phase(phase, setting, work, datasheet) for phase in run.phases]
    if datasheet is None:
        missing["mbu_datasheet"] = f"no datasheet is known for {device.name}; name a device of ours with --datasheet"
    requests = run.requests
    decode = next((phase for phase in run.phases if phase.name == "decode"), None)
    prefill = next((phase for phase in run.phases if phase.name == "prefill"), None)
    measured = device.measured
    return Observation(
        id=f"obs-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}",
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=device.name,
        measurement=measured.id if measured else "",
        model=model.name if model else run.model,
        run=run,
        memory_bytes_per_s=device.memory_bytes_per_s.value,
        flop_per_s={name: figure.value for name, figure in device.flop_per_s.items()},
        phases=tuple(phases),
        ttft_s=ttft_s(requests) if requests else (prefill.seconds if prefill else None),
        tpot_s=tpot_s(requests) if requests else (decode.seconds if decode else None),
        tokens_per_s=steady_tokens_per_s(requests) if requests else _rate(decode),
        notes=_notes(run, machine),
        missing=missing,
        provenance=_provenance(run, machine, setting),
    )


def engine_of(run: Run) -> str:
    """Return our name of the engine that ran; Ollama runs llama.cpp."""
    name = {"ollama": "llama.cpp"}.get(run.engine.lower(), run.engine.lower())
    return name if name in engines() else UNKNOWN_ENGINE


def _rate(decode: PhaseRun | None) -> Spread | None:
    if decode is None:
        return None
    s = decode.seconds
    return spread([decode.tokens / value for value in (s.best, s.p10, s.median, s.p90)], rate=True)


def _phase(phase: PhaseRun, setting: Setting, work: Serve, datasheet: Device | None) -> ObservedPhase:
    prompt = max(phase.context if phase.name == "decode" else phase.tokens / max(phase.batch, 1), 1)
    asked = replace(work, batch=max(phase.batch, 1), prompt=prompt, output=1)
    prediction = setting.run(asked)
    decode = phase.name == "decode"
    timing = prediction.decode if decode else prediction.prefill
    weighed = weigh(prediction.decode_ledger if decode else prediction.prefill_ledger, setting)
    step_s = phase.seconds.median
    together = 1.0 if decode else max(phase.batch, 1.0)
    predicted_s = float(timing.total[0]) * together
    spread_ = setting.evidence.tpot_spread if decode else setting.evidence.ttft_spread
    flops, moved = weighed.flops * together, (weighed.weight_bytes + weighed.kv_bytes) * (1 if decode else together)
    memory_s, compute_s = weighed.memory_s * together, weighed.compute_s * together
    verdict, residual, why = judge(
        step_s, compute_s=compute_s, memory_s=memory_s, network_s=weighed.network_s * together,
        kv_heavy=weighed.kv_bytes > weighed.weight_bytes,
    )  # fmt: skip
    if setting.grade == "calibrated":
        why = f"{why}; {_parts(timing)}"
    sheet_memory = datasheet.memory_bytes_per_s.value if datasheet else None
    sheet_rate = _sheet_rate(datasheet)
    return ObservedPhase(
        name=phase.name, seconds=phase.seconds, batch=phase.batch, context=phase.context, tokens=phase.tokens, flops=flops,
        bytes=moved, intensity=flops / moved, bytes_per_s=moved / step_s, flop_per_s=flops / step_s, mbu=memory_s / step_s,
        mfu=compute_s / step_s, mbu_datasheet=moved / step_s / sheet_memory if sheet_memory else None,
        mfu_datasheet=flops / step_s / sheet_rate if sheet_rate else None, verdict=verdict, residual=residual, sentence=why,
        predicted_s=Interval(predicted_s, predicted_s / spread_, predicted_s * spread_), grade=setting.grade,
        error=predicted_s / step_s - 1, operators=phase.operators,
    )  # fmt: skip


def _parts(timing: Timing) -> str:
    """Return where calibrated time goes, in words: streaming bytes, kernels above that, and per-layer and per-step costs."""
    share = timing.spent[:, 0] / timing.total[0]
    streaming, kernels, rest = share[[WEIGHT, KV, ACTIVATION]].sum(), share[COMPUTE], share[OVERHEAD]
    return (
        f"by the calibration {100 * streaming:.0f} % goes into moving bytes, {100 * kernels:.0f} % into kernels that are slower than "
        f"memory (dequantizing, attention) and {100 * rest:.0f} % into fixed costs"
    )


def weigh(ledger: Ledger, setting: Setting) -> Weighed:
    """Return what a step of ``ledger`` moves and computes, and the least time of each on the setting's ceilings."""
    c = setting.ceilings
    rate = np.take(c.flop_per_s, ledger.math, axis=0)
    weight, kv = float(ledger.total("weight_bytes")[0]), float(ledger.total("kv_bytes")[0])
    link = np.minimum(c.scaleup_bytes_per_s, 1e18)
    return Weighed(
        flops=float(ledger.total("flops")[0]), weight_bytes=weight, kv_bytes=kv,
        compute_s=float((ledger.flops * ledger.repeat / rate).sum(axis=0)[0]),
        memory_s=(weight + kv) / float(c.memory_bytes_per_s),
        network_s=float(ledger.total("network_bytes")[0]) / float(link),
    )  # fmt: skip


def _sheet_rate(datasheet: Device | None) -> float | None:
    if datasheet is None:
        return None
    for name in ("bf16", "fp16", *MATH):
        if name in datasheet.flop_per_s:
            return datasheet.flop_per_s[name].value
    return None


def _notes(run: Run, machine: Machine) -> tuple[str, ...]:
    notes = []
    measured = machine.device.measured
    if run.engine.lower() not in {*engines(), "ollama"}:
        notes.append(
            f"the engine {run.engine or 'behind this address'} is not known: {UNKNOWN_ENGINE}'s host costs are assumed"
        )
    if run.disturbed > 0.1:
        notes.append(
            f"{100 * run.disturbed:.0f} % of the samples ran while others used the processor: the machine was not quiet"
        )
    read = run.canaries.get("memory.read")
    if measured is not None and read is not None:
        then = machine.device.memory_bytes_per_s.value
        if abs(read.best / then - 1) > 0.1:
            notes.append(
                f"memory was read at {read.best / 1e9:.1f} GB/s at best during the run, {then / 1e9:.1f} GB/s when the machine was measured"
            )
    if measured is None:
        notes.append("the machine was not measured: ceilings are the datasheet's")
    return tuple(notes)


def _provenance(run: Run, machine: Machine, setting: Setting | None) -> tuple[Provenance, ...]:
    device = machine.device
    items = [
        Provenance("times", "measured", f"run {run.id}, {run.engine} {run.engine_version}, {run.when}"),
        Provenance("memory bandwidth", device.memory_bytes_per_s.how, device.memory_bytes_per_s.source),
    ]
    items += [Provenance(f"matrix rate {name}", f.how, f.source) for name, f in device.flop_per_s.items()]
    if setting is not None:
        items.append(Provenance("bytes and FLOPs", "derived", setting.architecture.source))
        items += list(setting.evidence.provenance)
    return tuple(items)

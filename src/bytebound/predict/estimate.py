"""The Estimate document: one call from names to numbers with intervals, verdict, cost, energy and sources."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.architecture import Architecture
from bytebound.documents.device import Machine
from bytebound.documents.estimate import Estimate, MachineFacts, Memory, ModelFacts, NextWall, OperatorTime, Phase
from bytebound.documents.values import Interval, Provenance
from bytebound.documents.work import COUNT_LIMIT, TOKEN_LIMIT
from bytebound.errors import QuantityError
from bytebound.facts.engines import Engine, find_engine
from bytebound.facts.machines import find_machine
from bytebound.facts.reserves import find_reserve, held_back_bytes
from bytebound.ledger.request import lay_out
from bytebound.ledger.residence import kv_bytes_per_token
from bytebound.ledger.table import compile_table, model_kind
from bytebound.models import read_model
from bytebound.predict.answers import answer, run
from bytebound.predict.attained import attained
from bytebound.predict.calibrated import calibrated
from bytebound.predict.ceilings import Evidence, ceilings_of, evidence_of
from bytebound.predict.corrected import corrected, corrected_rows, correcting, shifts_of, spreads
from bytebound.predict.energy import energy_j
from bytebound.predict.prediction import CAPACITY, Overheads
from bytebound.predict.roofline import TIME_RESOURCES, row_bounds
from bytebound.predict.scaled import scaled
from bytebound.units import SECONDS_PER_HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.calibration import Calibration
    from bytebound.documents.correction import Correction as LocalCorrection
    from bytebound.documents.device import Device
    from bytebound.documents.values import Number
    from bytebound.documents.work import Serve
    from bytebound.facts.calibration import Key, Offset
    from bytebound.ledger.table import OpTable
    from bytebound.predict.prediction import Prediction
    from bytebound.predict.roofline import Ceilings

    Array = NDArray[Any]

SMALL_CARD_BYTES, SMALL_CARD_CHUNK = 70 * 2**30, 2048
"""vLLM batches 2,048 prompt tokens by default on cards under 70 GiB. Source: vLLM engine arguments (facts/data/engines.csv)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A question with its names resolved: what ``answer`` and the audit work from."""

    architecture: Architecture
    machine: Machine
    table: OpTable
    engine: Engine
    overheads: Overheads
    ceilings: Ceilings
    evidence: Evidence
    grade: str = "scaled"
    asked: str = ""
    correction: LocalCorrection | None = None
    version: str = ""

    @property
    def profiled(self) -> int:
        """Sequences the engine's start-up pass assumes on this device (0: it has none)."""
        return find_reserve(self.engine.name, self.version).profiled_on(self.machine.device)

    @property
    def chunk(self) -> float:
        """Most prompt tokens per step by the engine's default; vLLM takes fewer on small cards."""
        return _chunk(self.engine, self.machine.device)

    def answer(
        self, work: Serve, ceilings: Ceilings | None = None, *, names: tuple[str, ...] | None = None
    ) -> dict[str, Array]:
        """Return every number for ``work`` as arrays (requests,), corrected where a run of this deployment is known.

        Args:
            work: the requests.
            ceilings: in place of the machine's.
            names: the numbers wanted; None: all. Large questions are answered the faster the fewer are wanted.

        Raises:
            QuantityError: weights shall stay in a host memory that the device has no link to.
            UnknownNameError: there is no number of that name.
        """
        check_host(self, work)
        named = answer(
            self.table, work, ceilings or self.ceilings, self.overheads, dtype=self.architecture.dtype,
            engine_chunk=self.chunk,
            profiled=self.profiled, names=names if self.correction is None else None,
        )  # fmt: skip
        if self.correction is None:
            return named
        whole = corrected(named, shifts_of(self.correction), work)
        return whole if names is None else {name: whole[name] for name in names}

    def run(self, work: Serve) -> Prediction:
        """Return the full prediction with its ledgers."""
        check_host(self, work)
        return run(
            self.table, work, self.ceilings, self.overheads, dtype=self.architecture.dtype,
            engine_chunk=self.chunk,
            profiled=self.profiled,
        )  # fmt: skip


def _chunk(engine: Engine, device: Device) -> float:
    small = device.memory_bytes.value < SMALL_CARD_BYTES and engine.name == "vllm"
    return float(SMALL_CARD_CHUNK if small else engine.max_batched_tokens)


def settle(
    model: str | Architecture, machine: str | Machine, engine: str, fitted: Mapping[Key, Offset] | None = None, *,
    version: str = "", era: str = "",
) -> Setting:  # fmt: skip
    """Resolve names; ``fitted`` offsets take the place of the shipped ones.

    ``version`` is the engine's (empty: the latest), ``era`` the year of an earlier one (see ``predict.attained.era_of``).

    Raises:
        UnknownNameError, DocumentError: one of the names is not understood.
    """
    architecture = model if isinstance(model, Architecture) else read_model(model)
    found = machine if isinstance(machine, Machine) else find_machine(machine)
    chosen = find_engine(engine)
    device = found.device
    host = attained(device.family, device.kind, chosen.name, fitted, era)
    kept = find_reserve(chosen.name, version)
    overheads = Overheads(
        host_s_per_step=host.host_s_per_step, host_s_per_request=host.host_s_per_request,
        host_s_per_sequence=host.host_s_per_sequence, launch_s_decode=host.launch_s_decode,
        launch_s_prefill=host.launch_s_prefill,
        reserve_bytes=kept.context.value, memory_share=chosen.memory_share, block_tokens=chosen.block_tokens,
        basis=kept.basis, held_back_bytes=held_back_bytes(device), peers_bytes=kept.peers_bytes, logit_bytes=kept.logit_bytes,
        every_logit=kept.every_logit, default_chunk=_chunk(chosen, device), pass_tokens=float(kept.chunk_on(device)),
    )  # fmt: skip
    table = compile_table(architecture)
    return Setting(
        architecture,
        found,
        table,
        chosen,
        overheads,
        ceilings_of(found, chosen.name, fitted, era),
        evidence_of(found.device, chosen.name, model_kind(table), era),
        version=version,
    )


def check_host(setting: Setting, work: Serve) -> None:
    """Raise QuantityError where weights shall stay in host memory and the device states no link to one (unified memory)."""
    device = setting.machine.device
    if device.host_bytes_per_s is None and bool(np.any(np.asarray(work.host_weights) > 0)):
        raise QuantityError(
            f"{device.id} states no host link, so no weights can stay in host memory",
            place="host_weights", mend="leave host_weights at 0, or state the link's rate in a machine file",
        )  # fmt: skip


def check_degrees(setting: Setting, work: Serve) -> None:
    """Raise QuantityError where the parallel degrees ask for more than there is."""
    used = np.asarray(work.tp) * np.asarray(work.pp) * np.asarray(work.dp)
    if bool(np.any(used > setting.machine.devices)):
        raise QuantityError(
            f"tp × pp × dp is {int(used.max())} and {setting.machine.name} has {setting.machine.devices} "
            f"device{'s' if setting.machine.devices > 1 else ''}",
            place="tp, pp, dp",
            mend=f'lower a degree or name a larger machine, such as "{int(used.max())}x {setting.machine.device.id}"',
        )
    experts = setting.table.products.copies.max(initial=1.0)
    group = np.asarray(work.tp) * np.asarray(work.dp)
    if bool(np.any(np.asarray(work.ep) > np.minimum(group, experts))):
        raise QuantityError(
            f"ep is {int(np.max(work.ep))}; it can be at most tp × dp and the number of experts ({int(experts)})",
            place="ep",
            mend="lower ep, or raise dp",
        )
    if bool(np.any(np.asarray(work.pp) > setting.table.layers)):
        raise QuantityError(
            f"pp is more than the model's {int(setting.table.layers)} layers", place="pp", mend="lower pp"
        )


def estimate(
    model: str | Architecture, machine: str | Machine, work: Serve, *, calibration: Calibration | None = None,
    correction: LocalCorrection | None = None,
) -> Estimate:  # fmt: skip
    """Return what ``model`` does on ``machine`` under ``work``.

    Args:
        model: a bundled id, a path to a config.json, GGUF, safetensors or folder, or an Architecture.
        machine: ``"4x h100-sxm"``, a machine file, or a Machine.
        work: the request; any quantity may be an array, and the answer has its broadcast shape.
        calibration: the engine's costs as probed on that machine; None: efficiencies from elsewhere.
        correction: what a run of this very deployment showed (``bytebound calibrate --from``); None: nothing.

    Raises:
        UnknownNameError, DocumentError, QuantityError: the request could not be understood.
        RequestError: the calibration or correction was made on something else.
    """
    setting = settle(model, machine, work.engine)
    if isinstance(model, str):
        setting = replace(setting, asked=model)
    if calibration is not None:
        setting = calibrated(setting, calibration, work.weights)
    elif isinstance(work.weights, str):
        setting = scaled(setting, work.weights, work.attention)
    if correction is not None:
        setting = correcting(setting, correction, work)
    return estimate_on(setting, work)


def estimate_on(setting: Setting, work: Serve) -> Estimate:
    """Return the estimate of ``work`` on a resolved setting."""
    check_degrees(setting, work)
    named = setting.answer(work)
    shape = work.shape

    def out(name: str) -> Number:
        value = named[name]
        return value.reshape(shape) if shape else float(value[0])

    missing = _missing(setting, named)
    devices = np.asarray(work.tp) * np.asarray(work.pp) * np.asarray(work.dp)
    energy = energy_j(setting.machine.device, named, np.broadcast_to(devices, shape).ravel())
    price = setting.machine.usd_per_device_hour
    rate = out("tokens_per_s")
    wide = {name: _shaped(value, shape) for name, value in spreads(setting, named, work).items()}
    floor = out("decode.floor_s")
    tokens = _interval(rate, wide["tokens_per_s"], None)
    prediction = setting.run(work) if not shape else None
    return Estimate(
        model=model_facts(setting, work),
        machine=MachineFacts(setting.machine.name, setting.machine.devices, _scalar(devices, shape), setting.machine.asked),
        work=understood(setting, work),
        ttft_s=_interval(out("ttft_s"), wide["ttft_s"], out("prefill.floor_s")),
        tpot_s=_interval(out("tpot_s"), wide["tpot_s"], floor if setting.table.kind == "decoder" and not np.any(work.draft_tokens) else None),
        tokens_per_s=tokens,
        request_s=_interval(out("request_s"), wide["request_s"], None),
        memory=_memory(out, named, shape),
        decode=_laid(setting, work, "decode", _phase("decode", named, shape, prediction, setting.ceilings), prediction),
        prefill=_laid(setting, work, "prefill", _phase("prefill", named, shape, prediction, setting.ceilings), prediction),
        verdict=_verdict(named["verdict"], shape),
        elasticity=_elasticity(out),
        next_wall=next_wall(setting, work, float(named["verdict"][0])) if not shape else None,
        usd_per_mtok=None
        if price is None
        else Interval(
            *(price_part * devices / SECONDS_PER_HOUR / rate_part * 1e6 for price_part, rate_part in (
                (price.value, tokens.value), (price.low or price.value, tokens.high), (price.high or price.value, tokens.low)
            ))
        ),
        joules_per_token=None if energy is None else _interval(_shaped(energy, shape), setting.evidence.energy_spread, None),
        power_w=None if energy is None else _shaped(energy * named["tokens_per_s"], shape),
        provenance=_provenance(setting),
        notes=_notes(setting, work),
        missing=missing,
        grade=setting.grade,
    )  # fmt: skip


def _scalar(value: NDArray[Any], shape: tuple[int, ...]) -> Number:
    return np.broadcast_to(value, shape).astype(float) if shape else int(value)


def _shaped(value: Array, shape: tuple[int, ...]) -> Number:
    return value.reshape(shape) if shape else float(value[0])


def _interval(value: Number, spread: Number, floor: Number | None) -> Interval:
    low = value / spread
    if floor is not None:
        low = np.minimum(np.maximum(low, floor), value)
        low = low if np.ndim(low) else float(low)
    return Interval(value, low, value * spread)


def model_facts(setting: Setting, work: Serve) -> ModelFacts:
    """Return what the model is, and the KV cache of one token under ``work``."""
    whole = replace(work, tp=1, pp=1, dp=1, ep=1, batch=np.ones(work.shape) if work.shape else 1)
    request = lay_out(setting.table, whole, dtype=setting.architecture.dtype, engine_chunk=1.0)
    per_token = np.broadcast_to(
        kv_bytes_per_token(setting.table, request), (int(np.prod(work.shape)) if work.shape else 1,)
    )
    return ModelFacts(
        setting.architecture.name, setting.architecture.parameters, setting.architecture.active_parameters,
        _shaped(per_token, work.shape), setting.asked,
    )  # fmt: skip


def understood(setting: Setting, work: Serve) -> dict[str, Any]:
    """Return the request as it was understood, defaults shown."""
    shown = {f.name: getattr(work, f.name) for f in fields(work)}
    stored = sorted(
        {
            s
            for s, role in zip(setting.table.products.stored, setting.table.products.roles, strict=True)
            if role != "head"
        }
    )
    if isinstance(work.weights, str) and work.weights == "auto":
        shown["weights"] = f"auto ({', '.join(stored)})"
    if isinstance(work.kv, str) and work.kv == "auto":
        shown["kv"] = f"auto ({setting.architecture.dtype if setting.architecture.dtype != 'fp32' else 'fp16'})"
    if not np.any(work.chunk):
        shown["chunk"] = setting.chunk
    return shown


def _memory(out: Any, named: dict[str, Array], shape: tuple[int, ...]) -> Memory:
    fits = named["fits"] > 0
    return Memory(
        out("weights_bytes"), out("kv_bytes"), out("activation_bytes"), out("reserve_bytes"), out("total_bytes"),
        out("usable_bytes"), fits.reshape(shape) if shape else bool(fits[0]), out("max_kv_tokens"),
    )  # fmt: skip


def _names(codes: Array, shape: tuple[int, ...]) -> str | NDArray[np.str_]:
    labels = np.array([*TIME_RESOURCES, "capacity"])[codes.astype(int)]
    return labels.reshape(shape) if shape else str(labels[0])


def _verdict(codes: Array, shape: tuple[int, ...]) -> str | NDArray[np.str_]:
    return _names(np.where(codes == CAPACITY, len(TIME_RESOURCES), codes), shape)


def _phase(
    phase: str, named: dict[str, Array], shape: tuple[int, ...], prediction: Prediction | None, ceilings: Ceilings
) -> Phase:
    def out(name: str) -> Number:
        return _shaped(named[f"{phase}.{name}"], shape)

    operators: tuple[OperatorTime, ...] = ()
    if prediction is not None:
        operators = operator_times(prediction, phase, ceilings)
    return Phase(
        seconds=out("seconds"), flops=out("flops"), weight_bytes=out("weight_bytes"), kv_bytes=out("kv_bytes"),
        activation_bytes=out("activation_bytes"), network_bytes=out("network_bytes"), intensity=out("intensity"),
        mbu=out("mbu"), mfu=out("mfu"), bound=_names(named[f"{phase}.bound"], shape),
        shares={name: out(f"share.{index}") for index, name in enumerate(TIME_RESOURCES)}, floor_s=out("floor_s"),
        operators=operators,
    )  # fmt: skip


def _laid(setting: Setting, work: Serve, name: str, phase: Phase, prediction: Prediction | None) -> Phase:
    """Return a phase whose operators follow the correction, where there is one."""
    if setting.correction is None or prediction is None:
        return phase
    before = prediction.decode if name == "decode" else prediction.prefill
    return corrected_rows(phase, name, setting.correction, work, before_s=float(before.total[0]))


def operator_times(prediction: Prediction, phase: str, ceilings: Ceilings) -> tuple[OperatorTime, ...]:
    """Return the rows of one phase that do anything, in order, for a single request."""
    timing, ledger = (
        (prediction.decode, prediction.decode_ledger)
        if phase == "decode"
        else (prediction.prefill, prediction.prefill_ledger)
    )

    bound = row_bounds(ledger, ceilings, ceilings.decode if phase == "decode" else ceilings.prefill)

    def at(values: Array, row: int) -> float:
        return float((values * ledger.repeat)[row, 0])

    return tuple(
        OperatorTime(
            name=name, role=ledger.roles[i], repeat=float(ledger.repeat[i, 0]), flops=at(ledger.flops, i),
            weight_bytes=at(ledger.weight_bytes, i), kv_bytes=at(ledger.kv_bytes, i),
            activation_bytes=at(ledger.activation_bytes, i), network_bytes=at(ledger.network_bytes, i),
            seconds=float(timing.rows[i, 0]), bound=TIME_RESOURCES[int(bound[i, 0])],
        )
        for i, name in enumerate(ledger.names)
        if timing.rows[i, 0] > 0
    )  # fmt: skip


def _elasticity(out: Any) -> dict[str, Number]:
    """Return % change of tokens_per_s per +1 % of each ceiling; host time and launches are ``overhead`` (more is slower).

    The step is a sum of parts, each inverse to one ceiling, so the elasticity of the rate is that part's share.
    """
    return {
        "memory_bandwidth": out("share.0") + out("share.1") + out("share.2"),
        "memory_capacity": out("share.0") * 0.0,
        "compute": out("share.3"),
        "scale_up_link": out("share.4"),
        "scale_out_link": out("share.5"),
        "host_link": out("share.6"),
        "overhead": -out("share.7"),
    }


def next_wall(setting: Setting, work: Serve, verdict: float) -> NextWall | None:
    """Return what binds next as the batch, and else the context, doubles; None where nothing changes up to 4,096 times."""
    if verdict == CAPACITY:
        return None
    factors = 2.0 ** np.arange(1, 13)
    for quantity, label in (("batch", "batch"), ("prompt", "prompt of")):
        values = np.asarray(getattr(work, quantity), dtype=float) * factors
        values = values[values <= (COUNT_LIMIT if quantity == "batch" else TOKEN_LIMIT)]
        if not len(values):
            continue
        codes = setting.answer(replace(work, **{quantity: values}))["verdict"]
        changed = np.flatnonzero(codes != verdict)
        if len(changed):
            first = int(changed[0])
            unit = "" if quantity == "batch" else " tokens"
            return NextWall(str(_verdict(codes[first : first + 1], ())), f"{label} {values[first]:,.0f}{unit}")
    return None


def _missing(setting: Setting, named: dict[str, Array]) -> dict[str, str]:
    device = setting.machine.device
    missing = {}
    if setting.machine.usd_per_device_hour is None:
        missing["usd_per_mtok"] = (
            f"no rental price is known for {device.id}; give one in a machine file or price catalogue"
        )
    if device.power_w is None:
        missing["joules_per_token"] = f"no power figure is known for {device.id}"
    if not np.all(named["fits"] > 0):
        short = float(np.max(named["total_bytes"] - named["usable_bytes"]))
        missing["tokens_per_s"] = f"does not fit: {short / 2**30:.1f} GiB short on the fullest device"
    if setting.table.kind == "encoder":
        missing["tpot_s"] = "an encoder answers in one pass; tokens_per_s counts prompt tokens"
    return missing


def _notes(setting: Setting, work: Serve) -> tuple[str, ...]:
    notes = list(setting.architecture.notes)
    if setting.table.kind == "denoiser":
        notes.append(
            "image model: tokens_per_s counts images, tpot_s is one denoising pass; guidance doubles the passes"
        )
    if np.any(np.asarray(work.tp) > setting.machine.device.scaleup_devices):
        notes.append(f"tp is wider than the {setting.machine.device.scaleup_devices} devices one scale-up link joins")
    return tuple(notes)


def _provenance(setting: Setting) -> tuple[Provenance, ...]:
    device = setting.machine.device
    items = [
        Provenance("model shape", "cited", setting.architecture.source),
        Provenance("memory capacity", device.memory_bytes.how, device.memory_bytes.source),
        Provenance("memory bandwidth", device.memory_bytes_per_s.how, device.memory_bytes_per_s.source),
    ]
    if "bf16" in device.flop_per_s or device.flop_per_s:
        figure = device.flop_per_s.get("bf16") or next(iter(device.flop_per_s.values()))
        items.append(Provenance("matrix rate", figure.how, figure.source))
    items += list(setting.evidence.provenance)
    items.append(Provenance("engine reserve and host cost", setting.engine.how, setting.engine.source))
    price = setting.machine.usd_per_device_hour
    if price is not None:
        items.append(Provenance("price", price.how, f"{price.source} ({price.when})" if price.when else price.source))
    return tuple(items)

"""Changes of a training job: each returns the fields of ``Train`` it sets, or the reason why it does not apply."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import RequestError
from bytebound.ledger import training_plan
from bytebound.predict.train_frameworks import BY_LAYER, NO_STAGE_ONE, OFFLOADS, OPTIMIZERS, STAGED, splits_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.work import Train
    from bytebound.predict.estimate import Setting

    Change = Callable[[Train, Setting], dict[str, Any] | str]

ADAM_LIKE = ("adamw",)


def recompute(kind: str, layers: float = 1.0) -> Change:
    """Return the change of what the backward pass computes again; ``layers`` of them for ``full``."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        if kind != "full" and work.recompute != "full" and work.attention == "flash":
            return "flash attention keeps no scores that selective recomputation could drop"
        if layers < 1 and work.framework not in BY_LAYER:
            return f"{work.framework} recomputes all layers or none"
        same = kind != "full" or float(np.asarray(work.recompute_layers)) == layers
        if work.recompute == kind and same:
            return f"recompute already is {kind}"
        return {"recompute": kind} if same else {"recompute": kind, "recompute_layers": layers}

    return changes


def optimizer(name: str) -> Change:
    """Return the change of optimizer, from AdamW only: another one is part of the recipe."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        if work.optimizer not in ADAM_LIKE:
            return f"the optimizer is {work.optimizer}"
        if name not in OPTIMIZERS[work.framework]:
            return f"{work.framework} has no {name}"
        if name.startswith("galore") and int(np.max(work.zero)) > 0 and int(np.max(np.asarray(work.dp) * work.cp)) > 1:
            return "GaLore projects whole gradients; sharded ones have no low rank to find"
        return {"optimizer": name}

    return changes


def precision(name: str) -> Change:
    """Return the change of precision; narrow products need hardware for them."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        narrow = name.removesuffix("-mixed")
        if work.precision == name:
            return f"the precision already is {name}"
        if work.precision == "bf16" and name != "bf16":
            return "states are kept in 16 bits; a mixed precision would widen them"
        if name == "bf16" and (work.precision == "fp32" or work.trainable != "full"):
            return (
                "32-bit training is part of the recipe" if work.precision == "fp32" else "the base is frozen in 16 bits"
            )
        if narrow in {"fp8", "fp4"} and narrow not in setting.machine.device.flop_per_s:
            return f"{setting.machine.device.id} has no {narrow} matrix rate"
        if narrow in {"fp8", "fp4"} and work.trainable != "full":
            return "adapters train over 16-bit or 4-bit weights"
        return {"precision": name}

    return changes


def zero(stage: int) -> Change:
    """Return the change of ZeRO stage."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        if int(np.max(work.zero)) == stage:
            return f"ZeRO already is at stage {stage}"
        if int(np.max(np.asarray(work.dp) * np.asarray(work.cp))) == 1:
            return "one replica has nothing to shard over"
        if stage == 1 and work.framework in NO_STAGE_ONE:
            return f"{work.framework} has no ZeRO stage 1"
        if stage > 1 and int(np.max(work.pp)) > 1 and work.framework in STAGED:
            return f"{work.framework} runs no pipeline with ZeRO 2 or 3"
        return {"zero": stage}

    return changes


def next_zero(work: Train, setting: Setting) -> dict[str, Any] | str:
    """Return the change to the next ZeRO stage."""
    stage = int(np.max(work.zero)) + 1
    return "ZeRO already shards everything" if stage > 3 else zero(stage)(work, setting)


def offload(where: str) -> Change:
    """Return the change of what lies in host memory or on NVMe."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        if work.offload == where:
            return "nothing is offloaded" if where == "none" else f"{where} is offloaded already"
        if where != "none" and setting.machine.device.host_bytes_per_s is None:
            return f"no host link is known for {setting.machine.device.id}"
        if where.startswith("optimizer") and work.trainable != "full":
            return "adapters have next to no optimizer states"
        if where != "none" and where not in OFFLOADS[work.framework]:
            return f"{work.framework} offloads {' or '.join(OFFLOADS[work.framework]) or 'nothing'}, not {where}"
        if where.startswith("parameters") and int(np.max(work.zero)) < 3 and int(np.max(work.dp)) > 1:
            return "parameters are offloaded at ZeRO 3"
        return {"offload": where}

    return changes


def setting_of(name: str, value: str, already: str) -> Change:
    """Return the change that sets one field, refused with ``already`` where it is set."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        return already if getattr(work, name) == value else {name: value}

    return changes


def fused_optimizer(work: Train, setting: Setting) -> dict[str, Any] | str:
    """Return the change to one optimizer kernel per tensor: it needs no copy of the states while it steps."""
    if training_plan.resolve(work, setting.table).optimizer_kernel != "foreach":
        return f"the optimizer's kernel is {training_plan.resolve(work, setting.table).optimizer_kernel}"
    return {"optimizer_kernel": "fused"}


def sequence_parallel(work: Train, setting: Setting) -> dict[str, Any] | str:
    """Return the change that deals activations between tensor-parallel regions out too."""
    if int(np.max(work.tp)) == 1:
        return "there is no tensor parallelism"
    if training_plan.resolve(work, setting.table).sequence_parallel == "on":
        return "sequence parallelism is on"
    return {"sequence_parallel": "on"}


def micro_batch(factor: float) -> Change:
    """Return the change of micro-batch at the same global batch: more or fewer steps are accumulated."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        wanted, dp, batch = int(work.micro_batch) * factor, int(work.dp), int(work.global_batch)
        if wanted < 1 or wanted != int(wanted):
            return f"the micro-batch is {int(work.micro_batch)}"
        if batch % (int(wanted) * dp):
            return f"{int(wanted)} × dp {dp} does not divide the global batch of {batch}"
        return {"micro_batch": int(wanted)}

    return changes


def degrees(**factors: float) -> Change:
    """Return the change that multiplies degrees by powers of two and takes the devices from data parallelism, or gives them to it."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        alien = sorted({name for name, factor in factors.items() if factor > 1} - splits_of(work))
        if alien:
            what = " for adapters" if work.trainable != "full" else ""
            return f"{work.framework} has no {' and no '.join(alien)}{what}"
        wanted = {name: int(getattr(work, name)) * factor for name, factor in factors.items()}
        broken = next((name for name, degree in wanted.items() if degree != int(degree)), None)
        if broken:
            return f"{broken} is {int(getattr(work, broken))}"
        dp = int(work.dp) / math.prod(factor for name, factor in factors.items() if name != "ep")
        if dp != int(dp):
            return f"dp is {int(work.dp)}: there are no devices to take for {' and '.join(factors)}"
        whole = {name: int(degree) for name, degree in wanted.items()} | {"dp": int(dp)}
        if whole.get("tp", 1) > setting.ceilings.domain and factors["tp"] > 1:
            return f"one scale-up link joins {int(setting.ceilings.domain)} devices (rule 9: tensor parallelism across nodes is link-bound)"
        if whole.get("pp", 1) > 1 and int(np.max(work.zero)) > 1 and work.framework in STAGED:
            return f"{work.framework} runs no pipeline with ZeRO 2 or 3"
        return _possible(work, whole, setting)

    return changes


def _possible(work: Train, wanted: dict[str, Any], setting: Setting) -> dict[str, Any] | str:
    try:
        training_plan.check(replace(work, **wanted), setting.architecture, setting.table, None)
    except RequestError as error:
        return error.message
    return wanted


def adapters(kind: str) -> Change:
    """Return the change to adapters over frozen weights: another thing is trained."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        narrower = (work.trainable, kind) == ("lora", "qlora")
        return (
            {"trainable": kind}
            if work.trainable == "full" or narrower
            else f"{work.trainable} adapters are trained already"
        )

    return changes

"""Levers of sharding and of hardware: over how many devices a model lies, how, and which."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.work import Train
from bytebound.plan.case import Case, Refusal, Today
from bytebound.plan.training_levers import split_training
from bytebound.predict.estimate import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.work import Serve

    Apply = Callable[[Case, Today], Case | Refusal]


def change_tp(factor: float) -> Apply:
    """Return the lever that multiplies the tensor-parallel degree by ``factor``."""

    def apply(case: Case, now: Today) -> Case | Refusal:
        del now
        machine, tp = case.setting.machine, int(case.work.tp)
        wanted = int(tp * factor)
        if wanted < 1 or (factor < 1 and tp == 1):
            return Refusal("tensor parallelism is already 1")
        if wanted > machine.per_node:
            return Refusal(
                f"a node has {machine.per_node} devices (rule 9: tensor parallelism across nodes is link-bound)"
            )
        if not isinstance(case.work, Train) and wanted * int(case.work.pp) * int(case.work.dp) > machine.devices:
            return Refusal(f"one replica would take more than the pool's {machine.devices} devices")
        if factor > 1 and machine.device.scaleup_bytes_per_s is None and machine.device.kind == "gpu":
            return Refusal(f"{machine.device.id} has no scale-up link; all-reduces would cross the host link (rule 9)")
        work = case.work
        if isinstance(work, Train):
            return split_training(case, "tp", factor)
        return replace(
            case,
            work=replace(
                work, tp=wanted, ep=1 if work.ep == 1 else max(1, min(int(work.ep * factor), wanted * int(work.dp)))
            ),
        )

    return apply


def pipeline(case: Case, now: Today) -> Case | Refusal:
    """Double the pipeline stages: room, and no speed for a token."""
    work = case.serve
    if work is None:
        return Refusal("a training pipeline is chosen by train --fit")
    if not now.capacity_limited:
        return Refusal(
            "memory does not bind, and a pipeline makes no token faster (rule 8: 0.98× from 2 to 8 cards measured)"
        )
    if int(work.pp) * 2 > case.setting.table.layers:
        return Refusal(f"the model has {int(case.setting.table.layers)} layers")
    return _within_pool(case, replace(work, pp=int(work.pp) * 2))


def expert_parallel(case: Case, now: Today) -> Case | Refusal:
    """Deal whole experts out over the devices of the replica."""
    del now
    work = case.serve
    experts = int(case.setting.table.products.copies.max(initial=1.0))
    if work is None or experts < 2:
        return Refusal("the model has no routed experts")
    group = int(work.tp) * int(work.dp)
    if group < 2:
        return Refusal("one device holds every expert")
    wanted = min(group, experts)
    if int(work.ep) >= wanted:
        return Refusal(f"experts already lie on {int(work.ep)} devices")
    return replace(case, work=replace(work, ep=wanted))


def data_parallel(case: Case, now: Today) -> Case | Refusal:
    """Run a second replica on devices that are there and idle."""
    del now
    work = case.serve
    if work is None:
        return Refusal("the replicas of a training job are set by its devices")
    if case.kind == "edge":
        return Refusal("there is one device")
    return _within_pool(case, replace(work, dp=int(work.dp) * 2))


def _within_pool(case: Case, work: Serve) -> Case | Refusal:
    """Return the case with ``work`` where the machine has the devices for it."""
    changed, machine = replace(case, work=work), case.setting.machine
    if changed.devices_per_replica > machine.devices:
        return Refusal(f"it would take {changed.devices_per_replica} devices and {machine.name} has {machine.devices}")
    return changed


def more_devices(case: Case, now: Today) -> Case | Refusal:
    """Buy as many devices again and run a second replica on them."""
    del now
    work, machine = case.serve, case.setting.machine
    if work is None:
        return Refusal("more devices for a training job are a question for train --fit")
    if case.kind == "edge":
        return Refusal("an edge workload runs on the device it has")
    per_node = machine.per_node * 2 if machine.nodes == 1 and machine.per_node < 8 else machine.per_node
    larger = machine.model_copy(
        update={"per_node": per_node, "nodes": machine.nodes * 2 * machine.per_node // per_node, "name": f"2 × ({machine.name})"}
    )  # fmt: skip
    setting = settle(case.setting.architecture, larger, case.setting.engine.name, version=case.setting.version)
    added = case.added_devices + machine.devices
    return replace(case, setting=setting, work=replace(work, dp=int(work.dp) * 2), added_devices=added)


def roadmap_device(case: Case, now: Today) -> Case | Refusal:
    """Move to the first machine of the roadmap that the case names."""
    del now
    if not case.roadmap:
        return Refusal("no machine of the roadmap is named for this work; ask again with --on that machine")
    machine, month = case.roadmap[0]
    setting = settle(case.setting.architecture, machine, case.setting.engine.name, version=case.setting.version)
    moved = replace(case, setting=setting, available_month=month)
    if moved.devices_per_replica > machine.devices:
        return Refusal(
            f"one replica takes {moved.devices_per_replica} devices and {machine.name} has {machine.devices}"
        )
    return moved


def chips_for_weights(case: Case, now: Today) -> Case | Refusal:
    """Refuse, with how many chips of some on-chip memory the weights alone would need."""
    del now
    held = float(np.max(case.setting.architecture.parameters)) * 1.0
    return Refusal(
        f"it is another machine; one byte per weight fills {np.ceil(held / GROQ_BYTES):,.0f} chips of 230 MB: name one with --on"
    )


GROQ_BYTES = 230e6
"""On-chip memory of a Groq LPU [B]. Source: Abts et al., ISCA 2022."""

SHARDING_LEVERS: dict[str, Apply] = {
    "double-tp": change_tp(2),
    "halve-tp": change_tp(0.5),
    "pipeline-parallel": pipeline,
    "expert-parallel": expert_parallel,
    "data-parallel": data_parallel,
}
HARDWARE_LEVERS: dict[str, Apply] = {
    "more-devices": more_devices,
    "roadmap-device": roadmap_device,
    "sram-device": chips_for_weights,
}

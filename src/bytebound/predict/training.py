"""Training step time: the training ledger laid on a device's ceilings, with what a pipeline and the network make it wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.training import CONVENTIONS
from bytebound.facts.reserves import held_back_bytes
from bytebound.ledger.ledger import MATH
from bytebound.ledger.training import train_ledger
from bytebound.ledger.training_job import lay_out
from bytebound.ledger.training_memory import training_memory
from bytebound.predict.training_attained import attained_in_training
from bytebound.predict.training_parts import step_parts
from bytebound.predict.training_spread import step_spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.device import Device
    from bytebound.documents.work import Train
    from bytebound.facts.calibration import Key, Offset
    from bytebound.ledger.training import TrainingLedger
    from bytebound.ledger.training_memory import Held
    from bytebound.predict.estimate import Setting
    from bytebound.predict.roofline import Ceilings

    Array = NDArray[Any]

NARROW = {"fp8-mixed": "fp8", "fp4-mixed": "fp4"}
NARROWER = {"fp4": ("fp4", "fp8"), "fp8": ("fp8",), "": ()}
"""Formats products of layers run in, widest last: a device without fp4 does them in fp8, one without either in 16 bits."""


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """One optimizer step: what a device holds, how long it takes and on what. Arrays broadcast to the request.

    Args:
        ledger: of one micro-batch and step, its arrays (rows, requests) over the flat order of the request.
        held: bytes by part on the fullest device. usable_bytes: what it can hold.
        step_s: seconds of the step. parts: the same by ``documents.training.TIME_PARTS``; they add up to it.
        model_flops, hardware_flops: FLOPs of one step of the whole job under the causal convention, without and with what is
            recomputed. flops_by_convention: model FLOPs under each of ``documents.training.CONVENTIONS``.
        peak_flop_per_s: dense peak of one device in the widest dtype the precision multiplies in.
        devices: devices at work. tokens: tokens of one step. microbatches: of one step and replica.
        bubble_share: of the step.
        ceilings, device, narrow, fitted: what the step was predicted from, for ``spread``.
    """

    ledger: TrainingLedger
    held: Held
    usable_bytes: Array
    step_s: Array
    parts: Mapping[str, Array]
    model_flops: Array
    hardware_flops: Array
    flops_by_convention: Mapping[str, Array]
    peak_flop_per_s: Array
    devices: Array
    tokens: Array
    microbatches: Array
    bubble_share: Array
    moved_bytes: Array
    ceilings: Ceilings
    device: Device
    narrow: str
    fitted: Mapping[Key, Offset] | None

    @property
    def spread(self) -> Array:
        """Half-width factor of the 80 % interval of the step; takes some twenty times as long to find as the step itself."""
        flat = step_spread(
            self.ledger, self.ceilings, device=self.device, framework=self.ledger.job.work.framework, narrow=self.narrow,
            fitted=self.fitted,
        )  # fmt: skip
        return (
            flat.reshape(self.step_s.shape)
            if flat.size == self.step_s.size
            else np.broadcast_to(flat, self.step_s.shape)
        )

    @property
    def total_bytes(self) -> Array:
        """Bytes on the fullest device, reserve included."""
        return self.held.total_bytes

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Whether a device holds it (``Held.fits``)."""
        return self.held.fits

    @property
    def tokens_per_s(self) -> Array:
        """Tokens per second of the whole job."""
        return np.asarray(self.tokens / self.step_s)

    @property
    def mfu(self) -> Array:
        """Model FLOPs (causal) per second over the dense peak of all devices."""
        return np.asarray(self.model_flops / (self.step_s * self.peak_flop_per_s * self.devices))

    @property
    def hfu(self) -> Array:
        """FLOPs done (recomputation too) per second over the dense peak of all devices."""
        return np.asarray(self.hardware_flops / (self.step_s * self.peak_flop_per_s * self.devices))

    @property
    def compute_s(self) -> Array:
        """Seconds that faster arithmetic shortens, recomputation among them."""
        return np.asarray(self.parts["compute"] + self.parts["recompute"])

    @property
    def link_s(self) -> Array:
        """Seconds of communication that nothing hides."""
        return np.asarray(self.parts["scale_up_link"] + self.parts["scale_out_link"] + self.parts["host_link"])

    @property
    def bubble_s(self) -> Array:
        """Seconds a device waits for other pipeline stages."""
        return np.asarray(self.parts["bubble"])


def narrow_of(setting: Setting, work: Train) -> str:
    """Return the narrow format the products of layers run in on this device; empty: none."""
    known = setting.machine.device.flop_per_s
    return next((name for name in NARROWER[NARROW.get(work.precision, "")] if name in known), "")


def train_time(setting: Setting, work: Train, fitted: Mapping[Key, Offset] | None = None) -> TrainingTime:
    """Return step time and memory of ``work`` on every device the degrees ask for.

    Args:
        setting: model and machine; only its ceilings' rates are used, not what its serving engine attains.
        work: the request; arrays of any shape broadcast.
        fitted: offsets to use; None: the shipped ones.

    Raises:
        PhysicsError: a step came out faster than physics allows (a bug of ours).

    Source: Narayanan et al. 2021 (arXiv 2104.04473) section 2.2 for the pipeline, Williams et al. 2009 per operator.
    """
    c, device = setting.ceilings, setting.machine.device
    narrow = narrow_of(setting, work)
    job = lay_out(setting.table, work, narrow)
    ledger = train_ledger(setting.table, job)
    found = attained_in_training(device, job.work.framework, narrow, fitted)
    parts, bubble = step_parts(ledger, c, found)
    shape = work.shape

    def shaped(value: Array) -> Array:
        flat = np.asarray(value, dtype=float)
        size = int(np.prod(shape))
        return np.broadcast_to(flat, size).reshape(shape) if flat.size in {1, size} else flat

    step = shaped(np.asarray(sum(parts.values())))
    replicas = job.dp * job.microbatches
    passes = 3.0 if job.work.trainable == "full" else 2.0  # frozen weights have no gradient
    counted = {name: passes * ledger.flops.under(name) * replicas for name in CONVENTIONS}
    again = ledger.flops.again * replicas
    held = training_memory(setting.table, job.work, device_bytes=c.memory_bytes - held_back_bytes(device))
    return TrainingTime(
        ledger=ledger, held=held, usable_bytes=held.usable_bytes, step_s=step, parts={name: shaped(value) for name, value in parts.items()},
        model_flops=shaped(counted["causal"]), hardware_flops=shaped(counted["causal"] + again),
        flops_by_convention={name: shaped(value) for name, value in counted.items()},
        peak_flop_per_s=np.asarray(c.flop_per_s[MATH.index(job.wide)]), devices=shaped(job.devices),
        tokens=shaped(job.seq * job.micro * replicas), microbatches=shaped(job.microbatches), bubble_share=shaped(bubble),
        moved_bytes=shaped(ledger.moved_bytes), ceilings=c, device=device, narrow=narrow, fitted=fitted,
    )  # fmt: skip

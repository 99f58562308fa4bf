"""A training request as arrays, and which parameters one device holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger import table as t
from bytebound.ledger.request import WIDTH_GROWTH_EXPONENT
from bytebound.ledger.training_plan import resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.values import Number
    from bytebound.documents.work import Train
    from bytebound.ledger.table import OpTable

    Array = NDArray[Any]

FORWARD, BACKWARD, AGAIN = range(3)
"""Passes of a micro-batch; AGAIN is what the backward pass recomputes first."""
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp4": 0.5625}
"""Bytes of one value by dtype; fp4 with a scale per 16 values."""


@dataclass(frozen=True, slots=True)
class Job:
    """A resolved request as arrays (requests,), and what else the rows depend on."""

    work: Train
    seq: Array
    micro: Array
    tp: Array
    pp: Array
    dp: Array
    cp: Array
    ep: Array
    expert_tp: Array
    virtual: Array
    zero: Array
    microbatches: Array
    scale: Array
    again: Array
    rank: Array
    together: bool
    wide: str
    narrow: str

    @property
    def tokens(self) -> Array:
        """Tokens of one micro-batch on one device, (requests,)."""
        return np.asarray(self.micro * self.seq / self.cp)

    @property
    def devices(self) -> Array:
        """Devices at work, (requests,)."""
        return np.asarray(self.tp * self.pp * self.dp * self.cp)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Parameters of the main model by where they go: (requests,) or one number."""

    dense: Array
    experts: Array
    vocabulary: Array
    looked_up: Array


def lay_out(table: OpTable | None, work: Train, narrow: str = "") -> Job:
    """Return ``work`` resolved, its numbers as arrays (requests,).

    Args:
        table: the model, where its operators are known.
        work: the request; of any shape, taken in its flat order.
        narrow: dtype the products of layers run in, where the device has one; empty: as the precision says.
    """
    done = resolve(work, table)
    shape = done.shape

    def flat(value: Number) -> Array:
        array = np.asarray(value, dtype=float)
        return array.reshape(1) if array.ndim == 0 else np.broadcast_to(array, shape).reshape(-1)

    again = np.zeros(1) if done.recompute != "full" else flat(done.recompute_layers)
    micro, dp = flat(done.micro_batch), flat(done.dp)
    wide = {"fp32": "fp32", "fp16-mixed": "fp16"}.get(done.precision, "bf16")
    return Job(
        work=done, seq=flat(done.seq), micro=micro, tp=flat(done.tp), pp=flat(done.pp), dp=dp, cp=flat(done.cp),
        ep=flat(done.ep), expert_tp=flat(done.expert_tp), virtual=flat(done.virtual_stages), zero=flat(done.zero),
        microbatches=np.maximum(flat(done.global_batch) / (micro * dp), 1.0), scale=flat(done.model_scale), again=again, rank=flat(done.lora_rank),
        together=done.sequence_parallel == "on", wide=wide, narrow=narrow or wide,
    )  # fmt: skip


def local_parameters(table: OpTable, job: Job) -> Sizes:
    """Return the parameters of the device that holds most: of its layers, its experts and the vocabulary.

    With a pipeline the first or the last stage holds one of the two vocabulary matrices.
    """
    p, x = table.products, table.streams
    role = np.array(p.roles)
    own = (p.stream != t.ENCODER) | table.crosses
    sizes = p.elements * p.copies * p.repeat * own
    head, expert = role == "head", p.copies > 1
    looked_up = float((x.elements * x.repeat * (x.looked_up > 0) * (x.stream == t.MAIN)).sum())
    small = float((x.elements * x.repeat * (x.looked_up == 0)).sum())
    dense = float(sizes[~head & ~expert].sum()) + small
    output = float((sizes * (1 - p.tied))[head].sum())
    vocabulary = np.where(job.pp > 1, max(looked_up, output), looked_up + output)
    whole = job.tp * job.pp
    return Sizes(
        dense=job.scale * dense / whole,
        experts=job.scale * float(sizes[expert].sum()) / (job.expert_tp * job.ep * job.pp),
        vocabulary=vocabulary / job.tp * job.scale ** WIDTH_GROWTH_EXPONENT,
        looked_up=np.asarray(looked_up),
    )  # fmt: skip

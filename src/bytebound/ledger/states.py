"""Model states of training: parameters, gradients and optimizer states of one device, by how they are stored and dealt out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger import table as t
from bytebound.ledger.schedules import front_layers, is_last, rows_held, stage_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.ledger.table import OpTable

    Array = NDArray[Any]

WIDE, HALF = 4.0, 2.0
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""QLoRA's base: 4 bits, an 8-bit scale per 64 values and an fp32 scale per 256 of those (double quantization). Source: Dettmers
et al. 2023 (arXiv 2305.14314) section 3."""
NF4_PLAIN_BYTES = 0.5 + 4 / 64
"""The same with one 32-bit scale per 64 values: litgpt's ``bnb.nf4``, which its QLoRA recipes use (config_hub/finetune)."""
MASTER_BYTES: Mapping[str, float] = {
    "bf16-mixed": WIDE, "fp16-mixed": WIDE, "fp8-mixed": WIDE, "fp4-mixed": WIDE, "bf16-autocast": 0.0, "bf16": 0.0, "fp32": 0.0,
}  # fmt: skip
"""32-bit master copy beside the weights [B per parameter]. Source: ZeRO (arXiv 1910.02054) section 3.1."""

BLOCK_8BIT, BLOCK_4BIT = 256, 128
"""Values that share one fp32 scale in 8-bit and 4-bit optimizer states. Source: torchao optim README; bitsandbytes block-wise
quantization uses 256 as well (arXiv 2110.02861 uses 2,048)."""

MOMENTS: Mapping[str, float] = {
    "adamw": 2.0, "adamw-8bit": 2.0, "adamw-4bit": 2.0, "adamw-bf16": 2.0, "sgd": 0.0, "sgd-momentum": 1.0, "lion": 1.0,
    "adafactor": 0.0, "muon": 1.0, "galore": 2.0, "galore-8bit": 2.0,
}  # fmt: skip
"""States per parameter that an optimizer keeps (adafactor and galore keep fewer for matrices, muon two for what is no matrix).
Sources: ZeRO section 3.1 (Adam); Chen et al. 2023 (arXiv 2302.06675, Lion); Shazeer and Stern 2018 (arXiv 1804.04235,
Adafactor without momentum); Jordan et al. 2024 (Muon: momentum of matrices, AdamW for the rest); Zhao et al. 2024
(arXiv 2403.03507, GaLore)."""

GALORE_RANK = 4
"""GaLore's rank as a share of the model's width, one in so many: its 7B recipe uses 1,024 of 4,096 (arXiv 2403.03507, Table 2)."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of one device, by how they are dealt out. Arrays (3, *requests): first, second and last stage.

    ``dense`` and ``experts`` are matrices, ``small`` norms and biases, ``embedding`` and ``head`` the ends (a tied head on a stage
    of its own is a copy). ``adapters`` are LoRA's. ``factored`` is what Adafactor keeps instead of a second moment (row and
    column sums), ``projected`` what GaLore does instead of two moments.
    """

    dense: Array
    experts: Array
    small: Array
    embedding: Array
    head: Array
    adapters: Array
    factored: Array
    projected: Array
    layer: Array
    products: Array

    @property
    def total(self) -> Array:
        """All but adapters."""
        return np.asarray(self.dense + self.experts + self.small + self.embedding + self.head)


@dataclass(frozen=True, slots=True)
class States:
    """Bytes of one device, arrays (3, *requests); ``host`` lies in host memory (or on NVMe) instead.

    ``unsharded`` is bytes per parameter of a gathered unit, ``group`` how many devices share dense states.
    """

    parameters: Array
    gradients: Array
    optimizer: Array
    host: Array
    trained: Array


def count_parameters(table: OpTable, work: Train) -> Parameters:
    """Return the parameters each stage's fullest device holds before ZeRO deals them out, (3, *requests).

    Columns, rows and vocabulary are split by tp, experts by ep × expert_tp, layers by pp; other parameters are whole on every
    device. Widths grow with ``model_scale``.
    """
    p, x = table.products, table.streams
    tp, pp, ep = (np.asarray(v, dtype=float) for v in (work.tp, work.pp, work.ep))
    etp = np.maximum(np.asarray(work.expert_tp, dtype=float), 1.0)
    shape = work.shape
    stage = stage_layers(work, table.layers)
    front = front_layers(table)
    extend = (slice(None), *([None] * (1 + len(shape))))
    held = rows_held(p.repeat, table.layers, stage, front=front)
    is_expert = p.copies > 1
    split = np.where(is_expert[extend], etp, tp)
    share = np.where((p.shard == t.REPLICATE)[extend], 1.0, 1.0 / split)
    own = np.where(is_expert[extend], np.ceil(p.copies[extend] / ep), p.copies[extend])
    ends = np.array([role in {"head", "embedding"} for role in p.roles])
    each = (p.elements * (1 - p.tied))[extend] * share * own
    body = np.where(ends[extend], 0.0, each * held)
    experts = np.where(is_expert[extend], body, 0.0)
    scale = np.asarray(work.model_scale, dtype=float)
    there = is_last(work)
    here = np.concatenate([np.ones((1, *shape), dtype=bool), np.broadcast_to(pp <= 1, (2, *shape))])
    looked_up = x.looked_up > 0
    table_size = float((x.elements * x.repeat * looked_up).sum())
    head_matrix = (p.elements * p.repeat * ends)[extend] * share
    head = np.where((p.tied > 0)[extend] & here, 0.0, head_matrix).sum(axis=0)
    small_held = rows_held(x.repeat * (1 - looked_up), table.layers, stage, front=front)
    small = (x.elements[extend] * small_held).sum(axis=0)
    parts = np.array([name.count("+") + 1.0 for name in p.names])
    merged, adapted = parts[extend], adapted_parts(table, work.lora_targets)[extend]
    column = (p.shard == t.COLUMN)[extend]
    made = p.outputs[extend] / merged
    sides = np.where(column, p.inputs[extend] + made / tp, p.inputs[extend] / tp + made)
    adapters = (np.asarray(work.lora_rank, dtype=float) * adapted * sides * own * held).sum(axis=0)
    rows_columns = merged * p.inputs[extend] + p.outputs[extend]
    narrow, wide = np.minimum(p.inputs[extend], made), np.maximum(p.inputs[extend], made)
    low = np.minimum(narrow, np.floor(table.hidden / GALORE_RANK))
    full = np.ones((3, *shape))
    layer = body.sum(axis=0) / np.maximum(stage, 1.0)
    return Parameters(
        dense=(body - experts).sum(axis=0) * scale * full, experts=experts.sum(axis=0) * scale * full, small=small * full,
        embedding=table_size / tp * here * full, head=head * there * full, adapters=adapters * full,
        factored=np.where(ends[extend], 0.0, rows_columns * share * own * held).sum(axis=0) * full,
        projected=np.where(ends[extend], 0.0, merged * low * (narrow + 2 * wide) * share * own * held).sum(axis=0) * full,
        layer=layer * scale * full, products=body * scale,
    )  # fmt: skip


def state_bytes(table: OpTable, work: Train) -> States:
    """Return model states of the first, second and last stage's fullest device, (3, *requests).

    Sources: ZeRO (arXiv 1910.02054) section 3.1 and Fig. 1 for the stages; Megatron-LM ``theoretical_memory_usage.py`` for 18 and
    6 + 12/d bytes per parameter; FSDP2's 16/d (32-bit shards, cast where gathered); each optimizer as in ``MOMENTS``. Dense
    states are dealt over dp × cp, experts over tp × dp × cp / (ep × expert_tp).

    Args:
        table: of the model.
        work: a resolved request (``training_plan.resolve``).
    """
    count = count_parameters(table, work)
    dp, cp, tp, ep = (np.asarray(v, dtype=float) for v in (work.dp, work.cp, work.tp, work.ep))
    etp = np.maximum(np.asarray(work.expert_tp, dtype=float), 1.0)
    zero = np.asarray(work.zero)
    dense_group = dp * cp
    expert_group = np.maximum(tp * dp * cp / (ep * etp), 1.0)

    def dealt(dense: Array, experts: Array, stage: int) -> Array:
        over = zero >= stage
        return np.asarray(dense / np.where(over, dense_group, 1.0) + experts / np.where(over, expert_group, 1.0))

    weight = weight_bytes(work)
    rest = count.embedding + count.head + count.small
    if work.trainable != "full":
        base, width = frozen_bytes(work), adapter_bytes(work)
        whole = WIDE if work.precision == "fp32" else HALF
        # litgpt quantizes every linear layer, transformers all but the head
        head = count.head * (base if work.framework == "litgpt" else whole)
        frozen = dealt(
            count.dense * base + (rest - count.head) * whole + head, count.experts * base, parameter_stage(work)
        )
        adapters = count.adapters
        parameters = frozen + dealt(adapters * width, 0 * adapters, parameter_stage(work))
        gradients = dealt(adapters * width, 0 * adapters, 2)
        optimizer = dealt(adapters * moment_bytes(work), 0 * adapters, 1)
        return _placed(work, parameters, gradients, optimizer, adapters)
    master = master_bytes(work)
    gradient = gradient_bytes(work)
    parameters = dealt(count.dense * weight + rest * weight, count.experts * weight, parameter_stage(work))
    gradients = dealt((count.dense + rest) * gradient, count.experts * gradient, 2)
    dense_states, expert_states = _optimizer(work, count, master)
    return _placed(work, parameters, gradients, dealt(dense_states, expert_states, 1), count.total)


def whole_in_step(work: Train) -> tuple[Array, Array]:
    """Return whether FSDP leaves gathered parameters whole until the backward pass, and gradients until the last one, (*requests) each.

    Parameters below stage 3 (``reshard_after_forward=False``), and both under a pipeline, where gathering for every micro-batch would
    cost more than it saves: gradients pile up unsharded and are reduced once. Sources: torchtitan ``apply_fsdp`` (policy
    "default"); PyTorch ``pipelining.stage.backward_maybe_with_nosync``.
    """
    zero, pp = np.asarray(work.zero), np.asarray(work.pp)
    several = (np.asarray(work.dp) * np.asarray(work.cp) > 1) & (work.framework == "fsdp")
    parameters = several & (zero >= 1) & ((zero < 3) | (pp > 1))
    gradients = several & (zero >= 2) & (pp > 1)
    return np.broadcast_to(parameters, work.shape), np.broadcast_to(gradients, work.shape)


def parameter_stage(work: Train) -> int:
    """Return the ZeRO stage from which stored parameters are dealt out: FSDP's always are."""
    return 1 if work.framework == "fsdp" else 3


def frozen_bytes(work: Train) -> float:
    """Return bytes of one frozen parameter of a layer under adapters."""
    if work.trainable == "qlora":
        return NF4_PLAIN_BYTES if work.framework == "litgpt" else NF4_BYTES
    return WIDE if work.precision == "fp32" else HALF


def adapter_bytes(work: Train) -> float:
    """Return bytes of one adapter value: 32-bit under Hugging Face PEFT (``autocast_adapter_dtype``), else as the model."""
    return HALF if work.precision == "bf16" and work.framework != "hf" else WIDE


def weight_bytes(work: Train) -> float:
    """Return bytes of one stored parameter: 4 in fp32, autocast and FSDP's mixed precision (its shards are the masters), else 2.

    In fp8 Megatron stores a row-wise and a column-wise 8-bit copy in place of the 16-bit weight (``fp8_param_gather``); torch
    frameworks cast at every use.
    """
    wide = work.precision in {"fp32", "bf16-autocast"} or (
        work.framework == "fsdp" and MASTER_BYTES[work.precision] > 0
    )
    return WIDE if wide else HALF


def master_bytes(work: Train) -> float:
    """Return bytes of one 32-bit master copy beside the weight; FSDP's shards are the masters."""
    return MASTER_BYTES[work.precision] if work.framework != "fsdp" else 0.0


def gradient_bytes(work: Train) -> float:
    """Return bytes of one kept gradient. DeepSpeed's 16-bit gradients stay beside their 32-bit sums (20 bytes in all)."""
    kept = WIDE if work.gradients == "fp32" else HALF
    beside = work.framework == "deepspeed" and work.gradients == "fp32" and MASTER_BYTES[work.precision] > 0
    return kept + HALF if beside else kept


def whole_gradients(work: Train, count: Parameters) -> Array:
    """Return bytes of all gradients of a stage before ZeRO deals them out, (3, *requests)."""
    if work.trainable != "full":
        return np.asarray(count.adapters * adapter_bytes(work))
    return np.asarray(count.total * gradient_bytes(work))


def moment_bytes(work: Train) -> float:
    """Return bytes per parameter of an optimizer's states where it keeps whole ones; scales of narrow states included."""
    number = MOMENTS[work.optimizer]
    if work.optimizer in {"adamw-8bit", "galore-8bit"}:
        return number * (1 + WIDE / BLOCK_8BIT)
    if work.optimizer == "adamw-4bit":
        return number * (0.5 + WIDE / BLOCK_4BIT)
    narrow = weight_bytes(work) if work.trainable == "full" else adapter_bytes(work)
    half = work.optimizer == "adamw-bf16" or (work.precision == "bf16" and narrow == HALF)
    return number * (HALF if half else WIDE)


def touched_bytes(work: Train) -> float:
    """Return bytes of moments and master copy that a step reads and writes per parameter; Adafactor's sums are too few to count."""
    if work.trainable != "full":
        return moment_bytes(work)
    # a square matrix of side n has n²/r values in GaLore's projection and in each of two moments
    projected = 3 / (2 * GALORE_RANK) if work.optimizer in {"galore", "galore-8bit"} else 1.0
    return master_bytes(work) + moment_bytes(work) * projected


def _optimizer(work: Train, count: Parameters, master: float) -> tuple[Array, Array]:
    """Return optimizer states of dense parameters and of experts, masters among them, before they are dealt out."""
    each = moment_bytes(work)
    rest = count.embedding + count.head + count.small
    width = HALF if work.precision == "bf16" else WIDE
    share = count.experts / np.maximum(count.dense + count.experts, 1.0)
    if work.optimizer == "muon":
        dense, experts = count.dense * each + rest * 2 * each, count.experts * each
    elif work.optimizer == "adafactor":
        # a second moment of what is no matrix; the ends are matrices of (rows + columns) too few to count
        dense, experts = count.factored * (1 - share) * width + count.small * width, count.factored * share * width
    elif work.optimizer in {"galore", "galore-8bit"}:
        scaled = count.projected * each / MOMENTS[work.optimizer]
        dense, experts = scaled * (1 - share) + rest * each, scaled * share
    else:
        dense, experts = (count.dense + rest) * each, count.experts * each
    return np.asarray(dense + (count.dense + rest) * master), np.asarray(experts + count.experts * master)


def _placed(work: Train, parameters: Array, gradients: Array, optimizer: Array, trained: Array) -> States:
    """Return the states with what is offloaded moved to the host."""
    away = work.offload.removesuffix("-nvme")
    host = {"none": 0 * optimizer, "optimizer": optimizer, "parameters": optimizer + parameters}[away]
    if away != "none":
        optimizer = 0 * optimizer
    if away == "parameters":
        parameters = 0 * parameters
    return States(parameters, gradients, optimizer, host, trained)


def adapted_parts(table: OpTable, targets: str) -> Array:
    """Return how many of the matrices merged in each product row have a LoRA adapter, (rows,).

    Adapters sit on linear layers of attention and feed-forward; routed experts are stacked parameters and have none.
    """
    p = table.products
    return np.array([
        sum(_adapts(role, part, targets) for part in name.split("+")) if copies == 1 else 0.0
        for role, name, copies in zip(p.roles, p.names, p.copies.tolist(), strict=True)
    ])  # fmt: skip


def adapted_widths(table: OpTable, targets: str) -> tuple[float, float]:
    """Return the summed inputs and outputs of the matrices LoRA adapts: its parameters are ``rank`` times their sum.

    Source: LoRA (arXiv 2106.09685) section 4.1.
    """
    p = table.products
    adapted = adapted_parts(table, targets) * p.repeat * (p.stream == t.MAIN)
    merged = np.array([name.count("+") + 1.0 for name in p.names])
    return float((p.inputs * adapted).sum()), float((p.outputs / merged * adapted).sum())


def _adapts(role: str, part: str, targets: str) -> bool:
    if role not in {"attention", "mlp"}:
        return False
    if targets == "qv":
        return role == "attention" and any(
            key in part for key in ("q_proj", "v_proj", "c_attn", "qkv", "query", "value")
        )
    return targets == "all" or (role == "attention") == (targets == "attention")

"""The training ledger: model states, activations, FLOPs and communication of one optimizer step, from formulas.

Everything broadcasts over the arrays of a ``Train`` request. Exact tracing of real code is a later issue; these are the
closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger import table as t
from bytebound.ledger.request import KV_GROWTH_EXPONENT, WIDTH_GROWTH_EXPONENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.ledger.table import OpTable

    Array = NDArray[Any]

MASTER_BYTES = {"bf16-mixed": 4.0, "fp16-mixed": 4.0, "fp8-mixed": 4.0, "bf16": 0.0, "fp32": 0.0}
WEIGHT_BYTES = {"bf16-mixed": 2.0, "fp16-mixed": 2.0, "fp8-mixed": 2.0, "bf16": 2.0, "fp32": 4.0}
MOMENT_BYTES = {
    "adamw": 8.0, "adamw-8bit": 2.0, "adamw-bf16": 4.0, "sgd": 0.0, "sgd-momentum": 4.0, "lion": 4.0, "adafactor": 0.0,
    "muon": 4.0,
}  # fmt: skip
"""Optimizer moments per parameter [B]. Source: ZeRO (arXiv 1910.02054) section 3.1 for Adam's 4 + 4 and the fp32 master
copy; torchao optim README for 8-bit and bf16 states; the others from their update rules."""


@dataclass(frozen=True, slots=True)
class TrainingLedger:
    """Per device: bytes resident by kind, FLOPs of one step, bytes communicated. Arrays broadcast.

    ``flops`` count forward and backward (3 × forward) without recomputation; ``recomputed_flops`` are extra.
    ``attention_share`` of them are attention scores, which lower precision does not speed up.
    """

    weight_bytes: Array
    gradient_bytes: Array
    optimizer_bytes: Array
    activation_bytes: Array
    temporary_bytes: Array
    flops: Array
    attention_share: Array
    recomputed_flops: Array
    data_parallel_bytes: Array
    tensor_bytes: Array
    tensor_collectives: Array
    pipeline_bytes: Array
    microbatches: Array
    tokens: Array


def model_state_bytes(
    parameters: Array | float, *, precision: str, optimizer: str, zero: Array | float, dp: Array | float
) -> tuple[Array, Array, Array]:
    """Return (weights, gradients, optimizer) bytes per device.

    Source: ZeRO Fig. 1 and section 3.1: 2Ψ + 2Ψ + 12Ψ for mixed-precision Adam; stage 1 shards the optimizer, stage 2 the
    gradients too, stage 3 the weights too.
    """
    half = precision == "bf16"
    moments = MOMENT_BYTES[optimizer] / (2.0 if half and optimizer not in {"adamw-8bit", "adamw-bf16"} else 1.0)
    weights = np.asarray(parameters * WEIGHT_BYTES[precision] / np.where(np.asarray(zero) >= 3, dp, 1))
    gradients = np.asarray(parameters * WEIGHT_BYTES[precision] / np.where(np.asarray(zero) >= 2, dp, 1))
    optimizer_bytes = np.asarray(
        parameters * (MASTER_BYTES[precision] + moments) / np.where(np.asarray(zero) >= 1, dp, 1)
    )
    return weights, gradients, optimizer_bytes


def activation_bytes_per_layer(table: OpTable, seq: Array, width_scale: Array | float = 1.0) -> Array:
    """Return 16-bit activation bytes kept per layer for one sequence of ``seq`` tokens with flash attention.

    Inputs of norms and products, q, k, v, and the outputs of the MLP's first products: for a LLaMA layer
    ``s (4 + 2 + 2 + 4 k/a + 2 + 2 + 6 f/h) h``. Source: Korthikanti et al. 2022 (arXiv 2205.05198) Table 2 without dropout,
    with the gated MLP's 6 f/h instead of 4 f/h.
    """
    p, s, x = table.products, table.scores, table.streams
    layers = table.layers
    inner = np.array([role not in {"head", "embedding", "router"} for role in p.roles]) & (p.stream == t.MAIN)
    read = p.inputs * np.where(p.launches > 0, 1.0, 0.0)
    made = p.outputs * np.array([role in {"mlp", "expert"} for role in p.roles]) * (p.shard == t.COLUMN)
    products = ((read + made) * np.where(p.copies > 1, p.active, 1.0) * p.repeat * inner).sum()
    mains = s.stream == t.MAIN
    qkv = ((s.heads * s.qk_dim + s.kv_heads * (s.qk_dim + s.v_dim)) * s.repeat * mains).sum()
    norms = (x.width * x.repeat * (x.looked_up == 0) * (x.stream == t.MAIN)).sum()
    return np.asarray(2.0 * seq * (products + qkv + norms) / layers * width_scale)


def train_ledger(table: OpTable, parameters: float, work: Train) -> TrainingLedger:
    """Return what one optimizer step holds, computes and communicates on one device."""
    p, s = table.products, table.scores
    scale = np.asarray(work.model_scale, dtype=float)
    wide = scale**WIDTH_GROWTH_EXPONENT
    tp, pp, dp, cp = (np.asarray(v, dtype=float) for v in (work.tp, work.pp, work.dp, work.cp))
    seq, micro = np.asarray(work.seq, dtype=float), np.asarray(work.micro_batch, dtype=float)
    microbatches = np.maximum(np.asarray(work.global_batch) / (micro * dp), 1.0)
    psi = parameters * scale / (tp * pp)
    adapters = (
        _lora_parameters(table, np.asarray(work.lora_rank, dtype=float)) / (tp * pp)
        if work.trainable == "lora"
        else None
    )
    group = dp * cp
    ep = np.minimum(np.asarray(work.ep, dtype=float), group)
    experts = _expert_share(table) * psi
    dense = (psi - experts) if adapters is None else adapters
    weights, gradients, states = (
        own + dealt
        for own, dealt in zip(
            model_state_bytes(dense, precision=work.precision, optimizer=work.optimizer, zero=work.zero, dp=group),
            model_state_bytes(
                (experts if adapters is None else 0.0 * experts) / ep,
                precision=work.precision, optimizer=work.optimizer, zero=work.zero, dp=group / ep,
            ),
            strict=True,
        )
    )  # fmt: skip
    if adapters is not None:
        frozen = (psi - experts) + experts / ep
        weights = weights + frozen * WEIGHT_BYTES[work.precision] / np.where(np.asarray(work.zero) >= 3, group / ep, 1)
    per_layer = activation_bytes_per_layer(table, seq * micro / cp, wide) / tp
    boundary = 2.0 * seq * micro / cp * table.hidden * wide / tp
    kept = per_layer if work.recompute != "full" else boundary
    in_flight = np.minimum(pp, microbatches) / pp
    activations = kept * table.layers * in_flight + (per_layer if work.recompute == "full" else 0.0)
    if work.recompute == "none":
        scores = 5.0 * (s.heads * s.repeat * (s.stream == t.MAIN)).sum() * seq * seq * micro / (tp * cp)
        activations = activations + scores * in_flight
    vocabulary = float(np.where(p.shard == t.VOCAB, p.outputs, 0.0).max(initial=0.0))
    logits = 8.0 * seq * micro / cp * vocabulary / tp
    gathered = np.where(np.asarray(work.zero) >= 3, 2 * 2.0 * psi / np.maximum(table.layers / pp, 1.0), 0.0)
    mains = p.stream != t.ENCODER
    per_token = (p.flop_per_token * p.active * p.repeat * mains).sum() * scale
    keys = np.minimum(np.minimum(seq[..., None] / 2, s.window), s.selected) * (s.stream == t.MAIN)
    attention = (2.0 * s.heads * (s.qk_dim + s.v_dim) * s.repeat * keys / s.stride).sum(
        axis=-1
    ) * scale**KV_GROWTH_EXPONENT
    forward = (per_token + attention) * seq * micro * microbatches / (tp * pp * cp)
    backward = 2.0 if adapters is None else 1.0
    recomputed = {"none": 0.0, "selective": 0.04, "full": 1.0}[work.recompute]
    volumes = np.where(np.asarray(work.zero) >= 3, 3.0, 2.0)
    synced = psi if adapters is None else adapters
    # a frozen base that is sharded is gathered for forward and for backward all the same
    gathered_base = (
        0.0 if adapters is None else np.where(np.asarray(work.zero) >= 3, 2 * 2.0 * psi * (group - 1) / group, 0.0)
    )
    reduces = (p.repeat * (p.reduces > 0)).sum() / pp
    return TrainingLedger(
        weight_bytes=np.asarray(weights), gradient_bytes=np.asarray(gradients), optimizer_bytes=np.asarray(states),
        activation_bytes=np.asarray(activations), temporary_bytes=np.asarray(logits + gathered), flops=np.asarray(forward * (1 + backward)), attention_share=np.asarray(attention / (per_token + attention)),
        recomputed_flops=np.asarray(forward * recomputed), data_parallel_bytes=np.asarray(volumes * synced * 2.0 * (group - 1) / group + gathered_base),
        tensor_bytes=np.asarray(np.where(tp > 1, 2.0 * seq * micro / cp * table.hidden * wide, 0.0)),
        tensor_collectives=np.asarray(2 * reduces * microbatches), pipeline_bytes=np.asarray(2.0 * seq * micro / cp * table.hidden * wide),
        microbatches=np.asarray(microbatches), tokens=np.asarray(seq * np.asarray(work.global_batch, dtype=float)),
    )  # fmt: skip


def _expert_share(table: OpTable) -> float:
    """Return the share of matrix parameters that are routed experts."""
    p = table.products
    sizes = p.elements * p.copies * p.repeat * (1 - p.tied)
    return float((sizes * (p.copies > 1)).sum() / max(sizes.sum(), 1.0))


def _lora_parameters(table: OpTable, rank: Array) -> Array:
    """Return adapter parameters: r (in + out) per adapted matrix. Source: LoRA (arXiv 2106.09685) section 4.1."""
    p = table.products
    adapted = np.array([role in {"attention", "mlp"} for role in p.roles])
    return np.asarray(rank * ((p.inputs + p.outputs) * p.repeat * adapted).sum())


def train_flop_per_token(table: OpTable, seq: float) -> float:
    """Return training FLOPs per token, 3 × forward, causal attention at ``seq`` tokens, without recomputation."""
    p, s = table.products, table.scores
    matrices = float((p.flop_per_token * p.active * p.repeat * (p.stream != t.ENCODER)).sum())
    keys = np.minimum(np.minimum(seq / 2, s.window), s.selected) * (s.stream == t.MAIN)
    attention = float((2.0 * s.heads * (s.qk_dim + s.v_dim) * s.repeat * keys / s.stride).sum())
    return 3.0 * (matrices + attention)

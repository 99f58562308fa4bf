"""Training memory of the fullest device at its peak, from formulas: states, activations, what is briefly alive, and the reserve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.facts.training_reserves import find_training_reserve
from bytebound.ledger import table as t
from bytebound.ledger.activations import FUSED_FRAMEWORKS, kept, local_tokens
from bytebound.ledger.schedules import in_flight, is_last, stage_layers
from bytebound.ledger.states import (
    HALF,
    MASTER_BYTES,
    WIDE,
    adapter_bytes,
    count_parameters,
    frozen_bytes,
    gradient_bytes,
    moment_bytes,
    state_bytes,
    whole_gradients,
    whole_in_step,
)
from bytebound.ledger.training_plan import microbatches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.ledger.activations import Kept
    from bytebound.ledger.states import Parameters, States
    from bytebound.ledger.table import OpTable

    Array = NDArray[Any]

PEAKS = ("loss", "backward", "end of backward", "optimizer step")
"""Moments that can be the fullest: the loss and its gradient, the backward pass of the last layer, that of the first (when
gradients have piled up), the optimizer step."""

LOSS_CHUNK_TOKENS = 1024
"""Tokens whose logits a chunked loss has alive at a time; torchtune's eight chunks of an 8,192-token sequence."""

LOSS_BYTES = {"megatron": 2.0, "deepspeed": 10.0, "jax": 6.0, "hf": 12.0, "fsdp": 14.0, "litgpt": 12.0}
"""Bytes per token and vocabulary entry alive at the start of the backward pass. megatron: 16-bit logits that the fused cross
entropy turns into their gradient in place (Transformer Engine ``parallel_cross_entropy``). deepspeed: logits in 16 and in 32
bits and the softmax (Megatron-DeepSpeed ``vocab_parallel_cross_entropy``). hf: the 32-bit log-softmax and two 32-bit
gradients (traced, torch 2.13). fsdp: the 16-bit logits beside them, as trainers hold the model's output (told by torchtitan's
published peaks, benchmarks/llama3_h100_202412_torchtitan.md table 2). litgpt: Fabric turns the logits into 32 bits
(``convert_output``), the log-softmax is as wide, and so is a gradient (traced, litgpt 0.5.3). jax: assumed, logits in both widths."""

LITGPT_KEPT, LITGPT_CHUNK_TOKENS = 8.0, 128
"""With adapters litgpt works head and loss in chunks of 128 tokens of a sequence (``lm_head_chunk_size``): logits and log-softmax
of all of them are kept; of one chunk there is all else, or the head's matrix, whichever is more. Traced, litgpt 0.5.3."""

DEQUANTIZED_BYTES = 2 * HALF
"""Bytes per value of the matrix that a 4-bit product is at work on: its 16-bit values and their copy in the input's dtype.
Source: bitsandbytes ``MatMul4Bit`` (``dequantize_4bit(...).to(dtype)``)."""

NARROW = ("fp8-mixed", "fp4-mixed")
"""Precisions whose recipes differ in which activations they keep in the narrow format."""

WIDE_STEPS = frozenset({"megatron", "deepspeed"})
"""Frameworks that copy 16-bit gradients to 32 bits for the optimizer step."""

WORKSPACE_BYTES = 2.0 * 32 * 2**20
"""cuBLAS workspaces of torch and of Transformer Engine, handed out by the allocator. Source: PyTorch CUDA notes
(``CUBLAS_WORKSPACE_CONFIG``, 32 MiB from Hopper on)."""

UNITS_GATHERED = 2.0
"""FSDP units whole at a time: the one at work and the one fetched ahead. Source: FSDP2 design notes (implicit prefetching)."""

BUCKETS, BUCKET_ELEMENTS = 3, 5e8
"""DeepSpeed's buckets: two to reduce from in turn (``overlap_comm``) and one to gather into, and the elements of each. Source:
DeepSpeed configuration, ``reduce_bucket_size`` and ``allgather_bucket_size``."""


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes on the fullest device at its peak by part, arrays (*requests).

    ``reserve_low`` and ``reserve_high`` bound the reserve (80 %); ``spread`` is the half-width factor of the 80 % interval of what is allocated;
    ``peak`` indexes ``PEAKS``.
    """

    parameters: Array
    gradients: Array
    optimizer: Array
    activations: Array
    temporary: Array
    reserve: Array
    reserve_low: Array
    reserve_high: Array
    host_bytes: Array
    usable_bytes: Array
    spread: Array
    peak: Array

    @property
    def allocated_bytes(self) -> Array:
        """All but the reserve: what ``torch.cuda.max_memory_allocated`` shows."""
        return np.asarray(self.parameters + self.gradients + self.optimizer + self.activations + self.temporary)

    @property
    def total_bytes(self) -> Array:
        """Everything, reserve included."""
        return np.asarray(self.allocated_bytes + self.reserve)

    @property
    def low_bytes(self) -> Array:
        """The low end of the 80 % interval of the total; the reserve and what is allocated err independently."""
        allocated = self.allocated_bytes
        return np.asarray(
            self.total_bytes - np.hypot(allocated * (1 - 1 / self.spread), self.reserve - self.reserve_low)
        )

    @property
    def high_bytes(self) -> Array:
        """The high end of the 80 % interval of the total."""
        allocated = self.allocated_bytes
        return np.asarray(self.total_bytes + np.hypot(allocated * (self.spread - 1), self.reserve_high - self.reserve))

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Whether the high end fits, so nine runs in ten that are said to fit do; running out is the costly error."""
        return np.asarray(self.high_bytes <= self.usable_bytes)


def training_memory(table: OpTable, work: Train, *, device_bytes: Array | float) -> Held:
    """Return what the fullest device holds at the fullest moment of a step.

    First, second and last pipeline stage are laid beside the four ``PEAKS``; the largest sum is the answer.

    Args:
        table: of the model.
        work: a resolved request (``training_plan.resolve``).
        device_bytes: memory of a device that a program can get [B].
    """
    states, count, one = state_bytes(table, work), count_parameters(table, work), kept(table, work)
    parts = _moments(table, work, states, count, one)
    shape = np.broadcast_shapes(work.shape, np.shape(device_bytes))
    sums = np.add.reduce(parts).reshape(len(PEAKS) * 3, *work.shape)
    fullest = sums.argmax(axis=0)[None]

    def at_peak(part: Array) -> Array:
        laid = part.reshape(len(PEAKS) * 3, *work.shape)
        return np.asarray(np.broadcast_to(np.take_along_axis(laid, fullest, axis=0)[0], shape))

    parameters, gradients, optimizer, activations, temporary = (at_peak(part) for part in parts)
    allocated = parameters + gradients + optimizer + activations + temporary
    low, middle, high = (end + _apart(work, states, sums) for end in reserved(work, allocated))
    host = np.broadcast_to(states.host.max(axis=0), shape)
    full = np.ones(shape)
    return Held(
        parameters, gradients, optimizer, activations, temporary, middle * full, low * full, high * full, np.asarray(host),
        np.asarray(device_bytes, dtype=float) * full, spread_of(work) * full,
        np.broadcast_to(fullest[0] // 3, shape),
    )  # fmt: skip


def reserved(work: Train, allocated: Array) -> tuple[Array, Array, Array]:
    """Return bytes beside what is allocated, low, middle and high (80 %): context, links and what the allocator cannot use."""
    reserve = find_training_reserve(work.framework)
    groups = sum((np.asarray(degree) > 1) * 1.0 for degree in (work.tp, work.pp, work.dp, work.cp, work.ep))
    chunked = (np.asarray(work.virtual_stages) > 1) & (np.asarray(work.pp) > 1)
    low, middle, high = (
        np.asarray(allocated * (share - 1) + context + link * groups)
        for share, context, link in zip(reserve.fragmentation, reserve.context_bytes, reserve.link_bytes, strict=True)
    )
    wasted = np.where(chunked, (reserve.interleaved - reserve.fragmentation[2]) * allocated, 0.0)
    return low, middle, np.asarray(high + wasted)


def _apart(work: Train, states: States, sums: Array) -> Array:
    """Return bytes the driver sees beside the fullest moment: buffers of another moment that fit in none of its cached blocks.

    DeepSpeed steps with one flat buffer of gigabytes. Told by nvidia-smi readings of one replica and of many (bigscience BLOOM-176B
    tuning log): without it the former read 1.42 times what is allocated and the latter 1.2 times, with it both 1.2 times.
    """
    if work.framework != "deepspeed":
        return np.zeros(work.shape)
    laid = sums.reshape(len(PEAKS), 3, *work.shape)
    return np.asarray((laid[:-1].max(axis=0) + wide_gradients(work, states)).max(axis=0) - laid.max(axis=(0, 1)))


def spread_of(work: Train) -> float:
    """Return the half-width factor of the 80 % interval of allocated bytes: of the framework, wider for what its known runs did not do."""
    reserve = find_training_reserve(work.framework)
    recomputed, eager, narrow = reserve.unseen
    again = work.recompute == "full" or (work.recompute == "selective" and work.attention == "eager")
    widths = [
        reserve.spread,
        recomputed if again else 1.0,
        eager if work.attention == "eager" else 1.0,
        narrow if work.precision in NARROW else 1.0,
    ]
    return float(np.exp(np.linalg.norm(np.log(widths))))


def _moments(table: OpTable, work: Train, states: States, count: Parameters, one: Kept) -> tuple[Array, ...]:
    """Return parameters, gradients, optimizer, activations and temporaries at each peak, each (4, 3, *requests)."""
    many = in_flight(work)
    stage = stage_layers(work, table.layers)
    share = np.asarray(work.recompute_layers, dtype=float) * (work.recompute == "full")
    activations = (one.layers * (1 - share) + one.boundary * stage * share) * many + one.copies + one.outside
    brought_back = one.layer * (share > 0)
    # buffers that live as long as the run (Megatron, DeepSpeed), else gradients come and go with the backward pass
    standing = work.framework in {"megatron", "deepspeed"}
    several = microbatches(work) > 1
    piled = np.broadcast_to(standing | several, states.gradients.shape)
    gradients = states.gradients
    if (
        work.framework == "litgpt"
    ):  # no synchronization between micro-batches, so FSDP keeps them whole (``no_backward_sync``)
        gradients = np.where(several, whole_gradients(work, count), gradients)
    last = is_last(work)
    standing_whole, gathered, head = _gathered(work, count)
    always = _always(table, work, count)
    _, gradients_whole = whole_in_step(work)
    piling = np.where(gradients_whole, whole_gradients(work, count), gradients * piled)
    loss = np.where(last, _loss(table, work, count), 0.0) + head * last
    nothing = 0.0 * gradients
    return (
        np.stack([states.parameters] * 4),
        np.stack([piling, piling, gradients, gradients]),
        np.stack([states.optimizer] * 4),
        np.stack(
            [
                activations,
                activations + brought_back,
                activations * (1 - 1 / many) * standing + one.layer + nothing,
                nothing,
            ]
        ),
        np.stack(
            [
                loss + standing_whole + always,
                one.grads + standing_whole + gathered + always,
                one.grads + standing_whole + gathered + always,
                _step(work, states) + always,
            ]
        ),
    )


def _loss(table: OpTable, work: Train, count: Parameters) -> Array:
    """Return bytes alive at the loss: logits and their gradients, and the head's own 16-bit gradient where one is made."""
    p = table.products
    vocabulary = float(np.where([role == "head" for role in p.roles], p.outputs, 0.0).max(initial=0.0))
    sharded = bool((p.shard == t.VOCAB).any())
    tp = np.asarray(work.tp, dtype=float) if sharded else 1.0
    tokens = local_tokens(work)
    alive = np.minimum(tokens, LOSS_CHUNK_TOKENS) if work.loss == "chunked" else tokens
    logits = LOSS_BYTES[work.framework] * alive * vocabulary / tp
    if work.framework == "litgpt" and work.trainable != "full":
        chunk = np.minimum(np.asarray(work.seq, dtype=float), LITGPT_CHUNK_TOKENS) * np.asarray(work.micro_batch)
        matrix = DEQUANTIZED_BYTES * table.hidden * (work.trainable == "qlora")
        logits = (LITGPT_KEPT * tokens + np.maximum(LOSS_BYTES["litgpt"] * chunk, matrix)) * vocabulary / tp
    own = (
        HALF * np.maximum(count.head, vocabulary * table.hidden / tp)
        if work.framework == "megatron"
        else 0.0 * count.head
    )
    own = own * (work.trainable == "full") * (vocabulary > 0)
    gathering = (np.asarray(work.tp) > 1) & (work.sequence_parallel == "on")
    hidden = HALF * tokens * table.hidden
    return np.asarray(logits + own + np.where(gathering, 2 * hidden, hidden))


def _gathered(work: Train, count: Parameters) -> tuple[Array, Array, Array]:
    """Return bytes of whole units that are else sharded or off the device: all step long, around a layer's backward pass, and the head's.

    Two 16-bit units (4-bit ones of a 4-bit base), one unit's gradient and its 32-bit copy for the reduction; the head's unit,
    gradient and copy. What ``whole_in_step`` says is gathered once and all there.
    """
    parameters_whole, gradients_whole = whole_in_step(work)
    group = np.asarray(work.dp, dtype=float) * np.asarray(work.cp)
    whole = (np.asarray(work.zero) >= 3) & (group > 1) | work.offload.startswith("parameters")
    cast = WIDE if work.precision == "fp32" else HALF
    unit = cast if work.trainable == "full" else frozen_bytes(work)
    reduced = WIDE if work.precision != "bf16" else 0.0
    trained = (cast + reduced) * (work.trainable == "full")
    layer = np.where(whole & ~parameters_whole, count.layer * UNITS_GATHERED * unit, 0.0)
    reducing = (whole | parameters_whole) & ~gradients_whole
    layer = layer + np.where(reducing, count.layer * trained, 0.0)
    # litgpt wraps blocks alone: embedding and head are one unit, whole from the forward pass on
    ends = count.head + count.embedding if work.framework == "litgpt" else np.maximum(count.head, count.embedding)
    head = np.where(whole & ~parameters_whole, ends * cast + count.layer * unit, 0.0)
    head = head + np.where(reducing, ends * trained, 0.0)
    return np.where(parameters_whole, count.total * unit, 0.0), layer, head


def _always(table: OpTable, work: Train, count: Parameters) -> Array:
    """Return what lies about all step long: workspaces, stand-in gradients, buckets.

    Transformer Engine hands autograd one 16-bit stand-in per distinct weight shape, as the true gradient is summed into the
    32-bit buffer. DDP keeps all gradients a second time in its buckets (``gradient_as_bucket_view=False``).
    """
    standing = np.full_like(count.dense, WORKSPACE_BYTES)
    if work.framework == "megatron" and work.trainable == "full":
        standing = standing + HALF * _stand_ins(table, work)
    group = np.asarray(work.dp, dtype=float) * np.asarray(work.cp)
    zero = np.asarray(work.zero)
    trained = count.total if work.trainable == "full" else count.adapters
    if work.framework == "deepspeed":
        return np.asarray(standing + np.where(group > 1, np.minimum(BUCKET_ELEMENTS, trained) * BUCKETS * HALF, 0.0))
    if work.framework in FUSED_FRAMEWORKS:
        return standing
    return np.asarray(standing + np.where((zero == 0) & (group > 1), trained * gradient_bytes(work), 0.0))


def _stand_ins(table: OpTable, work: Train) -> Array:
    """Return the elements of one matrix of every distinct shape of a layer, (*requests)."""
    p = table.products
    tp = np.asarray(work.tp, dtype=float)
    etp = np.maximum(np.asarray(work.expert_tp, dtype=float), 1.0)
    shapes = {
        (float(p.elements[i]), float(p.inputs[i]), bool(p.copies[i] > 1), bool(p.shard[i] == t.REPLICATE))
        for i, role in enumerate(p.roles) if role not in {"head", "embedding", "router"}
    }  # fmt: skip
    return np.asarray(
        sum(elements / (1.0 if whole else (etp if expert else tp)) for elements, _, expert, whole in sorted(shapes))
    )


def wide_gradients(work: Train, states: States) -> Array:
    """Return bytes of the 32-bit copy of 16-bit gradients that optimizers of ``WIDE_STEPS`` step with, (3, *requests).

    Sources: Megatron-LM ``_copy_model_grads_to_main_grads``; DeepSpeed stage_1_and_2.py ``step`` (its partition, flattened).
    """
    master = MASTER_BYTES[work.precision]
    copied = work.framework in WIDE_STEPS and work.gradients == "bf16" and master > 0 and work.offload == "none"
    return np.asarray(states.optimizer * (WIDE / (master + moment_bytes(work)) if copied else 0.0))


def _step(work: Train, states: States) -> Array:
    """Return what the optimizer step holds beside states: one buffer as large as a moment where it works on all tensors at once.

    Source: torch ``_foreach_sqrt`` in ``_multi_tensor_adamw``; ``fused`` and ``loop`` need none of that size.
    """
    if work.framework in WIDE_STEPS:
        return wide_gradients(work, states)
    if work.optimizer_kernel != "foreach" or work.offload != "none":
        return 0.0 * states.optimizer
    if work.optimizer in {"sgd", "sgd-momentum"}:
        return 0.0 * states.optimizer
    width = min(moment_bytes(work) / 2, WIDE) if moment_bytes(work) else WIDE
    group = np.asarray(work.dp, dtype=float) * np.asarray(work.cp)
    dealt = np.where(np.asarray(work.zero) == 1, group, 1.0)  # from stage 2 on gradients are dealt out already
    each = (
        states.gradients / gradient_bytes(work) if work.trainable == "full" else states.gradients / adapter_bytes(work)
    )
    return np.asarray(each / dealt * width)

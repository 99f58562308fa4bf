"""Work: what is asked of a model. Every quantity may be one number or an array; arrays broadcast."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from bytebound.documents.values import Flag, Number, Text
from bytebound.errors import QuantityError, UnknownNameError

COUNT_LIMIT = 1e9
TOKEN_LIMIT = 1e10


@dataclass(frozen=True, slots=True)
class Serve:
    """Serving: ``batch`` sequences per replica in steady state, each with ``prompt`` tokens in and ``output`` out.

    Args:
        batch: concurrent sequences per data-parallel replica.
        prompt, output: tokens per request; images and audio count as the tokens they become.
        weights: a weight format, or ``auto``: as the checkpoint stores them.
        kv: a KV-cache format, or ``auto``: the checkpoint's 16-bit dtype.
        activations: dtype of activations between operators.
        tp, pp, ep, dp: tensor, pipeline, expert and data parallel degrees; tp × pp × dp devices are used.
        engine: whose memory reserve, host cost and scheduling to assume (``bytebound engines``).
        chunk: most prompt tokens per step (chunked prefill); 0: the engine's own limit.
        prefix_hit: share of prompt tokens whose KV is already in device memory.
        offload_hit: share of prompt tokens whose KV comes back from host memory over the host link.
        host_weights: share of the layers' matrices that stays in host memory and crosses the host link in every pass
            (``--cpu-offload-gb`` of vLLM, ZeRO-Inference, FlexGen).
        attention: ``flash`` keeps scores on chip, ``eager`` writes them to memory.
        scheduling: ``continuous`` mixes prefill of new requests into decoding, ``static`` runs one batch to its end.
        disaggregated: prefill runs on other devices and hands the KV over the scale-out link.
        draft_tokens, acceptance, draft_cost: speculative decoding: tokens proposed per step, chance that each is
            accepted, and time of one draft token as a share of one target step. 0 draft tokens: off.
        images: images or audio clips per request, each the tokens its tower was built for; 0: none.
        denoise_steps: passes of a diffusion model per image.
        model_scale: parameters as a multiple of the architecture's (model growth in an audit).
    """

    batch: Number = 1
    prompt: Number = 1024
    output: Number = 128
    weights: Text = "auto"
    kv: Text = "auto"
    activations: str = "bf16"
    tp: Number = 1
    pp: Number = 1
    ep: Number = 1
    dp: Number = 1
    engine: str = "vllm"
    chunk: Number = 0
    prefix_hit: Number = 0.0
    offload_hit: Number = 0.0
    host_weights: Number = 0.0
    attention: Literal["flash", "eager"] = "flash"
    scheduling: Literal["continuous", "static"] = "continuous"
    disaggregated: Flag = False
    draft_tokens: Number = 0
    acceptance: Number = 0.7
    draft_cost: Number = 0.05
    images: Number = 0
    denoise_steps: Number = 28
    model_scale: Number = 1.0

    def __post_init__(self) -> None:
        """Check every quantity.

        Raises:
            QuantityError: not a finite number in its range; the message names the field.
        """
        for name in ("batch", "tp", "pp", "ep", "dp", "denoise_steps"):
            check_range(name, getattr(self, name), 1, COUNT_LIMIT, whole=name != "batch")
        check_range("prompt", self.prompt, 1, TOKEN_LIMIT)
        check_range("output", self.output, 1, TOKEN_LIMIT)
        check_range("chunk", self.chunk, 0, TOKEN_LIMIT)
        check_range("draft_tokens", self.draft_tokens, 0, 64)
        check_range("images", self.images, 0, 1e6)
        check_range("model_scale", self.model_scale, 1e-6, 1e6)
        for name in ("prefix_hit", "offload_hit", "host_weights", "acceptance", "draft_cost"):
            check_range(name, getattr(self, name), 0, 1)
        check_range("prefix_hit + offload_hit", np.add(self.prefix_hit, self.offload_hit), 0, 1)
        check_choice("attention", self.attention, ("flash", "eager"))
        check_choice("scheduling", self.scheduling, ("continuous", "static"))

    @property
    def shape(self) -> tuple[int, ...]:
        """The broadcast shape of the request; ``()`` for one question."""
        return np.broadcast_shapes(*(np.shape(getattr(self, f.name)) for f in fields(self)))


Recompute = Literal["none", "selective", "full"]
OPTIMIZERS = (
    "adamw", "adamw-8bit", "adamw-4bit", "adamw-bf16", "sgd", "sgd-momentum", "lion", "adafactor", "muon", "galore", "galore-8bit",
)  # fmt: skip
PRECISIONS = ("bf16-mixed", "fp16-mixed", "bf16-autocast", "bf16", "fp32", "fp8-mixed", "fp4-mixed")
FRAMEWORKS = ("auto", "megatron", "fsdp", "deepspeed", "hf", "litgpt", "jax")
SCHEDULES = ("auto", "1f1b", "interleaved", "gpipe", "zb1p", "zbv")


@dataclass(frozen=True, slots=True)
class Train:
    """Training: one optimizer step on ``global_batch`` sequences of ``seq`` tokens.

    Args:
        seq: tokens of a sequence; ``micro_batch`` sequences are worked on together by one data-parallel replica.
        tokens: tokens of the whole job (0: not stated).
        tp, pp, dp, cp, ep: degrees; tp × pp × dp × cp devices are used. ``ep`` deals the experts out inside dp × cp.
        expert_tp: tensor-parallel degree of experts (0: as ``tp`` where ep is 1, else 1).
        virtual_stages: layer chunks per pipeline stage (interleaving); 1: none.
        schedule: of the pipeline; ``auto``: interleaved where there are virtual stages, else 1F1B.
        zero: sharding stage (ZeRO / FSDP) over the data-parallel group: 1 optimizer, 2 gradients too, 3 parameters too.
        precision: ``bf16-mixed``: 16-bit weights with 32-bit master copies; ``bf16-autocast``: 32-bit weights cast at every use;
            ``bf16``: everything in 16 bits; ``fp8-mixed``, ``fp4-mixed``: as bf16-mixed with narrower products.
        gradients: dtype gradients are kept in; ``auto``: as the framework does.
        recompute: activations recomputed in the backward pass; ``selective``: the core of attention alone.
        recompute_layers: share of layers that ``full`` recomputes.
        attention: ``flash`` never writes scores to memory (their recomputation is inside the kernel), ``eager`` does.
        loss: ``chunked`` never holds the logits of all tokens at once.
        sequence_parallel: activations between tensor-parallel regions are dealt out too; ``auto``: as the framework does.
        offload: what lies in host memory (or ``-nvme``) between uses.
        trainable: ``full``, ``lora`` (adapters of rank ``lora_rank``, frozen base) or ``qlora`` (the base in 4 bits).
        lora_targets: ``all`` linear layers, ``attention`` ones, ``qv`` or the feed-forward's ``mlp``.
        framework: whose kernels, buffers and defaults; ``auto``: megatron where tp, pp, cp, ep or ZeRO 0/1 over several devices
            call for it, hf for adapters and for one device, else fsdp.
        model_scale: parameters as a multiple of the architecture's (model growth in an audit).
    """

    seq: Number = 4096
    micro_batch: Number = 1
    global_batch: Number = 512
    tokens: Number = 0
    tp: Number = 1
    pp: Number = 1
    dp: Number = 1
    cp: Number = 1
    ep: Number = 1
    expert_tp: Number = 0
    virtual_stages: Number = 1
    schedule: str = "auto"
    zero: Number = 3
    precision: str = "bf16-mixed"
    gradients: Literal["auto", "fp32", "bf16"] = "auto"
    optimizer: str = "adamw"
    optimizer_kernel: Literal["auto", "foreach", "fused", "loop"] = "auto"
    recompute: Recompute = "selective"
    recompute_layers: Number = 1.0
    attention: Literal["flash", "eager"] = "flash"
    loss: Literal["full", "chunked"] = "full"
    sequence_parallel: Literal["auto", "on", "off"] = "auto"
    offload: Literal["none", "optimizer", "parameters", "optimizer-nvme", "parameters-nvme"] = "none"
    trainable: Literal["full", "lora", "qlora"] = "full"
    lora_rank: Number = 16
    lora_targets: Literal["all", "attention", "qv", "mlp"] = "all"
    framework: str = "auto"
    model_scale: Number = 1.0

    def __post_init__(self) -> None:
        """Check every quantity.

        Raises:
            QuantityError, UnknownNameError: the message names the field.
        """
        for name in ("micro_batch", "global_batch", "tp", "pp", "dp", "cp", "ep", "lora_rank", "virtual_stages"):
            check_range(name, getattr(self, name), 1, COUNT_LIMIT, whole=True)
        check_range("seq", self.seq, 1, TOKEN_LIMIT)
        check_range("tokens", self.tokens, 0, 1e18)
        check_range("zero", self.zero, 0, 3, whole=True)
        check_range("expert_tp", self.expert_tp, 0, COUNT_LIMIT, whole=True)
        check_range("recompute_layers", self.recompute_layers, 0, 1)
        check_range("model_scale", self.model_scale, 1e-6, 1e6)
        for name, choices in (
            ("precision", PRECISIONS), ("optimizer", OPTIMIZERS), ("framework", FRAMEWORKS), ("schedule", SCHEDULES),
            ("recompute", ("none", "selective", "full")), ("trainable", ("full", "lora", "qlora")),
            ("gradients", ("auto", "fp32", "bf16")), ("optimizer_kernel", ("auto", "foreach", "fused", "loop")),
            ("attention", ("flash", "eager")), ("loss", ("full", "chunked")), ("sequence_parallel", ("auto", "on", "off")),
            ("offload", ("none", "optimizer", "parameters", "optimizer-nvme", "parameters-nvme")),
            ("lora_targets", ("all", "attention", "qv", "mlp")),
        ):  # fmt: skip
            check_choice(name, getattr(self, name), choices)

    @property
    def shape(self) -> tuple[int, ...]:
        """The broadcast shape of the request; ``()`` for one question."""
        return np.broadcast_shapes(*(np.shape(getattr(self, f.name)) for f in fields(self)))


def check_range(name: str, value: Number, low: float, high: float, *, whole: bool = False) -> None:
    """Raise QuantityError unless every element of ``value`` is a number in [low, high] (and whole)."""
    if type(value) in {int, float} and low <= value <= high and (not whole or value == value // 1):
        return  # one number is the usual case, and a hundred times cheaper to check without an array
    array = np.asarray(float(value) if type(value) is int else value)  # numpy holds integers beyond 64 bits as objects
    if array.dtype.kind not in "iuf":
        raise QuantityError(f"{name} must be a number, not {value!r}", place=name)
    if not bool(np.all(np.isfinite(array))):
        raise QuantityError(f"{name} must be finite", place=name)
    if bool(np.any(array < low)) or bool(np.any(array > high)):
        worst = float(array.min() if np.any(array < low) else array.max())
        raise QuantityError(f"{name} is {worst:g}, outside {low:g} … {high:g}", place=name)
    if whole and bool(np.any(array != np.floor(array))):
        raise QuantityError(f"{name} must be a whole number", place=name)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UnknownNameError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UnknownNameError(name, str(value), choices, place=name, mend=f"choose one of {', '.join(choices)}")

"""Architecture: what a network is made of, down to the exact shape of every tensor. It knows no hardware.

An architecture is a list of towers (text decoder, vision encoder, denoiser, ...), a tower a list of blocks that repeat,
and a block a list of operators. Parameters are *derived* from the operators, so the ledger's bytes and the published
parameter count come from one statement of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Role = Literal["embedding", "attention", "mlp", "expert", "router", "head", "mixer", "conv", "norm", "other"]
"""What an operator is for. Precision, sharding and reports choose by role."""

Shard = Literal["column", "row", "replicate", "vocab"]
"""How tensor parallelism splits a weight: its outputs, its inputs, not at all, or its vocabulary rows."""

TowerKind = Literal["decoder", "encoder", "denoiser", "draft"]
"""decoder: one token a step with a cache; encoder: all tokens at once; denoiser: all tokens, many steps;
draft: multi-token-prediction layers, in the checkpoint and not in the served forward pass."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One stored tensor, or ``copies`` of the same shape. ``tied`` ones share another tensor's storage."""

    name: str
    shape: tuple[int, ...]
    stored: str
    copies: int = 1
    tied: bool = False

    @property
    def elements(self) -> int:
        """Values in one copy."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Linear:
    """``y = x W + b`` with a weight of shape (outputs, inputs).

    Args:
        copies: weights of this shape held in the block (routed experts); ``active`` of them are used by a token.
        shard_units: indivisible units of the sharded axis (attention heads); more devices than units replicate.
        stored: weight format in the checkpoint (a name of ``facts.formats``).
        tied: the weight is the embedding's; it costs no storage and is read all the same.
        token_scale: tokens this operator works on, per token of the tower (down-sampled levels, pooled outputs).
        source: whose tokens it works on: the tower's own, or those of the encoder it attends to.
    """

    name: str
    inputs: int
    outputs: int
    role: Role
    bias: bool = False
    copies: int = 1
    active: int = 1
    shard: Shard = "replicate"
    shard_units: int = 0
    stored: str = "bf16"
    tied: bool = False
    token_scale: float = 1.0
    source: Literal["self", "encoder", "sequence"] = "self"
    bias_stored: str = "bf16"

    def tensors(self) -> Iterator[Tensor]:
        """Yield the stored tensors."""
        yield Tensor(f"{self.name}.weight", (self.outputs, self.inputs), self.stored, self.copies, tied=self.tied)
        if self.bias:
            yield Tensor(f"{self.name}.bias", (self.outputs,), self.bias_stored, self.copies)


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of any rank: weight (outputs, inputs / groups, *kernel), worked on ``token_scale`` positions."""

    name: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    groups: int = 1
    bias: bool = True
    stored: str = "bf16"
    token_scale: float = 1.0
    role: Role = "conv"
    bias_stored: str = "bf16"

    def tensors(self) -> Iterator[Tensor]:
        """Yield the stored tensors."""
        yield Tensor(f"{self.name}.weight", (self.outputs, self.inputs // self.groups, *self.kernel), self.stored)
        if self.bias:
            yield Tensor(f"{self.name}.bias", (self.outputs,), self.bias_stored)


@dataclass(frozen=True, slots=True)
class Embedding:
    """A table of ``rows`` vectors, looked up and never streamed."""

    name: str
    rows: int
    width: int
    stored: str = "bf16"
    role: Role = "embedding"

    def tensors(self) -> Iterator[Tensor]:
        """Yield the stored tensors."""
        yield Tensor(f"{self.name}.weight", (self.rows, self.width), self.stored)


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation over ``width``: ``vectors`` learned vectors of that width (1 RMSNorm, 2 LayerNorm, 0 none)."""

    name: str
    width: int
    vectors: int = 1
    token_scale: float = 1.0
    role: Role = "norm"
    stored: str = "bf16"

    def tensors(self) -> Iterator[Tensor]:
        """Yield the stored tensors."""
        for suffix in ("weight", "bias")[: self.vectors]:
            yield Tensor(f"{self.name}.{suffix}", (self.width,), self.stored)


@dataclass(frozen=True, slots=True)
class Parameter:
    """Learned values that are not a matrix product: sinks, decay rates, class tokens, position tables, gates."""

    name: str
    shape: tuple[int, ...]
    stored: str = "bf16"
    copies: int = 1
    role: Role = "other"

    def tensors(self) -> Iterator[Tensor]:
        """Yield the stored tensors."""
        yield Tensor(self.name, self.shape, self.stored, self.copies)


@dataclass(frozen=True, slots=True)
class Attention:
    """Scores and weighted sum over cached or given keys and values; no weights of its own.

    Args:
        kind: ``full``, ``window`` (reads and keeps at most ``window`` tokens), ``chunk`` (the same within aligned
            chunks), ``latent`` (MLA: one latent of ``latent`` + ``rope`` values is cached for all heads), ``cross``
            (keys and values of the encoder, computed once).
        qk_dim, v_dim: per-head widths of query/key and of value.
        cached: whether this layer keeps its own KV (false where it reads another layer's, and in encoders).
        selected: tokens the main attention reads when a sparse indexer selects them (0: all).
        index_elements: values per token kept for that indexer, ``index_flop`` its FLOPs per query-key pair.
        stride: the cache keeps one entry per ``stride`` tokens (compressed attention); 1 keeps all.
    """

    name: str
    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    kind: Literal["full", "window", "chunk", "latent", "cross"] = "full"
    window: int = 0
    latent: int = 0
    rope: int = 0
    causal: bool = True
    cached: bool = True
    selected: int = 0
    index_elements: float = 0.0
    index_flop: int = 0
    stride: int = 1
    token_scale: float = 1.0
    role: Role = "attention"

    def tensors(self) -> Iterator[Tensor]:
        """Yield nothing: attention has no weights of its own."""
        return iter(())

    @property
    def kv_elements(self) -> float:
        """KV values kept per token and layer while the context is inside the window.

        Source: 2 n_kv d_h (GQA, arXiv 2305.13245); d_c + d_r (MLA, arXiv 2405.04434 section 2.1.2).
        """
        if not self.cached:
            return 0.0
        own = self.latent + self.rope if self.kind == "latent" else self.kv_heads * (self.qk_dim + self.v_dim)
        return own / self.stride + self.index_elements


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A state of fixed size per sequence: state-space layers, linear attention, gated delta rules.

    Args:
        state_elements: values of the recurrent state per sequence and layer (kept in ``state_bits``).
        conv_elements: values of the short convolution's window per sequence and layer.
        flop_per_token: FLOPs of the update and read-out per token and layer (projections apart).
    """

    name: str
    state_elements: int
    conv_elements: int
    flop_per_token: float
    state_bits: int = 32
    role: Role = "mixer"

    def tensors(self) -> Iterator[Tensor]:
        """Yield nothing: the weights around the state are operators of their own."""
        return iter(())


Operator = Linear | Conv | Embedding | Norm | Parameter | Attention | Recurrence


@dataclass(frozen=True, slots=True)
class Block:
    """Operators that run one after another, ``repeat`` times with weights of their own."""

    name: str
    operators: tuple[Operator, ...]
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Tower:
    """A stack of blocks over one stream of tokens.

    Args:
        tokens: tokens this tower works on for one unit of its input (patches of one image, audio frames, latents);
            0 for text, where the request says.
        tokens_out: tokens it hands to the decoder for that unit.
        context: longest stream it was built for (0: not stated).
    """

    name: str
    kind: TowerKind
    blocks: tuple[Block, ...]
    hidden: int
    tokens: int = 0
    tokens_out: int = 0
    context: int = 0


@dataclass(frozen=True, slots=True)
class Architecture:
    """A whole model: its towers, and where the description came from."""

    name: str
    family: str
    towers: tuple[Tower, ...]
    source: str
    dtype: str = "bf16"
    notes: tuple[str, ...] = ()

    def tower(self, kind: TowerKind) -> Tower | None:
        """Return the first tower of ``kind``, or None."""
        return next((tower for tower in self.towers if tower.kind == kind), None)

    @property
    def main(self) -> Tower:
        """The tower that answers: the decoder, else the denoiser, else the encoder."""
        for kind in ("decoder", "denoiser", "encoder"):
            found = self.tower(kind)
            if found is not None:
                return found
        message = f"{self.name} has no tower to run"
        raise ValueError(message)

    def operators(self, *, draft: bool = False) -> Iterator[tuple[Tower, Block, Operator]]:
        """Yield every operator with its tower and block; ``draft`` includes multi-token-prediction layers."""
        for tower in self.towers:
            if draft or tower.kind != "draft":
                for block in tower.blocks:
                    for operator in block.operators:
                        yield tower, block, operator

    def tensors(self, *, draft: bool = True) -> Iterator[Tensor]:
        """Yield every stored tensor once per distinct shape and name, ``copies`` counting its repeats."""
        for _, block, operator in self.operators(draft=draft):
            for tensor in operator.tensors():
                yield Tensor(
                    f"{block.name}{tensor.name}",
                    tensor.shape,
                    tensor.stored,
                    tensor.copies * block.repeat,
                    tied=tensor.tied,
                )

    @property
    def parameters(self) -> int:
        """Parameters of the served model, tied matrices once, without multi-token-prediction layers."""
        return sum(t.elements * t.copies for t in self.tensors(draft=False) if not t.tied)

    @property
    def parameters_tied_twice(self) -> int:
        """The same with tied matrices counted each time they are used, as some checkpoints store them."""
        return sum(t.elements * t.copies for t in self.tensors(draft=False))

    @property
    def checkpoint_parameters(self) -> int:
        """Parameters the checkpoint stores: multi-token-prediction layers included, tied matrices once."""
        return sum(t.elements * t.copies for t in self.tensors(draft=True) if not t.tied)

    @property
    def active_parameters(self) -> int:
        """Parameters a token uses: everything served but the routed experts it does not visit."""
        idle = 0
        for _, block, operator in self.operators():
            if isinstance(operator, Linear) and operator.copies > operator.active:
                per_copy = sum(t.elements for t in operator.tensors())
                idle += per_copy * (operator.copies - operator.active) * block.repeat
        return self.parameters - idle

    @property
    def kv_elements_per_token(self) -> float:
        """KV values kept per token over all decoder layers while every window still has room."""
        return sum(
            op.kv_elements * block.repeat
            for tower, block, op in self.operators()
            if tower.kind == "decoder" and isinstance(op, Attention) and op.kind != "cross"
        )

"""Layers with a state of fixed size: Mamba, Mamba-2, gated delta rules, lightning attention, short convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Conv, Norm, Parameter, Recurrence
from bytebound.models.families.pieces import column, row, whole

if TYPE_CHECKING:
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


@dataclass(frozen=True, slots=True)
class Mamba:
    """The geometry of a first-generation selective state space (arXiv 2312.00752).

    Args:
        hidden, inner: width of the stream and of the layer's inside.
        state: values kept per inner channel.
        rank: width of the step-size projection.
        kernel: length of the short convolution.
        bias, conv_bias: biases on the projections and on the convolution.
        norms: whether step size, input and output maps are normalised with learned weights (Jamba).
    """

    hidden: int
    inner: int
    state: int
    rank: int
    kernel: int
    bias: bool = False
    conv_bias: bool = True
    norms: bool = False


def mamba(shape: Mamba, *, prefix: str = "mixer") -> Ops:
    """Return the operators of a Mamba layer.

    The scan takes 9 FLOPs per inner channel and state value and 2 per channel for the skip
    (state-spaces/mamba issue 110).
    """
    inner = shape.inner
    maps = shape.rank + 2 * shape.state
    norms: Ops = ()
    if shape.norms:
        norms = (
            Norm(f"{prefix}.dt_layernorm", shape.rank),
            Norm(f"{prefix}.b_layernorm", shape.state),
            Norm(f"{prefix}.c_layernorm", shape.state),
        )
    return (
        column(f"{prefix}.in_proj", shape.hidden, 2 * inner, "mixer", units=inner, bias=shape.bias),
        Conv(f"{prefix}.conv1d", inner, inner, (shape.kernel,), groups=inner, bias=shape.conv_bias, role="mixer"),
        row(f"{prefix}.x_proj", inner, maps, "mixer"),
        *norms,
        column(f"{prefix}.dt_proj", shape.rank, inner, "mixer", bias=True),
        Parameter(f"{prefix}.A_log", (inner, shape.state), role="mixer"),
        Parameter(f"{prefix}.D", (inner,), role="mixer"),
        Recurrence(
            f"{prefix}.scan",
            state_elements=inner * shape.state,
            conv_elements=inner * (shape.kernel - 1),
            flop_per_token=9.0 * inner * shape.state + 2.0 * inner,
        ),
        row(f"{prefix}.out_proj", inner, shape.hidden, "mixer", bias=shape.bias),
    )


@dataclass(frozen=True, slots=True)
class Mamba2:
    """The geometry of a Mamba-2 layer (arXiv 2405.21060).

    Args:
        hidden: width of the stream.
        heads, dim: heads and width of one.
        groups, state: groups that share input and output maps, and values kept per channel.
        kernel: length of the short convolution.
        bias, conv_bias: biases on the projections and on the convolution.
        norm: whether the output is normalised with learned weights.
        out_bias: bias on the output projection.
    """

    hidden: int
    heads: int
    dim: int
    groups: int
    state: int
    kernel: int
    bias: bool = False
    conv_bias: bool = True
    norm: bool = True
    out_bias: bool = False


def mamba2(shape: Mamba2, *, prefix: str = "mixer") -> Ops:
    """Return the operators of a Mamba-2 layer.

    Per state value: decay 1, outer product and sum 2, read-out 2 FLOPs (the recurrent form, arXiv 2405.21060 eq. 16).
    """
    inner = shape.heads * shape.dim
    mixed = inner + 2 * shape.groups * shape.state
    return (
        column(
            f"{prefix}.in_proj", shape.hidden, inner + mixed + shape.heads, "mixer", units=shape.heads, bias=shape.bias
        ),
        Conv(f"{prefix}.conv1d", mixed, mixed, (shape.kernel,), groups=mixed, bias=shape.conv_bias, role="mixer"),
        Parameter(f"{prefix}.dt_bias", (shape.heads,), role="mixer"),
        Parameter(f"{prefix}.A_log", (shape.heads,), role="mixer"),
        Parameter(f"{prefix}.D", (shape.heads,), role="mixer"),
        Recurrence(
            f"{prefix}.scan",
            state_elements=inner * shape.state,
            conv_elements=mixed * (shape.kernel - 1),
            flop_per_token=5.0 * inner * shape.state + 2.0 * inner,
        ),
        *((Norm(f"{prefix}.norm", inner),) if shape.norm else ()),
        row(f"{prefix}.out_proj", inner, shape.hidden, "mixer", units=shape.heads, bias=shape.out_bias),
    )


@dataclass(frozen=True, slots=True)
class Delta:
    """The geometry of a gated delta rule (arXiv 2412.06464): a key-by-value matrix per value head."""

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int


def read_delta(keys: Keys, hidden: int) -> Delta:
    """Read Qwen's keys of the gated delta rule."""
    return Delta(
        hidden,
        keys.int("linear_num_key_heads", 16, most=65536),
        keys.int("linear_num_value_heads", 32, most=65536),
        keys.int("linear_key_head_dim", 128),
        keys.int("linear_value_head_dim", 128),
        keys.int("linear_conv_kernel_dim", 4, most=1024),
    )


def delta_recurrence(shape: Delta, prefix: str) -> Recurrence:
    """Return the state of a gated delta rule.

    Per state value: decay 1, reading the old value 2, writing the difference 2, query 2 FLOPs (arXiv 2412.06464 eq. 10).
    """
    values = shape.value_heads * shape.key_dim * shape.value_dim
    mixed = 2 * shape.key_heads * shape.key_dim + shape.value_heads * shape.value_dim
    return Recurrence(f"{prefix}.rule", values, mixed * (shape.kernel - 1), 7.0 * values)


def gated_delta(shape: Delta, *, split: bool, prefix: str = "linear_attn") -> Ops:
    """Return the operators of a gated delta layer; ``split`` names the projections as Qwen3.5 does."""
    keys, values = shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim
    mixed = 2 * keys + values
    units = shape.key_heads

    def project(name: str, width: int) -> Ops:
        return (column(f"{prefix}.{name}", shape.hidden, width, "mixer", units=units),)

    if split:
        parts = {
            "in_proj_qkv": mixed,
            "in_proj_z": values,
            "in_proj_b": shape.value_heads,
            "in_proj_a": shape.value_heads,
        }
    else:
        parts = {"in_proj_qkvz": mixed + values, "in_proj_ba": 2 * shape.value_heads}
    return (
        *(op for name, width in parts.items() for op in project(name, width)),
        Conv(f"{prefix}.conv1d", mixed, mixed, (shape.kernel,), groups=mixed, bias=False, role="mixer"),
        Parameter(f"{prefix}.dt_bias", (shape.value_heads,), role="mixer"),
        Parameter(f"{prefix}.A_log", (shape.value_heads,), role="mixer"),
        delta_recurrence(shape, prefix),
        Norm(f"{prefix}.norm", shape.value_dim, token_scale=float(shape.value_heads)),
        row(f"{prefix}.out_proj", values, shape.hidden, "mixer", units=units),
    )


def kimi_delta(shape: Delta, *, full_gate: bool, prefix: str = "self_attn") -> Ops:
    """Return the operators of Kimi Delta Attention: decay per channel, three short convolutions, an output gate.

    Args:
        shape: geometry; keys and values have the same heads.
        full_gate: the output gate is one full matrix instead of two thin ones.
        prefix: name of the module.
    """
    heads, width = shape.value_heads, shape.value_heads * shape.value_dim

    def thin(name: str) -> Ops:
        return (
            whole(f"{prefix}.{name}_a_proj", shape.hidden, shape.value_dim, "mixer"),
            column(f"{prefix}.{name}_b_proj", shape.value_dim, width, "mixer", units=heads),
        )

    return (
        *(column(f"{prefix}.{part}_proj", shape.hidden, width, "mixer", units=heads) for part in "qkv"),
        *(
            Conv(f"{prefix}.{part}_conv1d", width, width, (shape.kernel,), groups=width, bias=False, role="mixer")
            for part in "qkv"
        ),
        Parameter(f"{prefix}.dt_bias", (width,), role="mixer"),
        Parameter(f"{prefix}.A_log", (heads,), role="mixer"),
        *thin("f"),
        column(f"{prefix}.b_proj", shape.hidden, heads, "mixer", units=heads),
        *((column(f"{prefix}.g_proj", shape.hidden, width, "mixer", units=heads),) if full_gate else thin("g")),
        delta_recurrence(shape, prefix),
        Norm(f"{prefix}.o_norm", shape.value_dim, token_scale=float(heads)),
        row(f"{prefix}.o_proj", width, shape.hidden, "mixer", units=heads),
    )


def lightning(hidden: int, heads: int, dim: int, *, prefix: str = "self_attn") -> Ops:
    """Return the operators of lightning attention (arXiv 2401.04658): a key-by-value matrix per head.

    Per state value: decay 1, outer product and sum 2, query 2 FLOPs.
    """
    width, values = heads * dim, heads * dim * dim
    return (
        column(f"{prefix}.qkv_proj", hidden, 3 * width, "mixer", units=heads),
        Recurrence(f"{prefix}.rule", values, 0, 5.0 * values),
        Norm(f"{prefix}.norm", width),
        column(f"{prefix}.output_gate", hidden, width, "mixer", units=heads),
        row(f"{prefix}.out_proj", width, hidden, "mixer", units=heads),
    )


def short_conv(hidden: int, kernel: int, *, bias: bool, prefix: str = "conv") -> Ops:
    """Return the operators of a gated short convolution (LFM2): 2 FLOPs a tap and one product for each of two gates."""
    return (
        column(f"{prefix}.in_proj", hidden, 3 * hidden, "mixer", units=hidden, bias=bias),
        Conv(f"{prefix}.conv", hidden, hidden, (kernel,), groups=hidden, bias=bias, role="mixer"),
        Recurrence(f"{prefix}.gates", 0, hidden * (kernel - 1), 2.0 * hidden),
        row(f"{prefix}.out_proj", hidden, hidden, "mixer", bias=bias),
    )

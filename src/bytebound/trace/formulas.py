"""FLOPs, kind and operands of every ATen operator: what one call computes, reads and writes.

A product counts 2 FLOPs per multiply-add (PyTorch's ``flop_registry`` convention). Causal attention counts half of the full square,
a sliding window its band. A grouped convolution counts each weight once per point. An elementwise operator counts 1 FLOP per element written, a reduction or normalisation 1 per element
read, a copy or look-up none. An operator that is none of these has no formula and is named in the report.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = frozenset(["aten", "prims", "prim"])
"""Libraries whose operators the tables below name; a stranger's ``sum`` may be anything."""
GEMMS = frozenset([
    "mm", "addmm", "bmm", "baddbmm", "_scaled_mm", "_scaled_grouped_mm", "_grouped_mm", "linear", "mv", "addmv",
    "dot", "addbmm", "addr", "_int_mm",
])  # fmt: skip
MOVES = frozenset([
    "clone", "copy_", "_to_copy", "cat", "stack", "index", "index_select", "gather", "scatter", "scatter_",
    "scatter_add", "scatter_add_", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index",
    "_unsafe_index_put", "index_add", "index_add_", "index_copy", "index_copy_", "embedding",
    "embedding_dense_backward", "_embedding_bag", "slice_backward", "select_backward", "slice_scatter",
    "select_scatter", "as_strided_scatter", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "replication_pad2d", "roll", "flip", "repeat",
    "repeat_interleave", "tril", "triu", "tril_", "triu_", "zeros", "zeros_like", "ones", "ones_like", "full",
    "full_like", "empty", "empty_like", "new_empty", "new_zeros", "new_full", "new_ones", "new_empty_strided",
    "empty_strided", "scalar_tensor", "arange", "linspace", "eye", "fill_", "fill", "zero_", "zero", "rand",
    "rand_like", "randn", "randn_like", "randint", "randperm", "normal_", "uniform_", "bernoulli_", "unfold_backward",
    "im2col", "col2im", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "contiguous", "masked_select",
    "masked_scatter", "nonzero", "resize_", "set_", "_resize_output_", "set_data", "_reshape_copy",
    "_reshape_alias_copy", "expand_copy", "permute_copy", "split_with_sizes_copy", "_copy_from", "_foreach_copy_",
    "_foreach_zero_", "_foreach_clone", "_chunk_cat", "lift_fresh_copy", "upsample_nearest1d", "upsample_nearest2d",
    "_foreach_copy", "randint_like", "one_hot", "unfold_copy", "unfold", "block_diag", "diag_embed",
    "diagonal_backward", "trace_backward", "view_copy", "normal_functional", "detach_copy",
])  # fmt: skip
"""Operators that only place bytes: 0 FLOPs."""
REDUCTIONS = frozenset([
    "sum", "mean", "amax", "amin", "max", "min", "prod", "var", "var_mean", "std", "std_mean", "norm",
    "linalg_vector_norm", "logsumexp", "argmax", "argmin", "any", "all", "cumsum", "cumprod", "_softmax",
    "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data", "native_layer_norm",
    "native_layer_norm_backward", "_fused_rms_norm", "_fused_rms_norm_backward", "native_group_norm",
    "native_group_norm_backward", "native_batch_norm", "native_batch_norm_backward", "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional", "batch_norm_backward", "cudnn_batch_norm", "cudnn_batch_norm_backward",
    "_batch_norm_with_update", "nll_loss_forward", "nll_loss_backward", "nll_loss2d_forward", "nll_loss2d_backward",
    "mse_loss", "binary_cross_entropy", "smooth_l1_loss", "huber_loss", "kl_div", "topk", "sort", "argsort",
    "kthvalue", "median", "bincount", "histc", "max_pool2d_with_indices", "max_pool2d_with_indices_backward",
    "avg_pool1d", "avg_pool2d", "avg_pool2d_backward", "max_pool3d_with_indices", "max_pool3d_with_indices_backward",
    "avg_pool3d", "avg_pool3d_backward", "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d", "adaptive_max_pool2d", "upsample_bilinear2d", "upsample_bilinear2d_backward",
    "upsample_bicubic2d", "upsample_bicubic2d_backward", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "upsample_linear1d", "upsample_linear1d_backward", "upsample_nearest1d_backward", "upsample_nearest2d_backward",
    "grid_sampler_2d", "grid_sampler_2d_backward", "_ctc_loss", "_ctc_loss_backward", "_weight_norm_interface",
    "_weight_norm_interface_backward", "multinomial", "logcumsumexp", "cummax", "count_nonzero", "searchsorted",
    "bucketize", "dist", "cdist", "_cdist_forward", "_cdist_backward", "_foreach_norm", "_foreach_max",
    "_amp_foreach_non_finite_check_and_unscale_", "isin", "unique_dim", "_unique2", "equal", "allclose", "aminmax",
    "nansum", "mode", "var_backward",
])  # fmt: skip
"""Operators that read every element a small number of times: 1 FLOP per element read (a floor, and small beside the products)."""
ELEMENTWISE = frozenset([
    "native_dropout", "native_dropout_backward", "gelu_backward", "silu_backward", "threshold_backward",
    "sigmoid_backward", "tanh_backward", "softplus_backward", "elu_backward", "leaky_relu_backward",
    "hardtanh_backward", "hardswish_backward", "mse_loss_backward", "glu", "glu_backward", "smooth_l1_loss_backward",
    "huber_loss_backward", "binary_cross_entropy_backward", "masked_fill", "masked_fill_", "where", "lerp", "lerp_",
    "addcmul", "addcmul_", "addcdiv", "addcdiv_", "hardsigmoid_backward", "mish_backward", "log_sigmoid_backward",
    "log_sigmoid_forward", "polar", "complex", "view_as_complex_copy", "angle", "_amp_update_scale_", "_fused_adamw_",
    "_fused_adam_", "_fused_sgd_", "_fused_adagrad_", "exponential_", "bernoulli", "rrelu_with_noise", "floor_divide",
    "bitwise_and", "isnan", "isfinite", "logical_not", "_conj_physical", "real", "imag", "softshrink_backward",
    "hardshrink_backward", "prelu", "_prelu_kernel", "_prelu_kernel_backward", "xlogy", "erfinv", "erfinv_",
])  # fmt: skip
WRITE_ONLY = frozenset([
    "copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "exponential_", "_foreach_copy_",
    "_foreach_zero_",
])  # fmt: skip
"""In-place operators that do not read what they overwrite."""
EMPTY = frozenset([
    "empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "resize_", "set_", "set_data",
    "_resize_output_",
])  # fmt: skip
LOOK_UPS = frozenset([
    "embedding", "index", "index_select", "gather", "_unsafe_index", "slice_backward", "select_backward",
    "_embedding_bag", "masked_select",
])  # fmt: skip
"""Operators whose first tensor is read only where it is looked up."""
CONVOLUTIONS = ("convolution", "_convolution", "conv", "cudnn_convolution", "_slow_conv2d", "mkldnn_convolution")


@dataclass(frozen=True, slots=True)
class Operator:
    """What is known of one ATen overload: its name, kind, FLOP formula (None: it has none) and which arguments it writes."""

    name: str
    kind: str
    flops: Callable[..., float] | None
    per_read: float
    per_written: float
    view: bool
    writes: tuple[tuple[int, str], ...]
    reads_written: bool
    writes_output: bool
    looks_up: bool


@functools.cache
def operator(func: Any) -> Operator:
    """Return what is known of an ``OpOverload``; one of a library other than ATen is known by its tags and formula only."""
    packet = func.overloadpacket
    ours = func.namespace in OURS or "c10d" in func.namespace
    name = packet.__name__ if ours else f"{func.namespace}::{packet.__name__}"
    schema = func._schema  # noqa: SLF001 - the only public way to its arguments
    writes = tuple(
        (index, argument.name)
        for index, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    reduction = name in REDUCTIONS or torch.Tag.reduction in func.tags
    formula = _formula(name, packet, schema)
    kind = _kind(func, name, counted=formula is not None, cheap=reduction)
    if formula is None and kind in {"move", "host", "collective"}:
        formula = _nothing
    plain = kind == "elementwise" and formula is None
    return Operator(
        name=name,
        kind=kind,
        flops=formula,
        per_read=float(plain and reduction),
        per_written=float(plain and not reduction),
        view=func.is_view or torch.Tag.inplace_view in func.tags,
        writes=writes,
        reads_written=name not in WRITE_ONLY,
        writes_output=name not in EMPTY,
        looks_up=name in LOOK_UPS,
    )


def _kind(func: Any, name: str, *, counted: bool, cheap: bool) -> str:
    """What sort of kernel it is; products without a formula are ``unknown``, never free."""
    if "c10d" in func.namespace:
        return "collective"
    if name in {"_local_scalar_dense", "item", "is_nonzero"}:
        return "host"
    if name in MOVES:
        return "move"
    if counted:
        return "attention" if "attention" in name else "conv" if name.startswith(CONVOLUTIONS) else "gemm"
    if name in GEMMS or "attention" in name or name.startswith(CONVOLUTIONS):
        return "unknown"
    if torch.Tag.pointwise in func.tags or cheap or name in ELEMENTWISE or name.startswith("_foreach_"):
        return "elementwise"
    return "unknown"


def pairs(queries: int, keys: int, *, causal: bool, window: int = -1) -> float:
    """Query-key pairs of one head: all, half of them where causal, a band of ``window`` keys where a window is narrower."""
    if 0 <= window < keys:
        band = queries * (window + 1) - window * (window + 1) / 2 if queries == keys else float(queries * (window + 1))
        return min(band, queries * keys / 2.0) if causal else min(2 * band, float(queries * keys))
    return queries * keys * (0.5 if causal else 1.0)


def _nothing(*_args: Any, **_named: Any) -> float:
    return 0.0


def _mm(a: Any, b: Any, *_rest: Any, **_named: Any) -> float:
    return float(2 * a.shape[0] * a.shape[1] * b.shape[1])


def _addmm(_c: Any, a: Any, b: Any, *_rest: Any, **_named: Any) -> float:
    return _mm(a, b)


def _bmm(a: Any, b: Any, *_rest: Any, **_named: Any) -> float:
    return float(2 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2])


def _baddbmm(_c: Any, a: Any, b: Any, *_rest: Any, **_named: Any) -> float:
    return _bmm(a, b)


def _matrix_vector(a: Any, _b: Any, *_rest: Any, **_named: Any) -> float:
    return float(2 * a.numel())


def _grouped(a: Any, b: Any, *_rest: Any, **_named: Any) -> float:
    """Products of ragged groups: every row meets one expert's matrix; backward contracts over the rows."""
    if a.dim() == 2 and b.dim() == 2:
        return _mm(a, b)
    if a.dim() == 3 and b.dim() == 3:
        return _bmm(a, b)
    rows, inner = a.shape[-2], a.shape[-1]
    return float(2 * rows * inner * b.shape[-1])


def _attention(schema: Any, name: str) -> Callable[..., float]:
    """Two products in forward; in backward the scores again, two for dq and dk, dO·vᵀ and pᵀ·dO (PyTorch's convention: 5)."""
    places = {argument.name: index for index, argument in enumerate(schema.arguments)}
    tokens, heads = (
        (1, 2) if name.startswith("_flash_attention") else (2, 1)
    )  # flash-attention's own entry: (batch, tokens, heads, width)
    over_width, over_value = (3, 2) if "backward" in name else (1, 1)

    def argument(args: tuple[Any, ...], named: dict[str, Any], key: str) -> Any:
        place = places.get(key, len(args))
        return args[place] if place < len(args) else named.get(key)

    def counted(*args: Any, **named: Any) -> float:
        query, key, value = (argument(args, named, each) for each in ("query", "key", "value"))
        left = argument(args, named, "window_size_left")
        met = pairs(
            query.shape[tokens],
            key.shape[tokens],
            causal=bool(argument(args, named, "is_causal")),
            window=-1 if left is None else left,
        )
        width = over_width * query.shape[-1] + over_value * value.shape[-1]
        return float(2 * query.shape[0] * query.shape[heads] * met * width)

    return counted


def _grouped_backward(a: Any, b: Any, *_rest: Any, **_named: Any) -> float:
    return 2 * _grouped(a, b)


def _convolution(x: Any, w: Any, *rest: Any, out: Any, **_named: Any) -> float:
    """Every weight meets every point of the output (transposed: of the input) of each sample, whatever the groups."""
    points = (x if rest[4] else out).shape[2:]
    return float(2 * x.shape[0] * math.prod(points) * w.numel())


def _convolution_backward(gradient: Any, x: Any, w: Any, *rest: Any, **_named: Any) -> float:
    """As much again for the input's gradient and for the weight's, as asked (PyTorch counts the latter ``groups`` times)."""
    points = (x if rest[4] else gradient).shape[2:]
    wanted = sum(map(bool, rest[7][:2]))
    return float(2 * x.shape[0] * math.prod(points) * w.numel() * wanted)


def _recurrent(x: Any, w_input: Any, w_hidden: Any, *_rest: Any, **_named: Any) -> float:
    """One layer of an RNN over (tokens, batch, width): both matrices meet every token."""
    return float(2 * x.shape[0] * x.shape[1] * (w_input.numel() + w_hidden.numel()))


def _recurrent_backward(x: Any, w_input: Any, w_hidden: Any, *_rest: Any, **_named: Any) -> float:
    return 2 * _recurrent(x, w_input, w_hidden)


FORMULAS: dict[str, Callable[..., float]] = {
    "mm": _mm, "_int_mm": _mm, "_scaled_mm": _mm, "addmm": _addmm, "bmm": _bmm, "baddbmm": _baddbmm, "addbmm": _baddbmm,
    "mv": _matrix_vector, "dot": _matrix_vector, "_grouped_mm": _grouped, "_scaled_grouped_mm": _grouped,
    "transformers::grouped_mm_fallback": _grouped, "transformers::grouped_mm_fallback_backward": _grouped_backward,
    "convolution": _convolution, "_convolution": _convolution, "convolution_backward": _convolution_backward,
    "mkldnn_rnn_layer": _recurrent, "mkldnn_rnn_layer_backward": _recurrent_backward,
    "addmv": lambda _c, a, b, *rest, **named: _matrix_vector(a, b),  # noqa: ARG005
    "addr": lambda _c, a, b, *rest, **named: 2.0 * a.numel() * b.numel(),  # noqa: ARG005
    "linalg_solve_triangular": lambda a, b, **named: 1.0 * b.numel() * a.shape[-1],  # noqa: ARG005 - n²m for m sides
    "linear": lambda a, b, *rest, **named: 2.0 * a.numel() * b.shape[0],  # noqa: ARG005
}  # fmt: skip
_ATTENTION = re.compile(
    r"_scaled_dot_product_(flash|efficient|cudnn)_attention(_for_cpu)?(_backward)?|_flash_attention_(forward|backward)"
)


def _formula(name: str, packet: Any, schema: Any) -> Callable[..., float] | None:
    """Ours where PyTorch's is missing or counts causal attention in full; else PyTorch's, which wants the output too."""
    if _ATTENTION.fullmatch(name):
        return _attention(schema, name)
    if name in FORMULAS:
        return FORMULAS[name]
    theirs = flop_registry.get(packet)
    if theirs is None:
        return None

    def counted(*args: Any, out: Any, **named: Any) -> float:
        return float(theirs(*args, **named, out_val=out))

    return counted

"""Attention of transformers as GPU kernels keep it in memory: stand-ins registered under names of ours.

PyTorch on a CPU would decompose or choose its own kernels. These call the operators of the CUDA kernels on fake tensors: output and
log-sum-exp are kept for backward, scores never exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

FLASH, REPEATED, SELECTIVE = "bytebound_tiled", "bytebound_tiled_repeated", "bytebound_selective"
"""Flash attention as a GPU has it (transformers looks for a kernel where a name says flash); the same with keys and values repeated per query head; eager scores that are
recomputed in backward."""


SDPA = torch.nn.functional.scaled_dot_product_attention


def register() -> None:
    """Make the names known to transformers."""
    from transformers import AttentionInterface  # noqa: PLC0415 - optional, and slow to import
    from transformers.masking_utils import AttentionMaskInterface, eager_mask, flash_attention_mask  # noqa: PLC0415

    for name, function, mask in (
        (FLASH, flash, flash_attention_mask),
        (REPEATED, flash_repeated, flash_attention_mask),
        (SELECTIVE, selective, eager_mask),
    ):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, mask)


def flash(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over (batch, heads, tokens, width) without scores in memory; returns (batch, tokens, heads, width).

    What flash kernels cannot do (masks and biases, unlike widths) goes to the memory-efficient kernel, as on a GPU.
    """
    if torch.is_autocast_enabled("cpu"):  # SDPA is on autocast's list, the operators below it are not
        query, key, value = (item.to(torch.get_autocast_dtype("cpu")) for item in (query, key, value))
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal) and query.shape[2] > 1
    bias = named.get("position_bias") if attention_mask is None else attention_mask
    if bias is not None or query.shape[-1] != value.shape[-1]:
        times = query.shape[1] // key.shape[1]
        key, value = (_repeated(item, times) for item in (key, value))
        if bias is not None:
            bias = bias.to(query.dtype).expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        out = torch.ops.aten._scaled_dot_product_efficient_attention(  # noqa: SLF001
            query, key, value, bias, True, dropout, causal and bias is None, scale=scaling
        )[0]
        return out.transpose(1, 2).contiguous(), None
    if sliding_window is not None and sliding_window < key.shape[2]:
        tokens = query.shape[2]
        out = torch.ops.aten._flash_attention_forward(  # noqa: SLF001
            *(item.transpose(1, 2) for item in (query, key, value)), None, None, tokens, key.shape[2], dropout, causal, False,
            scale=scaling, window_size_left=sliding_window - 1, window_size_right=0 if causal else sliding_window - 1,
        )[0]  # fmt: skip
        return out, None
    out = torch.ops.aten._scaled_dot_product_flash_attention(  # noqa: SLF001
        query, key, value, dropout, causal, False, scale=scaling
    )[0]
    return out.transpose(1, 2).contiguous(), None


def dropping(  # noqa: PLR0917 - PyTorch's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> torch.Tensor:
    """Stand in for ``torch.nn.functional.scaled_dot_product_attention``, whose kernel on a CPU cannot drop out and keeps all scores instead."""
    if not dropout_p or query.dim() != value.dim() or query.dim() != 4:
        return SDPA(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (item.to(torch.get_autocast_dtype("cpu")) for item in (query, key, value))
    times = query.shape[1] // key.shape[1] if enable_gqa else 1
    key, value = (_repeated(item, times) for item in (key, value))
    bias = attn_mask
    if bias is not None:
        bias = bias.to(query.dtype).expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    out: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(  # noqa: SLF001
        query, key, value, bias, True, dropout_p, is_causal, scale=scale
    )[0]
    return out


def flash_repeated(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """``flash`` for kernels without grouped queries: keys and values are copied out per query head first."""
    times = query.shape[1] // key.shape[1]
    return flash(module, query, _repeated(key, times), _repeated(value, times), attention_mask, **named)


def selective(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_named: Any,
) -> tuple[torch.Tensor, None]:
    """Eager attention whose scores are dropped after forward and computed again in backward (selective recomputation)."""
    times = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling

    def core(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = torch.matmul(q, _repeated(k, times).transpose(2, 3)) * scale
        if attention_mask is not None:
            scores = scores + attention_mask
        shares = torch.nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        shares = torch.nn.functional.dropout(shares, p=dropout, training=module.training)
        return torch.matmul(shares, _repeated(v, times))

    out: torch.Tensor = checkpoint(core, query, key, value, use_reentrant=False)
    return out.transpose(1, 2).contiguous(), None


def _repeated(tensor: torch.Tensor, times: int) -> torch.Tensor:
    if times == 1:
        return tensor
    batch, heads, tokens, width = tensor.shape
    return tensor[:, :, None].expand(batch, heads, times, tokens, width).reshape(batch, heads * times, tokens, width)

"""A Llama in a few lines of NumPy: what llama.cpp's logits must be, from the same GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf.quants import dequantize

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]


def logits(path: Path, tokens: Array) -> Array:
    """Return the logits after the last of ``tokens``, (vocabulary,).

    Source: LLaMA (arXiv 2302.13971) section 2.2; rotary pairs lie side by side, as GGUF files of llama have them.
    """
    reader = gguf.GGUFReader(path)
    w = {t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}

    def field(name: str) -> float:
        return float(reader.fields[f"llama.{name}"].contents())

    heads, kv_heads = int(field("attention.head_count")), int(field("attention.head_count_kv"))
    epsilon, base = field("attention.layer_norm_rms_epsilon"), field("rope.freq_base")
    x = w["token_embd.weight"][tokens]

    def norm(values: Array, name: str) -> Array:
        return values / np.sqrt((values**2).mean(-1, keepdims=True) + epsilon) * w[name]

    def rotated(values: Array) -> Array:
        half = np.arange(values.shape[-1] // 2)
        angle = np.outer(np.arange(len(tokens)), base ** (-2 * half / values.shape[-1]))[:, None, :]
        even, odd = values[..., ::2], values[..., 1::2]
        turned = (even * np.cos(angle) - odd * np.sin(angle), even * np.sin(angle) + odd * np.cos(angle))
        return np.stack(turned, axis=-1).reshape(values.shape)

    for layer in range(int(field("block_count"))):
        at = f"blk.{layer}."
        y = norm(x, at + "attn_norm.weight")
        q = rotated((y @ w[at + "attn_q.weight"].T).reshape(len(tokens), heads, -1))
        k = rotated((y @ w[at + "attn_k.weight"].T).reshape(len(tokens), kv_heads, -1)).repeat(
            heads // kv_heads, axis=1
        )
        v = (y @ w[at + "attn_v.weight"].T).reshape(len(tokens), kv_heads, -1).repeat(heads // kv_heads, axis=1)
        score = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        score = np.where(np.tri(len(tokens)) > 0, score, -np.inf)
        share = np.exp(score - score.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", share, v).reshape(len(tokens), -1) @ w[at + "attn_output.weight"].T
        y = norm(x, at + "ffn_norm.weight")
        gate, up = y @ w[at + "ffn_gate.weight"].T, y @ w[at + "ffn_up.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "ffn_down.weight"].T
    return norm(x[-1], "output_norm.weight") @ w.get("output.weight", w["token_embd.weight"]).T

"""Decoders with multi-head latent attention: DeepSeek V2 to V3.2, Kimi K2, GLM-5 and their relatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Attention, Norm
from bytebound.models.families.experts import draft_tower, read_draft, shared_moe, sparse_layers
from bytebound.models.families.frame import read_depth, read_frame, text_tower
from bytebound.models.families.pieces import column, gated_mlp, layers, read_context, row, whole

if TYPE_CHECKING:
    from bytebound.documents.architecture import Linear, Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.frame import Frame
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


@dataclass(frozen=True, slots=True)
class Latent:
    """The geometry of multi-head latent attention (arXiv 2405.04434, section 2.1).

    Args:
        hidden: width of the stream.
        heads: query heads.
        q_rank: width of the query latent (0: queries are projected directly).
        kv_rank: width of the cached latent; ``rope`` more values carry positions.
        nope, rope: widths of the two parts of a query-key head; ``value`` is a value head's.
        bias: bias on the down-projections and the output.
    """

    hidden: int
    heads: int
    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Indexer:
    """The sparse indexer of DeepSeek-V3.2: ``heads`` small heads of ``dim`` choose ``top`` tokens."""

    heads: int
    dim: int
    top: int


def read_latent(keys: Keys, *, bias_key: str = "attention_bias") -> Latent:
    """Read the usual keys of latent attention."""
    keys.skip("num_key_value_heads", "qk_head_dim", "head_dim", "rope_interleave")
    return Latent(
        hidden=keys.int("hidden_size"),
        heads=keys.int("num_attention_heads", most=65536),
        q_rank=keys.maybe_int("q_lora_rank") or 0,
        kv_rank=keys.int("kv_lora_rank"),
        nope=keys.int("qk_nope_head_dim"),
        rope=keys.int("qk_rope_head_dim"),
        value=keys.int("v_head_dim"),
        bias=keys.flag(bias_key, default=False),
    )


def latent_attention(shape: Latent, *, prefix: str = "self_attn", indexer: Indexer | None = None) -> Ops:
    """Return the operators of latent attention, with the indexer that selects tokens where there is one.

    The indexer keeps one key of ``dim`` values per token and computes, per query and key, one product per head and
    their weighted sum: 2 heads x dim + 2 heads FLOPs (DeepSeek-V3.2 report, section 2.1).
    """
    queries = shape.heads * (shape.nope + shape.rope)
    ops: list[Linear | Norm | Attention] = []
    if shape.q_rank:
        ops += [
            whole(f"{prefix}.q_a_proj", shape.hidden, shape.q_rank, "attention", bias=shape.bias),
            Norm(f"{prefix}.q_a_layernorm", shape.q_rank),
            column(f"{prefix}.q_b_proj", shape.q_rank, queries, "attention", units=shape.heads),
        ]
    else:
        ops.append(column(f"{prefix}.q_proj", shape.hidden, queries, "attention", units=shape.heads))
    cached = shape.kv_rank + shape.rope
    expanded = shape.heads * (shape.nope + shape.value)
    ops += [
        whole(f"{prefix}.kv_a_proj_with_mqa", shape.hidden, cached, "attention", bias=shape.bias),
        Norm(f"{prefix}.kv_a_layernorm", shape.kv_rank),
        column(f"{prefix}.kv_b_proj", shape.kv_rank, expanded, "attention", units=shape.heads),
    ]
    if indexer is not None:
        inputs = shape.q_rank or shape.hidden
        ops += [
            whole(f"{prefix}.indexer.wq_b", inputs, indexer.heads * indexer.dim, "attention"),
            whole(f"{prefix}.indexer.wk", shape.hidden, indexer.dim, "attention"),
            Norm(f"{prefix}.indexer.k_norm", indexer.dim, 2),
            whole(f"{prefix}.indexer.weights_proj", shape.hidden, indexer.heads, "attention"),
        ]
    ops += [
        Attention(
            f"{prefix}.core",
            shape.heads,
            shape.heads,
            shape.nope + shape.rope,
            shape.value,
            kind="latent",
            latent=shape.kv_rank,
            rope=shape.rope,
            selected=indexer.top if indexer else 0,
            index_elements=float(indexer.dim) if indexer else 0.0,
            index_flop=2 * indexer.heads * (indexer.dim + 1) if indexer else 0,
        ),
        row(
            f"{prefix}.o_proj", shape.heads * shape.value, shape.hidden, "attention", units=shape.heads, bias=shape.bias
        ),
    ]
    return tuple(ops)


def read_indexer(keys: Keys) -> Indexer | None:
    """Read the sparse indexer, None where the config has none.

    Layers that share another layer's selection (GLM-5.2's ``indexer_types``) are counted with an indexer of their own: at
    most 0.1 % of the parameters too many.
    """
    if not keys.has("index_topk"):
        return None
    keys.skip(
        "indexer_types", "index_topk_freq", "index_skip_topk_offset", "index_topk_pattern", "layer_types",
        "index_share_for_mtp_iteration",
    )  # fmt: skip
    return Indexer(keys.int("index_n_heads", most=65536), keys.int("index_head_dim"), keys.int("index_topk"))


def deepseek(keys: Keys, *, dense_first: int = 0, shared: int = 0, copied: bool = True) -> list[Tower]:
    """DeepSeek V2, V3, V3.2, Kimi K2, GLM-4.7-Flash and GLM-5: latent attention, dense layers first, shared experts.

    Args:
        keys: the config.
        dense_first: first layers without experts, where the config does not say.
        shared: shared experts, where the config does not say.
        copied: whether the checkpoint's prediction layer holds copies of embedding and head (GLM-5's does not).
    """
    shape = read_latent(keys)
    depth = read_depth(keys)
    context = read_context(keys)
    sparse = sparse_layers(keys, depth, dense_first=dense_first)
    experts, mlp = shared_moe(keys, shape.hidden, shared_default=shared)
    keys.skip("mlp_bias")
    attend = latent_attention(shape, indexer=read_indexer(keys))
    first, second = Norm("input_layernorm", shape.hidden), Norm("post_attention_layernorm", shape.hidden)
    made: dict[bool, Ops] = {flag: (first, *attend, second, *(experts if flag else mlp)) for flag in (False, True)}
    frame = read_frame(keys, tied=False)
    tower = text_tower(frame, layers(made[flag] for flag in sparse), hidden=shape.hidden, context=context)
    drafts = draft_tower(made[True], frame, shape.hidden, read_draft(keys), index=depth, shared=copied)
    return [tower, *drafts]


def dense_latent(keys: Keys) -> list[Tower]:
    """MiniCPM3 and Youtu: latent attention with dense layers."""
    shape = read_latent(keys)
    depth = read_depth(keys)
    context = read_context(keys)
    keys.flag("mlp_bias", default=False)
    mlp = gated_mlp(shape.hidden, keys.int("intermediate_size"))
    first, second = Norm("input_layernorm", shape.hidden), Norm("post_attention_layernorm", shape.hidden)
    ops: Ops = (first, *latent_attention(shape), second, *mlp)
    frame = read_frame(keys, tied=True)
    return [text_tower(frame, layers([ops] * depth), hidden=shape.hidden, context=context)]


def longcat(keys: Keys) -> list[Tower]:
    """LongCat-Flash: two attentions and two dense MLPs a layer beside one mixture with experts that do nothing."""
    shape = read_latent(keys)
    depth = keys.int("num_layers", also=("num_hidden_layers",), most=2048)
    context = read_context(keys)
    width = keys.int("expert_ffn_hidden_size", also=("moe_intermediate_size",))
    count = keys.int("n_routed_experts", also=("num_local_experts",), most=65536)
    idle = keys.int("zero_expert_num", 0, least=0, most=65536)
    active = keys.int("moe_topk", also=("num_experts_per_tok",), most=65536)
    inner = keys.int("ffn_hidden_size", also=("intermediate_size",))
    keys.skip("zero_expert_type", "mla_scale_q_lora", "mla_scale_kv_lora", "attention_method", "router_bias")
    ops: list[Linear | Norm | Attention] = []
    for half in (0, 1):
        ops.append(Norm(f"input_layernorm.{half}", shape.hidden))
        ops += latent_attention(shape, prefix=f"self_attn.{half}")  # type: ignore[arg-type]
        ops.append(Norm(f"post_attention_layernorm.{half}", shape.hidden))
        ops += gated_mlp(shape.hidden, inner, prefix=f"mlps.{half}")  # type: ignore[arg-type]
    ops.append(whole("mlp.router.classifier", shape.hidden, count + idle, "router"))
    # A token visits ``active`` of all experts; those that do nothing are as likely as the others.
    visited = max(1, round(active * count / (count + idle)))
    ops += gated_mlp(shape.hidden, width, prefix="mlp.experts.{}", role="expert", copies=count, active=visited)  # type: ignore[arg-type]
    frame: Frame = replace(read_frame(keys, tied=False))
    return [text_tower(frame, layers([tuple(ops)] * depth), hidden=shape.hidden, context=context)]


FAMILIES: dict[str, Builder] = {
    "deepseek_v2": deepseek,
    "deepseek_v3": partial(deepseek, dense_first=3, shared=1),
    "deepseek_v32": partial(deepseek, dense_first=3, shared=1),
    "kimi_k2": partial(deepseek, dense_first=3, shared=1),
    "glm_moe_dsa": partial(deepseek, dense_first=3, shared=1, copied=False),
    "glm4_moe_lite": partial(deepseek, dense_first=1, shared=1),
    "minicpm3": dense_latent,
    "youtu": dense_latent,
    "longcat_flash": longcat,
}

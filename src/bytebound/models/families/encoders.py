"""Text encoders: BERT and its relatives, with the head that ``architectures`` names.

Source of shapes: the published classes of each ``model_type``; every count was checked against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Embedding, Linear, Norm, Parameter, Tower
from bytebound.errors import UnknownNameError
from bytebound.models.families.pieces import Ops, layers, read_context, split
from bytebound.models.families.stacks import attend, feed, norms, once, read_head, read_labels, read_layers

if TYPE_CHECKING:
    from bytebound.models.families import Builder
    from bytebound.models.keys import Keys

HEADS = (
    "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", "ForPreTraining",
    "ForNextSentencePrediction", "ForMultipleChoice", "Model",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Names:
    """What one relative of BERT calls its modules, and what it has beside them.

    Args:
        q, k, v, out: projections of a layer; norm_1 and norm_2 follow attention and feed-forward.
        positions, types: whether it has learned positions and token types; pooler: whether the bare model has one.
        layer: prefix of a layer.
        classifier: ``pooled`` (on the pooler), ``dense`` (own dense layer) or ``pre`` (a layer before it).
    """

    q: str = "attention.self.query"
    k: str = "attention.self.key"
    v: str = "attention.self.value"
    out: str = "attention.output.dense"
    norm_1: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    norm_2: str = "output.LayerNorm"
    types: bool = True
    pooler: bool = True
    layer: str = "encoder.layer"
    classifier: str = "pooled"
    transform: tuple[str, str, str] = (
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder",
    )  # fmt: skip


BERT = Names()
ROBERTA = Names(classifier="dense", transform=("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"))
ELECTRA = Names(pooler=False, classifier="dense")
MPNET = Names(
    q="attention.attn.q", k="attention.attn.k", v="attention.attn.v", out="attention.attn.o", norm_1="attention.LayerNorm",
    types=False, classifier="dense", transform=ROBERTA.transform,
)  # fmt: skip
DISTIL = Names(
    q="attention.q_lin", k="attention.k_lin", v="attention.v_lin", out="attention.out_lin", norm_1="sa_layer_norm",
    up="ffn.lin1", down="ffn.lin2", norm_2="output_layer_norm", types=False, pooler=False, layer="transformer.layer",
    classifier="pre", transform=("vocab_transform", "vocab_layer_norm", "vocab_projector"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """The widths of one encoder: stream, heads, feed-forward, vocabulary, and the embedding's own width."""

    hidden: int
    heads: int
    inner: int
    vocab: int
    embed: int


def bert(keys: Keys, names: Names) -> list[Tower]:
    """Build BERT, RoBERTa, XLM-RoBERTa, MPNet, ELECTRA or DistilBERT."""
    keys.skip("position_embedding_type", "is_decoder", "use_cache", "sinusoidal_pos_embds", "tie_weights_")
    sizes = Sizes(
        hidden=keys.int("hidden_size", also=("dim",), saved=768),
        heads=keys.int("num_attention_heads", also=("n_heads",), saved=12),
        inner=keys.int("intermediate_size", also=("hidden_dim",), saved=3072),
        vocab=keys.int("vocab_size", saved=30522),
        embed=keys.int("embedding_size", 0) or keys.int("hidden_size", also=("dim",), saved=768),
    )
    if keys.flag("is_decoder", default=False) or keys.flag("add_cross_attention", default=False):
        raise keys.error("is_decoder", "a decoder of this family is not read", "give an encoder")
    context = keys.int("max_position_embeddings", 512)
    embedding: list[Embedding | Linear | Norm | Parameter] = [
        Embedding("embeddings.word_embeddings", sizes.vocab, sizes.embed),
        Embedding("embeddings.position_embeddings", context, sizes.embed),
    ]
    if names.types:
        rows = keys.int("type_vocab_size", 2)
        embedding.append(Embedding("embeddings.token_type_embeddings", rows, sizes.embed))
    embedding.append(Norm("embeddings.LayerNorm", sizes.embed, 2))
    if sizes.embed != sizes.hidden:
        embedding.append(Linear("embeddings_project", sizes.embed, sizes.hidden, "embedding", bias=True))
    if names is MPNET:
        buckets = keys.int("relative_attention_num_buckets", 32)
        embedding.append(Embedding("encoder.relative_attention_bias", buckets, sizes.heads))
    depth = read_layers(keys, "num_hidden_layers", 12, "n_layers")
    layer = _layer(sizes, names, dim=split(keys, sizes.hidden, sizes.heads))
    end = _head(keys, sizes, names)
    blocks = (Block("", tuple(embedding)), *layers([layer] * depth, prefix=names.layer), Block("", end))
    return [Tower("text", "encoder", blocks, sizes.hidden, context=context)]


def _layer(sizes: Sizes, names: Names, *, dim: int) -> Ops:
    return (
        *attend("", hidden=sizes.hidden, heads=sizes.heads, head_dim=dim, names=(names.q, names.k, names.v, names.out)),
        Norm(names.norm_1, sizes.hidden, 2),
        *feed("", hidden=sizes.hidden, inner=sizes.inner, names=(names.up, names.down)),
        Norm(names.norm_2, sizes.hidden, 2),
    )


def _masked(sizes: Sizes, names: Names) -> Ops:
    """Return the masked-language head: a dense layer, a norm and the tied embedding with a bias of its own."""
    dense, norm, decoder = names.transform
    if names is ELECTRA:
        dense, norm, decoder = "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"
    return (
        Linear(dense, sizes.hidden, sizes.embed, "head", bias=True),
        Norm(norm, sizes.embed, 2),
        Linear(decoder, sizes.embed, sizes.vocab, "head", bias=True, shard="vocab", shard_units=sizes.vocab, tied=True),
    )


def _head(keys: Keys, sizes: Sizes, names: Names) -> Ops:
    """Return what stands on the layers; see ``Names.classifier``."""
    head = read_head(keys, HEADS)
    hidden = sizes.hidden
    pooler: Ops = (once("pooler.dense", hidden, hidden),) if names.pooler else ()
    if head == "Model":
        return pooler
    if head == "ForMaskedLM":
        return _masked(sizes, names)
    if head in ("ForTokenClassification", "ForQuestionAnswering"):
        name = "classifier" if head == "ForTokenClassification" else "qa_outputs"
        return (Linear(name, hidden, read_labels(keys), "head", bias=True),)
    if head == "ForSequenceClassification":
        return _classifier(names, pooler, hidden, read_labels(keys))
    if head == "ForMultipleChoice" and names.classifier == "pooled":
        return (*pooler, once("classifier", hidden, 1))
    found = _pretraining(sizes, names, pooler).get(head)
    if found is None:
        raise UnknownNameError("head of this family", head, HEADS[:4], place=keys.place("architectures"))
    return found


def _classifier(names: Names, pooler: Ops, hidden: int, labels: int) -> Ops:
    if names.classifier == "pooled":
        return (*pooler, once("classifier", hidden, labels))
    dense = names.classifier == "dense"
    first, last = ("classifier.dense", "classifier.out_proj") if dense else ("pre_classifier", "classifier")
    return (once(first, hidden, hidden), once(last, hidden, labels))


def _pretraining(sizes: Sizes, names: Names, pooler: Ops) -> dict[str, Ops]:
    """Return the heads that only BERT and ELECTRA have."""
    hidden = sizes.hidden
    if names is BERT:
        next_sentence = once("cls.seq_relationship", hidden, 2)
        return {
            "ForPreTraining": (*pooler, *_masked(sizes, names), next_sentence),
            "ForNextSentencePrediction": (*pooler, next_sentence),
        }
    if names is ELECTRA:
        prefix = "discriminator_predictions."
        dense = Linear(f"{prefix}dense", hidden, hidden, "head", bias=True)
        return {"ForPreTraining": (dense, Linear(f"{prefix}dense_prediction", hidden, 1, "head", bias=True))}
    return {}


def modernbert(keys: Keys) -> list[Tower]:
    """Build ModernBERT: rotary, gated, one full-attention layer in every three (arXiv 2412.13663)."""
    hidden = keys.int("hidden_size", 768)
    heads = keys.int("num_attention_heads", 12)
    inner = keys.int("intermediate_size", 1152)
    vocab = keys.int("vocab_size", 50368)
    depth = keys.int("num_hidden_layers", 22, most=2048)
    every = keys.int("global_attn_every_n_layers", 3)
    window = keys.int("local_attention", 128, least=0)
    vectors = 2 if keys.flag("norm_bias", default=False) else 1
    bias = keys.flag("attention_bias", default=False)
    mlp_bias = keys.flag("mlp_bias", default=False)
    kinds = keys.words("layer_types") or tuple(
        "sliding_attention" if index % every else "full_attention" for index in range(depth)
    )
    keys.skip("classifier_pooling", "sparse_prediction", "embedding_dropout", "layer_types")
    if len(kinds) < depth:
        raise keys.error("layer_types", f"the list names {len(kinds)} layers of {depth}", "name every layer")
    blocks = []
    for index in range(depth):
        local = kinds[index] == "sliding_attention"
        ops = attend(
            "attn.", hidden=hidden, heads=heads, head_dim=split(keys, hidden, heads), names=("Wqkv", "Wo"),
            bias=(bias,) * 4, kind="window" if local else "full", window=window if local else 0,
        )  # fmt: skip
        before = norms(hidden, "attn_norm", vectors=vectors) if index else ()
        mlp = feed("mlp.", hidden=hidden, inner=inner, names=("Wi", "Wo"), bias=mlp_bias, fused=True)
        blocks.append((*before, *ops, Norm("mlp_norm", hidden, vectors), *mlp))
    start = Block("", (Embedding("embeddings.tok_embeddings", vocab, hidden), Norm("embeddings.norm", hidden, vectors)))
    end: list[Linear | Norm] = [Norm("final_norm", hidden, vectors)]
    head = read_head(keys, ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "Model"))
    if head != "Model":
        dense = keys.flag("classifier_bias", default=False)
        end += [Linear("head.dense", hidden, hidden, "head", bias=dense), Norm("head.norm", hidden, vectors)]
    if head == "ForMaskedLM":
        tied = keys.tied(default=True)
        dense = keys.flag("decoder_bias", default=True)
        end.append(Linear("decoder", hidden, vocab, "head", bias=dense, shard="vocab", shard_units=vocab, tied=tied))
    elif head != "Model":
        end.append(Linear("classifier", hidden, read_labels(keys), "head", bias=True))
    keys.skip("classifier_bias", "decoder_bias", "tie_word_embeddings")
    stack = (start, *layers(blocks, prefix="layers"), Block("", tuple(end)))
    return [Tower("text", "encoder", stack, hidden, context=read_context(keys))]


def nomic_bert(keys: Keys) -> list[Tower]:
    """Build NomicBERT (arXiv 2402.01613): rotary positions, gated feed-forward, no pooler in the published files."""
    for wrong in ("prenorm", "use_rms_norm", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "moe_every_n_layers"):
        if keys.take(wrong):
            raise keys.error(wrong, "a NomicBERT with this set is not read", "give the v1 or v1.5 config")
    hidden = keys.int("hidden_size", also=("n_embd",))
    heads = keys.int("num_attention_heads", also=("n_head",))
    inner = keys.int("intermediate_size", also=("n_inner",))
    depth = keys.int("num_hidden_layers", also=("n_layer",), most=2048)
    vocab = keys.int("vocab_size")
    types = keys.int("type_vocab_size", 2)
    keys.skip(
        "parallel_block", "parallel_block_tied_norm", "max_trained_positions", "pad_vocab_size_multiple", "causal",
        "embd_pdrop", "rotary_emb_fraction", "rotary_emb_interleaved", "rotary_emb_scale_base", "rotary_scaling_factor",
        "last_layer_subset", "attn_pdrop", "head_dim",
    )  # fmt: skip
    layer = (
        *attend(
            "attn.", hidden=hidden, heads=heads, head_dim=split(keys, hidden, heads), names=("Wqkv", "out_proj"),
            bias=(False,) * 4,
        ),
        Norm("norm1", hidden, 2),
        *feed("mlp.", hidden=hidden, inner=inner, names=("fc11", "fc12", "fc2"), bias=False),
        Norm("norm2", hidden, 2),
    )  # fmt: skip
    read_head(keys, ("Model",))
    start = Block(
        "",
        (
            Embedding("embeddings.word_embeddings", vocab, hidden),
            Embedding("embeddings.token_type_embeddings", types, hidden),
            Norm("emb_ln", hidden, 2),
        ),
    )
    blocks = (start, *layers([layer] * depth, prefix="encoder.layers"))
    return [Tower("text", "encoder", blocks, hidden, context=read_context(keys))]


def deberta_v2(keys: Keys) -> list[Tower]:
    """Build DeBERTa v2 and v3: disentangled relative positions (arXiv 2006.03654, 2111.09543)."""
    hidden = keys.int("hidden_size", saved=1536)
    heads = keys.int("num_attention_heads", saved=24)
    inner = keys.int("intermediate_size", saved=6144)
    vocab = keys.int("vocab_size", saved=128100)
    depth = read_layers(keys, "num_hidden_layers", 24)
    context = keys.int("max_position_embeddings", 512)
    if keys.int("embedding_size", hidden) != hidden:
        raise keys.error("embedding_size", "an embedding of another width is not read", "remove the key")
    types = keys.int("type_vocab_size", 0, least=0)
    kernel = keys.int("conv_kernel_size", 0, least=0)
    relative = keys.flag("relative_attention", default=False)
    span = keys.int("position_buckets", -1, least=-1)
    longest = keys.int("max_relative_positions", -1, least=-1)
    span = span if span > 0 else longest if longest > 0 else context
    normed = "layer_norm" in keys.word("norm_rel_ebd", "none")
    shared = keys.flag("share_att_key", default=False)
    listed = isinstance(keys.values.get("pos_att_type"), list)
    wanted = (keys.words("pos_att_type") or ()) if listed else tuple(keys.word("pos_att_type", "").split("|"))
    keys.skip("pooler_hidden_size", "pooler_hidden_act", "conv_act", "conv_groups", "legacy", "pooler_dropout")
    embedding: list[Embedding | Norm | Conv] = [Embedding("embeddings.word_embeddings", vocab, hidden)]
    if keys.flag("position_biased_input", default=True):
        embedding.append(Embedding("embeddings.position_embeddings", context, hidden))
    if types:
        embedding.append(Embedding("embeddings.token_type_embeddings", types, hidden))
    embedding.append(Norm("embeddings.LayerNorm", hidden, 2))
    if relative:
        embedding.append(Embedding("encoder.rel_embeddings", 2 * span, hidden))
    if relative and normed:
        embedding.append(Norm("encoder.LayerNorm", hidden, 2))
    if kernel:
        embedding += [
            Conv("encoder.conv.conv", hidden, hidden, (kernel,), groups=keys.int("conv_groups", 1)),
            Norm("encoder.conv.LayerNorm", hidden, 2),
        ]
    names = (
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
        "attention.output.dense",
    )
    extra = () if shared or not relative else tuple(
        Linear(f"attention.self.{name}", hidden, hidden, "attention", bias=True)
        for name, kind in (("pos_key_proj", "c2p"), ("pos_query_proj", "p2c")) if kind in wanted
    )  # fmt: skip
    layer = (
        *attend("", hidden=hidden, heads=heads, head_dim=split(keys, hidden, heads), names=names),
        *extra,
        Norm("attention.output.LayerNorm", hidden, 2),
        *feed("", hidden=hidden, inner=inner, names=("intermediate.dense", "output.dense")),
        Norm("output.LayerNorm", hidden, 2),
    )
    head = read_head(keys, HEADS)
    sizes = Sizes(hidden, heads, inner, vocab, hidden)
    ends: dict[str, Ops] = {"Model": (), "ForMaskedLM": _masked(sizes, BERT)}
    if head not in ends:
        ends[head] = _head(keys, sizes, BERT)
    blocks = (Block("", tuple(embedding)), *layers([layer] * depth, prefix="encoder.layer"), Block("", ends[head]))
    return [Tower("text", "encoder", blocks, hidden, context=context)]


FAMILIES: dict[str, Builder] = {
    "bert": partial(bert, names=BERT),
    "roberta": partial(bert, names=ROBERTA),
    "xlm-roberta": partial(bert, names=ROBERTA),
    "camembert": partial(bert, names=ROBERTA),
    "mpnet": partial(bert, names=MPNET),
    "electra": partial(bert, names=ELECTRA),
    "distilbert": partial(bert, names=DISTIL),
    "modernbert": modernbert,
    "nomic_bert": nomic_bert,
    "deberta-v2": deberta_v2,
}

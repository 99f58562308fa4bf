"""Encoder-decoders: T5 and its relatives, BART and mBART, Whisper.

The decoder's cross attention makes its keys and values from the encoder's tokens, once per request.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Embedding, Linear, Norm, Operator, Tower
from bytebound.models.families.pieces import Ops, layers, split
from bytebound.models.families.stacks import attend, feed, once, read_head, read_labels, read_layers

if TYPE_CHECKING:
    from bytebound.models.families import Builder
    from bytebound.models.keys import Keys


def _tied_head(name: str, hidden: int, vocab: int, *, tied: bool) -> Linear:
    return Linear(name, hidden, vocab, "head", shard="vocab", shard_units=vocab, tied=tied, source="sequence")


# ---- T5


@dataclass(frozen=True, slots=True)
class _T5:
    hidden: int
    heads: int
    dim: int
    inner: int
    gated: bool
    buckets: int
    everywhere: bool

    def layer(self, index: int, *, decoder: bool) -> Ops:
        """Return one layer: self attention, cross attention in decoders, feed-forward."""
        found = [*self._attention("layer.0.SelfAttention.", causal=decoder)]
        if index == 0 or self.everywhere:
            bias = "layer.0.SelfAttention.relative_attention_bias"
            found.append(Embedding(bias, self.buckets, self.heads))
        found.append(Norm("layer.0.layer_norm", self.hidden))
        last = 1
        if decoder:
            found += self._attention("layer.1.EncDecAttention.", causal=False, cross=True)
            found.append(Norm("layer.1.layer_norm", self.hidden))
            last = 2
        names = ("wi_0", "wi_1", "wo") if self.gated else ("wi", "wo")
        at = f"layer.{last}."
        found += feed(f"{at}DenseReluDense.", hidden=self.hidden, inner=self.inner, names=names, bias=False)
        return (*found, Norm(f"{at}layer_norm", self.hidden))

    def _attention(self, prefix: str, *, causal: bool, cross: bool = False) -> Ops:
        return attend(
            prefix, hidden=self.hidden, heads=self.heads, head_dim=self.dim, names=("q", "k", "v", "o"),
            bias=(False,) * 4, causal=causal, cached=causal, memory=self.hidden if cross else 0,
        )  # fmt: skip


T5_HEADS = ("ForConditionalGeneration", "EncoderModel", "WithLMHeadModel", "Model")


def t5(keys: Keys, *, everywhere: bool = False) -> list[Tower]:
    """Build T5, T5 v1.1, Flan-T5, mT5, byT5 or UMT5 (``everywhere``: a position bias in every layer).

    The head follows ``tie_word_embeddings``; v1.1 writes false and stores one of its own.
    """
    words = keys.word("feed_forward_proj", "relu").split("-")
    shape = _T5(
        hidden=keys.int("d_model"),
        heads=keys.int("num_heads"),
        dim=keys.int("d_kv"),
        inner=keys.int("d_ff"),
        gated=words[0] == "gated",
        buckets=keys.int("relative_attention_num_buckets", 32),
        everywhere=everywhere,
    )
    vocab = keys.int("vocab_size")
    depth = read_layers(keys, "num_layers", 6)
    head = read_head(keys, T5_HEADS, "ForConditionalGeneration")
    keys.skip(
        "num_hidden_layers", "relative_attention_max_distance", "n_positions", "output_past", "is_gated_act",
        "dense_act_fn", "tie_word_embeddings", "scalable_attention", "classifier_dropout", "tokenizer_class",
    )  # fmt: skip
    start = Block("", (Embedding("shared", vocab, shape.hidden),))
    stack = layers((shape.layer(index, decoder=False) for index in range(depth)), prefix="encoder.block")
    end = Block("encoder.", (Norm("final_layer_norm", shape.hidden),))
    encoder = Tower("text encoder", "encoder", (start, *stack, end), shape.hidden)
    deep = keys.maybe_int("num_decoder_layers", most=2048) or depth
    if head == "EncoderModel":
        return [encoder]
    last: list[Operator] = [Norm("decoder.final_layer_norm", shape.hidden)]
    if head != "Model":
        last.append(_tied_head("lm_head", shape.hidden, vocab, tied=keys.tied(default=True)))
    stack = layers((shape.layer(index, decoder=True) for index in range(deep)), prefix="decoder.block")
    return [encoder, Tower("text decoder", "decoder", (*stack, Block("", tuple(last))), shape.hidden)]


# ---- BART and Whisper


@dataclass(frozen=True, slots=True)
class _Bart:
    hidden: int
    heads: int
    inner: int
    dim: int
    key_bias: bool

    def layer(self, *, decoder: bool) -> Ops:
        """Return one layer; the norms' places differ between relatives, their sizes do not."""
        found = [*self._attention("self_attn.", causal=decoder), Norm("self_attn_layer_norm", self.hidden, 2)]
        if decoder:
            found += self._attention("encoder_attn.", causal=False, cross=True)
            found.append(Norm("encoder_attn_layer_norm", self.hidden, 2))
        found += feed("", hidden=self.hidden, inner=self.inner)
        return (*found, Norm("final_layer_norm", self.hidden, 2))

    def _attention(self, prefix: str, *, causal: bool, cross: bool = False) -> Ops:
        return attend(
            prefix, hidden=self.hidden, heads=self.heads, head_dim=self.dim, bias=(True, self.key_bias, True, True),
            causal=causal, cached=causal, memory=self.hidden if cross else 0,
        )  # fmt: skip


def _side(keys: Keys, side: str, *, key_bias: bool = True) -> tuple[_Bart, int]:
    hidden = keys.int("d_model")
    heads = keys.int(f"{side}_attention_heads", also=("num_attention_heads",) if side == "encoder" else ())
    inner = keys.int(f"{side}_ffn_dim")
    return _Bart(hidden, heads, inner, split(keys, hidden, heads), key_bias), read_layers(keys, f"{side}_layers", 12)


BART_HEADS = ("ForConditionalGeneration", "MTModel", "ForSequenceClassification", "Model")


def bart(keys: Keys, *, first_norm: bool = True, last_norm: bool = False, extra: int | None = 2) -> list[Tower]:
    """Build BART, mBART, M2M-100 (NLLB) or Marian.

    Args:
        keys: the config.
        first_norm: whether a norm stands before each stack.
        last_norm: whether a norm stands after each stack.
        extra: rows of the position table beyond the context (None: positions are computed, not stored).
    """
    encoder, depth = _side(keys, "encoder")
    decoder, deep = _side(keys, "decoder")
    hidden = encoder.hidden
    vocab = keys.int("vocab_size")
    context = keys.int("max_position_embeddings", 1024)
    head = read_head(keys, BART_HEADS, "ForConditionalGeneration")
    keys.skip(
        "num_hidden_layers", "normalize_before", "normalize_embedding", "add_final_layer_norm", "add_bias_logits",
        "static_position_embeddings", "extra_pos_embeddings", "scale_embedding", "force_bos_token_to_be_generated",
        "classif_dropout", "share_encoder_decoder_embeddings", "decoder_vocab_size", "num_attention_heads",
    )  # fmt: skip
    if keys.has("decoder_vocab_size") and keys.int("decoder_vocab_size") != vocab:
        raise keys.error("decoder_vocab_size", "two vocabularies are not read", "give a model with one vocabulary")

    def around(prefix: str, blocks: tuple[Block, ...], first: Ops = ()) -> tuple[Block, ...]:
        begin: list[Operator] = list(first)
        if extra is not None:
            begin.append(Embedding(f"{prefix}.embed_positions", context + extra, hidden))
        if first_norm:
            begin.append(Norm(f"{prefix}.layernorm_embedding", hidden, 2))
        end = (Norm(f"{prefix}.layer_norm", hidden, 2),) if last_norm else ()
        return (Block("", tuple(begin)), *blocks, Block("", end))

    shared = (Embedding("model.shared", vocab, hidden),)
    inside = layers([encoder.layer(decoder=False)] * depth, prefix="model.encoder.layers")
    outside = layers([decoder.layer(decoder=True)] * deep, prefix="model.decoder.layers")
    last: tuple[Operator, ...] = ()
    if head in ("ForConditionalGeneration", "MTModel"):
        last = (_tied_head("lm_head", hidden, vocab, tied=keys.tied(default=True)),)
    elif head == "ForSequenceClassification":
        labels = read_labels(keys)
        prefix = "classification_head."
        last = (once(f"{prefix}dense", hidden, hidden), once(f"{prefix}out_proj", hidden, labels))
    return [
        Tower("text encoder", "encoder", around("model.encoder", inside, shared), hidden, context=context),
        Tower("text decoder", "decoder", (*around("model.decoder", outside), Block("", last)), hidden, context=context),
    ]


def whisper(keys: Keys) -> list[Tower]:
    """Build Whisper (arXiv 2212.04356): 30 s of audio are 3000 mel frames, halved by the second convolution."""
    encoder, depth = _side(keys, "encoder", key_bias=False)
    decoder, deep = _side(keys, "decoder", key_bias=False)
    hidden = encoder.hidden
    frames = keys.int("max_source_positions", 1500)
    longest = keys.int("max_target_positions", 448)
    vocab = keys.int("vocab_size")
    mels = keys.int("num_mel_bins", 80)
    head = read_head(keys, ("ForConditionalGeneration", "Model"), "ForConditionalGeneration")
    keys.skip(
        "num_hidden_layers", "median_filter_width", "mask_time_min_masks", "mask_feature_min_masks", "mask_time_length",
        "mask_feature_length", "mask_time_prob", "mask_feature_prob", "classifier_proj_size", "apply_spec_augment",
        "max_length", "scale_embedding", "use_weighted_layer_sum", "alignment_heads", "lang_ids", "suppress_ids",
    )  # fmt: skip
    start = (
        Conv("conv1", mels, hidden, (3,), token_scale=2.0),
        Conv("conv2", hidden, hidden, (3,)),
        Embedding("embed_positions", frames, hidden),
    )
    inside = (
        Block("model.encoder.", start),
        *layers([encoder.layer(decoder=False)] * depth, prefix="model.encoder.layers"),
        Block("model.encoder.", (Norm("layer_norm", hidden, 2),)),
    )
    tables = (Embedding("embed_tokens", vocab, hidden), Embedding("embed_positions", longest, hidden))
    last = (_tied_head("proj_out", hidden, vocab, tied=True),) if head != "Model" else ()
    outside = (
        Block("model.decoder.", tables),
        *layers([decoder.layer(decoder=True)] * deep, prefix="model.decoder.layers"),
        Block("model.decoder.", (Norm("layer_norm", hidden, 2),)),
        Block("", last),
    )
    return [
        Tower("audio encoder", "encoder", inside, hidden, tokens=frames, tokens_out=frames, context=frames),
        Tower("text decoder", "decoder", outside, hidden, context=longest),
    ]


FAMILIES: dict[str, Builder] = {
    "t5": t5,
    "mt5": t5,
    "umt5": partial(t5, everywhere=True),
    "bart": bart,
    "mbart": partial(bart, last_norm=True),
    "m2m_100": partial(bart, first_norm=False, last_norm=True, extra=None),
    "marian": partial(bart, first_norm=False, extra=0),
    "whisper": whisper,
}

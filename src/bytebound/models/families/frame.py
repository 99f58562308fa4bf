"""What stands around the layers of a text tower: their depth, how far each looks back, embedding, norm and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Embedding, Linear, Norm, Tower
from bytebound.models.families.pieces import DEEPEST_STACK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.architecture import Operator, TowerKind
    from bytebound.models.families.pieces import Kind, Ops
    from bytebound.models.keys import Keys

LAYER_KINDS = {"full_attention": "full", "sliding_attention": "window", "chunked_attention": "chunk"}
"""Hugging Face names of attention layers."""


def read_depth(keys: Keys, *, saved: int = 32, default: int | None = None) -> int:
    """Read the number of layers."""
    also = ("n_layer", "n_layers", "num_layers")
    if default is not None:
        return keys.int("num_hidden_layers", default, also=also, most=DEEPEST_STACK)
    return keys.int("num_hidden_layers", also=also, most=DEEPEST_STACK, saved=saved)


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the layers of a text tower: embedding, last norm, head.

    Args:
        vocab: rows of the embedding.
        tied: whether the head is the embedding.
        embed, norm, head: names.
        norm_vectors: learned vectors of the last norm (0: it has none).
        head_bias: bias on the head.
        extra: operators of the first block after the embedding (positions, embedding norms).
        embed_width: width of the embedding where it differs from the stream's.
        before_head: operators between the last norm and the head.
    """

    vocab: int
    tied: bool
    embed: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"
    norm_vectors: int = 1
    head_bias: bool = False
    extra: Ops = ()
    embed_width: int = 0
    before_head: Ops = ()


def read_frame(keys: Keys, *, tied: bool, saved_vocab: int = 32000) -> Frame:
    """Read the vocabulary and whether the head is tied; ``tied`` is the family's default."""
    return Frame(keys.int("vocab_size", saved=saved_vocab), keys.tied(default=tied))


def text_tower(
    frame: Frame, blocks: tuple[Block, ...], *, hidden: int, context: int = 0, kind: TowerKind = "decoder"
) -> Tower:
    """Return the tower of a language model: embedding, layers, last norm and head.

    The head works on one token of each sequence (``source="sequence"``): engines compute logits of the last only.
    """
    width = frame.embed_width or hidden
    start = Block("", (Embedding(frame.embed, frame.vocab, width), *frame.extra))
    end: list[Operator] = [Norm(frame.norm, hidden, frame.norm_vectors)] if frame.norm else []
    end += frame.before_head
    end.append(
        Linear(
            frame.head,
            width,
            frame.vocab,
            "head",
            bias=frame.head_bias,
            shard="vocab",
            shard_units=frame.vocab,
            tied=frame.tied,
            source="sequence",
        )
    )
    return Tower("text", kind, (start, *blocks, Block("", tuple(end))), hidden, context=context)


def read_layer_types(keys: Keys, depth: int, *, known: Sequence[str] = tuple(LAYER_KINDS)) -> tuple[str, ...] | None:
    """Read ``layer_types``, one name per layer, or None when it is not written."""
    found = keys.words("layer_types")
    if found is None:
        return None
    if len(found) < depth:
        message = f"the list names {len(found)} layers of {depth}"
        raise keys.error("layer_types", message, "name every layer")
    for name in found[:depth]:
        if name not in known:
            message = f"{name!r} is not a kind of layer this family has"
            raise keys.error("layer_types", message, f"use {', '.join(known)}")
    return found[:depth]


def span(kind: str, window: int, context: int) -> tuple[Kind, int]:
    """Return the attention kind and window of a layer; a window as long as the context is full attention."""
    if kind == "chunk" and window > 0 and (window < context or not context):
        return "chunk", window
    if kind == "window" and window > 0 and (window < context or not context):
        return "window", window
    return "full", 0

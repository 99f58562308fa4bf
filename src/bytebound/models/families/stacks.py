"""Parts that encoders and denoisers share: attention both ways, feed-forward layers, heads and patch embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.architecture import Attention, Linear, Norm
from bytebound.errors import UnknownNameError
from bytebound.models.families.pieces import DEEPEST_STACK, Kind, Ops, column, row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.architecture import Operator
    from bytebound.models.keys import Keys


def attend(
    prefix: str,
    *,
    hidden: int,
    heads: int,
    head_dim: int,
    names: Sequence[str] = ("q_proj", "k_proj", "v_proj", "out_proj"),
    kv_heads: int = 0,
    bias: tuple[bool, bool, bool, bool] = (True, True, True, True),
    kind: Kind = "full",
    window: int = 0,
    causal: bool = False,
    cached: bool = False,
    memory: int = 0,
    norms: Sequence[str] = (),
    norm_width: int = 0,
    norm_vectors: int = 1,
    outputs: int = 0,
    token_scale: float = 1.0,
) -> Ops:
    """Return the operators of one attention that looks both ways unless ``causal``.

    Args:
        prefix: name of the module, with its final dot.
        hidden: width of the stream.
        heads: query heads.
        head_dim: width of one head.
        kv_heads: key-value heads (0: as many as query heads).
        names: the four projections, or the fused one and the output's; an empty last name means no output projection.
        bias: biases on queries, keys, values and output.
        kind: how far a token looks.
        window: tokens it looks back, for windows and chunks.
        causal: whether a token sees only those before it.
        cached: whether keys and values are kept between steps.
        memory: width of the encoder's stream that keys and values are made from (0: the own stream).
        norms: names of query and key norms.
        norm_width: their width (0: one head).
        norm_vectors: learned vectors of each.
        outputs: width the output projection returns to (0: ``hidden``).
        token_scale: positions worked on per position of the tower.
    """
    kv_heads = kv_heads or heads
    wide, narrow = heads * head_dim, kv_heads * head_dim
    found: list[Operator] = []
    if len(names) == 2:
        found.append(column(prefix + names[0], hidden, wide + 2 * narrow, "attention", units=kv_heads, bias=bias[0]))
    else:
        found.append(column(prefix + names[0], hidden, wide, "attention", units=heads, bias=bias[0]))
        found += [
            column(prefix + names[at], memory or hidden, narrow, "attention", units=kv_heads, bias=bias[at])
            for at in (1, 2)
        ]
    found += [Norm(prefix + name, norm_width or head_dim, norm_vectors) for name in norms]
    found.append(
        Attention(
            f"{prefix}core",
            heads,
            kv_heads,
            head_dim,
            head_dim,
            kind="cross" if memory else kind,
            window=window,
            causal=causal,
            cached=cached,
            token_scale=token_scale,
        )
    )
    if names[-1]:
        found.append(row(prefix + names[-1], wide, outputs or hidden, "attention", units=heads, bias=bias[3]))
    return tuple(place(op, scale=token_scale, encoder=bool(memory) and _keys(op, prefix, names)) for op in found)


def _keys(operator: Operator, prefix: str, names: Sequence[str]) -> bool:
    return operator.name in {prefix + name for name in names[1:-1]}


def place(operator: Operator, *, scale: float = 1.0, encoder: bool = False, once: bool = False) -> Operator:
    """Return an operator that works on ``scale`` positions per position, on the encoder's, or once per sequence."""
    if isinstance(operator, Linear):
        source = "encoder" if encoder else "sequence" if once else operator.source
        return Linear(
            operator.name,
            operator.inputs,
            operator.outputs,
            operator.role,
            bias=operator.bias,
            copies=operator.copies,
            active=operator.active,
            shard=operator.shard,
            shard_units=operator.shard_units,
            tied=operator.tied,
            token_scale=scale,
            source=source,
        )
    if isinstance(operator, Norm):
        return Norm(operator.name, operator.width, operator.vectors, scale)
    return operator


def once(name: str, inputs: int, outputs: int, *, bias: bool = True, tied: bool = False, role: str = "other") -> Linear:
    """Return a projection that runs once for a whole sequence or image: poolers, classifiers, time embeddings."""
    return Linear(name, inputs, outputs, role, bias=bias, tied=tied, source="sequence")  # type: ignore[arg-type]


def feed(
    prefix: str,
    *,
    hidden: int,
    inner: int,
    names: Sequence[str] = ("fc1", "fc2"),
    bias: bool = True,
    fused: bool = False,
    outputs: int = 0,
    token_scale: float = 1.0,
) -> Ops:
    """Return a feed-forward layer; three names are gate, up and down, ``fused`` means gate and up are one matrix."""
    width = 2 * inner if fused else inner
    ups = [column(prefix + name, hidden, width, "mlp", units=inner, bias=bias) for name in names[:-1]]
    down = row(prefix + names[-1], inner, outputs or hidden, "mlp", bias=bias)
    return tuple(place(op, scale=token_scale) for op in (*ups, down))


def norms(width: int, *names: str, vectors: int = 2) -> Ops:
    """Return one norm per name."""
    return tuple(Norm(name, width, vectors) for name in names)


def read_layers(keys: Keys, name: str, saved: int, *also: str) -> int:
    """Read a number of layers; ``saved`` is what a nested config leaves out."""
    return keys.int(name, also=also, most=DEEPEST_STACK, saved=saved)


def read_size(keys: Keys, name: str, default: int = 0, *, most: int = 65536) -> tuple[int, int]:
    """Read a size written as one number or as height and width, in pixels or latents."""
    value = keys.values.get(name)
    if isinstance(value, dict):
        inner = keys.child(name)
        return inner.int("height", most=most), inner.int("width", most=most)
    if isinstance(value, list):
        pair = keys.ints(name, least=1, most=most) or ()
        if len(pair) not in (1, 2):
            raise keys.error(name, f"{len(pair)} numbers are not a size", "write one number, or height and width")
        return pair[0], pair[-1]
    size = keys.int(name, default, most=most) if default else keys.int(name, most=most)
    return size, size


def read_labels(keys: Keys) -> int:
    """Read how many classes a classifier has: its labels, or two as the library assumes."""
    labels = keys.take("id2label")
    keys.skip("label2id")
    if labels is None:
        return keys.int("num_labels", 2, also=("_num_labels",))
    if not isinstance(labels, (dict, list)):
        raise keys.error("id2label", "the labels are neither an object nor a list", "write a name per class")
    return len(labels)


def read_head(keys: Keys, known: Sequence[str], default: str = "Model") -> str:
    """Return what stands on the network: the end of the class name in ``architectures``.

    Args:
        keys: the config.
        known: ends that the family has, e.g. ``Model``, ``ForMaskedLM``; longer ones first.
        default: the end where no class is named.

    Raises:
        UnknownNameError: the class ends in none of them.
    """
    named = keys.words("architectures")
    if not named:
        return default
    for end in known:
        if named[0].endswith(end):
            return end
    raise UnknownNameError("head of this family", named[0], known, place=keys.place("architectures"))

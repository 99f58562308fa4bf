"""The small model that stands for a large one: same width, heads and formats, few layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd, lcm
from typing import TYPE_CHECKING

from bytebound.engines.random_gguf import BLOCKS, Shape
from bytebound.errors import RequestError, UnknownNameError
from bytebound.ledger.precision import streamed
from bytebound.ledger.table import CROSSED, LATENT, MAIN

if TYPE_CHECKING:
    from bytebound.ledger.table import OpTable

LARGEST_LAYER_BYTES = 400e6
LEAST_BYTES = 16e6
MOST_FILLER_BYTES = 256e6
"""A few times any last-level cache that two threads can fill; reading more changes nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """What decides how long a step of a decoder takes: its shape, and its bytes by weight format."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    body_bytes: dict[str, float]  # read per token, by format
    body_elements: float
    head_bytes: float
    head_rows: int
    head_weights: str
    kv_bytes_per_token: float

    @property
    def weight_bytes(self) -> float:
        """Bytes one token reads."""
        return sum(self.body_bytes.values()) + self.head_bytes


def target_of(table: OpTable, weights: str) -> Target:
    """Return what a probe must stand for.

    Raises:
        RequestError: not a decoder with attention.
        UnknownNameError: a weight format llama.cpp does not run.
    """
    p, s = table.products, table.scores
    own = [i for i, stream in enumerate(s.stream) if stream == MAIN and s.kind[i] != CROSSED]
    if table.kind != "decoder" or not own or "head" not in p.roles:
        raise RequestError(
            "only decoders with attention and an output matrix can be calibrated", place="--calibrate",
            mend="leave --calibrate out",
        )  # fmt: skip
    read = streamed(table, weights)
    head = p.roles.index("head")
    head_format = next(name for part, name in read if part == "head")
    body = {writable(name): size for (part, name), (size, _) in read.items() if part == "body"}
    elements = sum(count for (part, _), (_, count) in read.items() if part == "body")
    most = max(own, key=lambda i: s.repeat[i])  # the kind of attention that most layers have; towers of images apart
    latent = s.kind[most] == LATENT  # every head reads the same latent
    return Target(
        layers=int(table.layers), width=int(p.inputs[head]), heads=int(s.heads[most]),
        kv_heads=1 if latent else int(s.kv_heads[most]),
        head_dim=int(s.latent[most] + s.rope[most] if latent else s.qk_dim[most]),
        body_bytes=body, body_elements=elements, head_bytes=read["head", head_format][0],
        head_rows=int(p.outputs[head]), head_weights=writable(head_format), kv_bytes_per_token=float((s.own * s.repeat).sum()) * 2,
    )  # fmt: skip


def writable(name: str) -> str:
    """Return ``name`` where it is a block format that we can write and llama.cpp runs.

    Raises:
        UnknownNameError: it is not.
    """
    if name not in BLOCKS:
        raise UnknownNameError(
            "llama.cpp weight format", name, BLOCKS, place="--weights",
            mend="give --weights q4_0, q8_0, fp16 … as the GGUF you would run",
        )  # fmt: skip
    return name


def body_shape(target: Target, weights: str) -> Shape:
    """Return a few layers as wide as the target's, with its heads and as many weights a layer where memory allows."""
    unit = max(BLOCKS[weights][0], 32)
    width = -(-target.width // unit) * unit
    bytes_per = BLOCKS[weights][1] / BLOCKS[weights][0]
    wanted = min(target.body_elements / target.layers, LARGEST_LAYER_BYTES / bytes_per)
    per_head = 2 * width * target.head_dim
    kv_heads = _body_kv_heads(target, LARGEST_LAYER_BYTES / bytes_per / (2 * per_head))
    heads = _body_heads(target, kv_heads, unit, wanted / per_head - kv_heads)
    attention = per_head * (heads + kv_heads)
    feed_forward = max(round((wanted - attention) / (3 * width) / unit), 1) * unit
    size = (attention + 3 * width * feed_forward) * bytes_per
    layers = min(max(2, -(-int(LEAST_BYTES) // int(size))), max(target.layers, 2))
    return Shape(layers, width, feed_forward, heads, kv_heads, target.head_dim, vocabulary=unit)


def _body_kv_heads(target: Target, most: float) -> int:
    """Return the target's key-value heads, or a whole part of them where they alone outweigh the layer."""
    return next(
        count
        for count in range(target.kv_heads, 0, -1)
        if target.kv_heads % count == 0 and (count <= most or count == 1)
    )


def _body_heads(target: Target, kv_heads: int, unit: int, most: float) -> int:
    """Return as many heads as the target has, or as fill whole blocks, and fewer where they alone outweigh the layer."""
    step = lcm(kv_heads, unit // gcd(unit, target.head_dim))
    return max(min(-(-target.heads // step), int(most // step)), 1) * step


def head_shape(target: Target) -> Shape:
    """Return one almost empty layer and as much of the output matrix as shows its speed."""
    unit = max(BLOCKS[target.head_weights][0], 32)
    width = -(-target.width // unit) * unit
    row = width * BLOCKS[target.head_weights][1] / BLOCKS[target.head_weights][0]
    rows = int(min(target.head_rows, max(2 * LEAST_BYTES / row, 1024)))
    return Shape(1, width, unit, 1, 1, 64, vocabulary=-(-rows // 32) * 32)


def attention_shape(target: Target) -> Shape:
    """Return a few layers with the target's heads and almost no weights."""
    return Shape(4, 64, 64, target.heads, target.kv_heads, target.head_dim, vocabulary=64)


def empty_shape(layers: int) -> Shape:
    """Return layers that cost nothing but being there."""
    return Shape(layers, 64, 64, 1, 1, 64, vocabulary=64)


def filler_shape(target: Target) -> Shape:
    """Return a model of as many bytes as the target, up to ``MOST_FILLER_BYTES``: what lies between a layer's two uses."""
    one = Shape(1, 1024, 1024, 16, 16, 64, vocabulary=64)
    layers = round(min(target.weight_bytes, MOST_FILLER_BYTES) / layer_bytes(one, "fp16"))
    return deeper(one, max(layers, 1))


def filler_bytes(target: Target) -> float:
    """Return the bytes of the filler's layers."""
    shape = filler_shape(target)
    return shape.layers * layer_bytes(shape, "fp16")


def layer_bytes(shape: Shape, weights: str) -> float:
    """Return the bytes of one layer's matrices."""
    own, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    elements = shape.width * (2 * own + 2 * kv + 3 * shape.feed_forward)
    return elements * BLOCKS[weights][1] / BLOCKS[weights][0]


def deeper(shape: Shape, layers: int) -> Shape:
    """Return the same shape with another number of layers."""
    return replace(shape, layers=layers)

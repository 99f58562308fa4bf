"""Which bytes a weight takes and at which rate it multiplies, under the precision a request asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.facts.formats import FORMS, bits_of, find_format, main_format
from bytebound.ledger.ledger import MATH
from bytebound.ledger.table import MAIN, SEQUENCE, matrix_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.values import Text
    from bytebound.ledger.table import OpTable, Products, Streams

    Array = NDArray[Any]

QUANTIZED_ROLES = frozenset({"attention", "mlp", "expert", "mixer", "conv"})
"""Roles that weight quantization touches; embeddings, heads, routers and norms stay 16-bit (levers of the big engines)."""

AUTO = "auto"


def weight_bits(products: Products, weights: Text, *, place: str = "weights") -> Array:
    """Return stored bits per weight, (rows, 1) or (rows, requests).

    ``auto`` keeps what the checkpoint stores. A plain or GGUF-mix format covers every matrix; other formats cover the
    linear layers of the blocks and leave embeddings, head and router in 16 bits.
    """
    own = np.array([matrix_bits(s, i) for s, i in zip(products.stored, products.inputs, strict=True)])[:, None]
    names = np.atleast_1d(np.asarray(weights, dtype=str))
    kinds, index = np.unique(names, return_inverse=True)
    columns = []
    for kind in kinds:
        if kind == AUTO:
            columns.append(own[:, 0])
            continue
        chosen = find_format(str(kind), place=place)
        everywhere = chosen.kind in {"plain", "gguf-mix"}
        target = np.array([matrix_bits(chosen.name, i) for i in products.inputs])
        keep = np.minimum(own[:, 0], 16.0)
        touched = np.array([everywhere or role in QUANTIZED_ROLES for role in products.roles])
        columns.append(np.where(touched, target, keep))
    return np.stack(columns, axis=1)[:, index.reshape(-1)]


def row_formats(products: Products, weights: str) -> tuple[str, ...]:
    """Return the weight format of every row of products under one ``weights`` (see ``weight_bits`` for the rule)."""
    if weights == AUTO:
        return products.stored
    chosen = find_format(weights, place="weights")
    everywhere = chosen.kind in {"plain", "gguf-mix"}
    return tuple(
        chosen.name if everywhere or role in QUANTIZED_ROLES else stored
        for role, stored in zip(products.roles, products.stored, strict=True)
    )


def streamed(table: OpTable, weights: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Return what one token reads of the weights: (``body`` or ``head``, main format) -> (bytes, elements).

    Embeddings are looked up and other towers' weights are not read while decoding. A router stays in 16 bits, is small,
    and counts with the format of the layers it belongs to.
    """
    p = table.products
    found: dict[tuple[str, str], tuple[float, float]] = {}
    formats = row_formats(p, weights)
    decoding = [i for i, role in enumerate(p.roles) if role != "embedding" and p.stream[i] in {MAIN, SEQUENCE}]
    bodies = [main_format(formats[i]) for i in decoding if p.roles[i] not in {"head", "router"}]
    for i in decoding:
        part = "head" if p.roles[i] == "head" else "body"
        name = bodies[0] if p.roles[i] == "router" and bodies else main_format(formats[i])
        elements = float(p.elements[i] * p.active[i] * p.repeat[i])
        size = elements * matrix_bits(formats[i], p.inputs[i]) / 8
        before = found.get((part, name), (0.0, 0.0))
        found[part, name] = (before[0] + size, before[1] + elements)
    return found


def table_bits(streams: Streams, weights: Text) -> Array:
    """Return stored bits per value of look-up tables and small parameters, (rows, 1) or (rows, requests)."""
    own = np.array([find_format(s).bits for s in streams.stored])[:, None] if streams.names else np.zeros((0, 1))
    names = np.atleast_1d(np.asarray(weights, dtype=str))
    kinds, index = np.unique(names, return_inverse=True)
    columns = []
    for kind in kinds:
        everywhere = kind != AUTO and find_format(str(kind)).kind in {"plain", "gguf-mix"}
        target = find_format(str(kind)).bits if everywhere else 0.0
        tables = streams.looked_up > 0
        columns.append(np.where(tables & everywhere, target, own[:, 0]))
    return np.stack(columns, axis=1)[:, index.reshape(-1)]


def math_codes(products: Products, weights: Text, activations: str) -> NDArray[np.int64]:
    """Return the index into ``MATH`` each product multiplies in, (rows, 1) or (rows, requests).

    A ``scaled`` format quantizes activations too and multiplies in its own dtype, and so do GGUF's (llama.cpp multiplies
    8-bit blocks); every other one multiplies in the activation dtype after dequantization.
    """
    base = activations if activations in MATH else "bf16"
    names = np.atleast_1d(np.asarray(weights, dtype=str))
    kinds, index = np.unique(names, return_inverse=True)
    columns = []
    for kind in kinds:
        codes = []
        for role, stored in zip(products.roles, products.stored, strict=True):
            name = stored if kind == AUTO or role not in QUANTIZED_ROLES else str(kind)
            found = find_format(name)
            own = found.kind == "scaled" or found.kind.startswith("gguf")
            chosen = found.math if own else ("fp32" if found.name == "fp32" else base)
            codes.append(MATH.index(chosen))
        columns.append(codes)
    return np.array(columns, dtype=np.int64).T[:, index.reshape(-1)]


def form_codes(products: Products, weights: Text) -> NDArray[np.int64]:
    """Return the index into ``facts.formats.FORMS`` of every product, (rows, 1) or (rows, requests)."""
    names = np.atleast_1d(np.asarray(weights, dtype=str))
    kinds, index = np.unique(names, return_inverse=True)
    columns = [[FORMS.index(find_format(f).form) for f in row_formats(products, str(kind))] for kind in kinds]
    return np.array(columns, dtype=np.int64).reshape(len(kinds), -1).T[:, index.reshape(-1)]


def cache_bits(kv: Text, dtype: str) -> Array:
    """Return bits per KV value, (1,) or (requests,); ``auto`` is the checkpoint's dtype, 16 bits at most."""
    names = np.atleast_1d(np.asarray(kv, dtype=str))
    kinds, index = np.unique(names, return_inverse=True)
    default = min(float(bits_of(dtype)), 16.0)
    bits = np.array([default if kind == AUTO else find_format(str(kind), place="kv").bits for kind in kinds])
    return np.asarray(bits[index.reshape(-1)])

"""The Ledger value: what one step of one phase must compute, read, write and communicate on one device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

GEMM, ATTENTION, ELEMENTWISE, COLLECTIVE, EXPERT, CONTEXT = range(6)
"""Operator classes: efficiencies and floors differ by these. EXPERT: grouped products of routed experts. ATTENTION reads a
cache for one new token a sequence, CONTEXT works through many new tokens."""
CLASS_NAMES = ("gemm", "attention-decode", "elementwise", "collective", "expert", "attention-prefill")

NONE, ALL_REDUCE, ALL_TO_ALL, SEND, HOST, SCALE_OUT = range(6)
"""What a collective row does: sum over a group, exchange within a group, pass on, cross the host link, cross the network."""

MATH = ("fp32", "bf16", "fp16", "fp8", "fp4", "int8")
"""Matrix-product dtypes; a row's ``math`` is an index into this."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Struct of arrays. Every array broadcasts to (rows, requests); quantities are of one occurrence of the row.

    Args:
        names, roles: what the row is.
        op_class: one of GEMM, ATTENTION, ELEMENTWISE, COLLECTIVE, (rows,).
        pattern: what a collective row does, (rows,).
        math: index into ``MATH`` [rows, requests].
        repeat: occurrences in one step.
        flops: floating-point operations [FLOP], a multiply and an add counted as two.
        weight_bytes, kv_bytes, activation_bytes: bytes to and from device memory [B].
        network_bytes: payload of a collective on one device [B]; ``group`` the devices that take part.
        launches: kernels started.
        form: index into ``facts.formats.FORMS``: how the weights of a product are stored (rows, requests).
        queries, pairs: attention rows: query heads × query tokens, and query-key pairs summed over query heads.
    """

    names: tuple[str, ...]
    roles: tuple[str, ...]
    op_class: NDArray[np.int64]
    pattern: NDArray[np.int64]
    math: NDArray[np.int64]
    repeat: Array
    flops: Array
    weight_bytes: Array
    kv_bytes: Array
    activation_bytes: Array
    network_bytes: Array
    group: Array
    launches: Array
    queries: Array = field(default_factory=lambda: np.zeros((1, 1)))
    pairs: Array = field(default_factory=lambda: np.zeros((1, 1)))
    form: NDArray[np.int64] = field(default_factory=lambda: np.zeros((1, 1), dtype=np.int64))

    def total(self, name: str) -> Array:
        """Return a quantity summed over rows and repeats: (requests,)."""
        return np.asarray((getattr(self, name) * self.repeat).sum(axis=0))


def stack(parts: list[Ledger]) -> Ledger:
    """Return one ledger with the rows of all ``parts``; an array no part widens stays (rows, 1)."""
    parts = [part for part in parts if part.names]
    count = sum(len(part.names) for part in parts)

    def joined(name: str) -> Array:
        values = [getattr(part, name) for part in parts]
        out = np.empty((count, max(value.shape[1] for value in values)), dtype=values[0].dtype)
        row = 0
        for part, value in zip(parts, values, strict=True):
            out[row : row + len(part.names)] = value
            row += len(part.names)
        return out

    return Ledger(
        names=tuple(n for p in parts for n in p.names),
        roles=tuple(r for p in parts for r in p.roles),
        op_class=np.concatenate([p.op_class for p in parts]),
        pattern=np.concatenate([p.pattern for p in parts]),
        math=np.asarray(joined("math"), dtype=np.int64),
        repeat=joined("repeat"),
        flops=joined("flops"),
        weight_bytes=joined("weight_bytes"),
        kv_bytes=joined("kv_bytes"),
        activation_bytes=joined("activation_bytes"),
        network_bytes=joined("network_bytes"),
        group=joined("group"),
        launches=joined("launches"),
        queries=joined("queries"),
        pairs=joined("pairs"),
        form=np.asarray(joined("form"), dtype=np.int64),
    )

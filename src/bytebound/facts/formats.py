"""Storage formats of weights and caches: how many bytes a tensor really takes, scales and zero points included."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from bytebound.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


FORMS = ("16-bit", "32-bit", "fp8", "int8", "fp4", "wo8", "wo4", "gguf", "gguf-k", "gguf-i")
"""How weights are stored, as far as kernels differ: plain, quantized with their activations, weight-only, GGUF block kinds."""


@dataclass(frozen=True, slots=True)
class Format:
    """One storage format.

    Args:
        value_bits: bits of one value.
        block_rows, block_cols: values that share one scale block along outputs and inputs (cols 0: the whole row;
            both 0: no block scales).
        block_bits: bits of everything stored once per block (scales, minima, zero points).
        tensor_bits: bits stored once per tensor.
        math: the dtype whose matrix rate a product with these weights can use at best.
        kind: ``plain``, ``scaled`` (activations are quantized too), ``weight-only``, ``gguf`` or ``gguf-mix``.
    """

    name: str
    value_bits: float
    block_rows: int
    block_cols: int
    block_bits: float
    tensor_bits: float
    math: str
    kind: str
    source: str

    @property
    def bits(self) -> float:
        """Bits per weight of a large matrix, scales included (row and tensor scales vanish)."""
        block = self.block_rows * self.block_cols
        return self.value_bits + (self.block_bits / block if block else 0.0)

    @property
    def form(self) -> str:
        """Which of ``FORMS`` kernels see."""
        if self.kind == "scaled":
            return self.math
        if self.kind == "weight-only":
            return "wo8" if self.value_bits >= 8 else "wo4"
        if self.kind.startswith("gguf"):
            name = MAIN_FORMATS.get(self.name, self.name)
            return "gguf-i" if name.startswith(("iq", "tq")) else "gguf-k" if name.endswith("_k") else "gguf"
        return "32-bit" if self.value_bits > 16 else "16-bit"

    def tensor_bytes(self, shape: Sequence[int]) -> int:
        """Bytes one tensor of ``shape`` (outputs, inputs, ...) takes, partial blocks counted whole.

        Source: the layout named in ``source``. Vectors are stored by callers in 16 or 32 bits, not through here.
        """
        elements = math.prod(shape)
        bits = elements * self.value_bits + self.tensor_bits
        if self.block_rows:
            cols = shape[-1] if shape else 1
            rows = elements // cols if cols else 0
            per_row = math.ceil(cols / self.block_cols) if self.block_cols else 1
            bits += math.ceil(rows / self.block_rows) * per_row * self.block_bits
        return math.ceil(bits / 8)


@cache
def formats() -> dict[str, Format]:
    """Return every format by name and alias (lower case)."""
    table: dict[str, Format] = {}
    text = (files("bytebound.facts") / "data" / "formats.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        item = Format(
            name=row["name"],
            value_bits=float(row["value_bits"]),
            block_rows=int(row["block_rows"]),
            block_cols=int(row["block_cols"]),
            block_bits=float(row["block_bits"]),
            tensor_bits=float(row["tensor_bits"]),
            math=row["math"],
            kind=row["kind"],
            source=row["source"],
        )
        for name in (item.name, *filter(None, row["aliases"].split("|"))):
            table[name.lower()] = item
    return table


def find_format(name: str, *, place: str = "") -> Format:
    """Return the format called ``name``.

    Raises:
        UnknownNameError: no such format.
    """
    table = formats()
    found = table.get(str(name).lower())
    if found is None:
        raise UnknownNameError("dtype", str(name), table, place=place, mend="see `bytebound formats`")
    return found


def bits_of(names: str | NDArray[np.str_]) -> float | NDArray[np.float64]:
    """Return bits per value of one format name, or of an array of names (same shape)."""
    if isinstance(names, str):
        return find_format(names).bits
    kinds, index = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return np.array([find_format(kind).bits for kind in kinds])[index].reshape(np.shape(names))


MAIN_FORMATS = {
    "q6_k_m": "q6_k", "q5_k_m": "q5_k", "q4_k_m": "q4_k", "q4_k_s": "q4_k", "q3_k_m": "q3_k", "q2_k_m": "q2_k",
    "iq4_xs_m": "iq4_xs", "iq2_xxs_m": "iq2_xxs", "iq1_s_m": "iq1_s",
}  # fmt: skip
"""Whole-model mix -> the block format most of its matrices are in. Source: llama.cpp tools/quantize README."""


def main_format(name: str) -> str:
    """Return our name of the format ``name``; of a whole-model mix, that of most of its matrices.

    Raises:
        UnknownNameError: no such format.
    """
    found = find_format(name).name
    return MAIN_FORMATS.get(found, found)

"""What an engine keeps of a device's memory, by its version, and how much of that memory a program can get at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, cast

from bytebound.documents.device import Figure
from bytebound.facts.engines import find_engine
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import Device, How

Basis = Literal["total", "static", "free"]
"""What the engine's share is a share of. total: all memory a program can get, and weights, activations and cache live in it;
static: what is free before loading, and only weights and cache live in it; free: what loading and start-up leave."""

LARGE_BYTES = 70 * 2**30
"""From here on vLLM takes its larger defaults, A100 excepted. Source: vllm/engine/arg_utils.py (recalled)."""

HELD_BACK_BYTES = 5e8
"""What the driver of an NVIDIA or AMD GPU keeps where nobody has printed it; 0.3 to 0.7 GB in ``memory_visible.csv``."""


HOST_LIBRARIES_BYTES = 4e8
HOST_HEAP_SHARE = 0.3
"""What a training process takes on a processor beside its tensors: PyTorch, transformers and a tokenizer before any weight, and freed
blocks that the C library cannot give back. Source: measured with glibc 2.36 and PyTorch 2.13 on three scripts (2026-11-21): 0.26 to
1.25 GiB beside peaks of 0.75, 2.2 and 3.4 GiB; the share was 0 to 0.4."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """What one engine, in a range of versions, keeps beside weights and KV cache.

    Args:
        engine, version, until: from ``version`` on, before ``until``; empty: no end.
        basis: what the share is a share of.
        context: bytes that are neither weights, activations nor cache: context, workspaces, allocator slack.
        peers_bytes: bytes more per device when a model is dealt to several: links and reduction buffers.
        logit_bytes: bytes the start-up pass has alive per sequence and vocabulary entry: logits, probabilities, sort.
        every_logit: whether logits of every prompt token are made, not of the last alone.
        sequences, sequences_large: sequences that pass assumes, and on large cards (0: there is no such pass).
        chunk, chunk_large: tokens of its largest step, and on large cards.
    """

    engine: str
    version: str
    until: str
    basis: Basis
    context: Figure
    peers_bytes: float
    logit_bytes: float
    every_logit: bool
    sequences: int
    sequences_large: int
    chunk: int
    chunk_large: int
    note: str = ""

    def profiled_on(self, device: Device) -> int:
        """Return how many sequences the start-up pass assumes on ``device``."""
        return self.sequences_large if is_large(device) else self.sequences

    def chunk_on(self, device: Device) -> int:
        """Return the most prompt tokens of one step on ``device`` by default."""
        return self.chunk_large if is_large(device) else self.chunk


def is_large(device: Device) -> bool:
    """Return whether engines take their defaults for large cards on ``device``; see ``LARGE_BYTES``."""
    return device.memory_bytes.value >= LARGE_BYTES and not device.id.startswith("a100")


@cache
def reserves() -> tuple[Reserve, ...]:
    """Return every row of ``memory_reserves.csv``, versions of an engine in order."""
    return tuple(_reserve(row) for _, row in read_table("memory_reserves.csv"))


@cache
def find_reserve(engine: str, version: str = "") -> Reserve:
    """Return what ``engine`` keeps.

    Args:
        engine: name or alias of an engine.
        version: which one; empty: the latest known. Text after the numbers is ignored (``0.6.4.post1`` is 0.6.4.0).

    An engine without a row keeps what ``engines.csv`` says, of all memory.

    Example:
        >>> find_reserve("vllm", "0.11.0").sequences_large, find_reserve("sglang").basis
        (1024, 'static')

    Raises:
        UnknownNameError: no such engine.
    """
    chosen = find_engine(engine)
    rows = [row for row in reserves() if row.engine == chosen.name]
    asked = _order(version)
    for row in rows:
        if asked and _order(row.version) <= asked and (not row.until or asked < _order(row.until)):
            return row
    if rows:
        return rows[-1]
    return Reserve(
        engine=chosen.name, version="", until="", basis="total", context=chosen.reserve, peers_bytes=0.0, logit_bytes=4.0,
        every_logit=False, sequences=chosen.profiled_sequences, sequences_large=chosen.profiled_sequences, chunk=chosen.max_batched_tokens,
        chunk_large=chosen.max_batched_tokens,
    )  # fmt: skip


@cache
def _visible() -> Mapping[str, float]:
    return {row["device"]: float(row["visible_bytes"]) for _, row in read_table("memory_visible.csv")}


def held_back_bytes(device: Device) -> float:
    """Return the bytes of ``device`` that its driver keeps from programs.

    Data sheets and ``nvidia-smi`` count them, ``cudaMemGetInfo`` and so the engines do not. Source: ``memory_visible.csv``;
    ``HELD_BACK_BYTES`` for GPUs of NVIDIA and AMD that are not in it; nothing for others and for a measured machine.
    """
    if device.id in _visible():
        return max(device.memory_bytes.value - _visible()[device.id], 0.0)
    exact = device.memory_bytes.how == "measured" or device.memory_bytes.value % 2**20 != 0.0
    return 0.0 if exact or device.kind != "gpu" or device.vendor not in {"NVIDIA", "AMD"} else HELD_BACK_BYTES


def host_process_bytes(allocated: float) -> Figure:
    """Return what a PyTorch process on a processor takes beside ``allocated`` bytes of tensors at their peak."""
    value = HOST_LIBRARIES_BYTES + HOST_HEAP_SHARE * allocated
    return Figure(
        value=value, low=HOST_LIBRARIES_BYTES * 0.7, high=HOST_LIBRARIES_BYTES + 0.4 * allocated, unit="B", how="assumed",
        source="three scripts measured under glibc and PyTorch 2.13 (facts/reserves.py)", when="2026-11-21",
    )  # fmt: skip


def _order(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def _reserve(row: Mapping[str, str]) -> Reserve:
    context = Figure(
        value=float(row["context_bytes"]), low=float(row["context_low_bytes"]), high=float(row["context_high_bytes"]),
        unit="B", how=cast("How", row["how"]), source=row["source"], when=row["date"],
    )  # fmt: skip
    return Reserve(
        engine=row["engine"], version=row["version"], until=row["until"], basis=cast("Basis", row["basis"]),
        context=context, peers_bytes=float(row["peers_bytes"]), logit_bytes=float(row["logit_bytes"] or 0.0),
        every_logit=row["logits"] == "every", sequences=int(row["sequences_count"] or 0),
        sequences_large=int(row["sequences_large_count"] or 0), chunk=int(row["chunk_tokens"]), chunk_large=int(row["chunk_large_tokens"]), note=row["note"],
    )  # fmt: skip

"""Formats of weights and caches in a plan: which are tried on a device, which lever each is, and what it costs in quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.plan import QUALITIES
from bytebound.facts.formats import find_format
from bytebound.facts.levers import card_rows
from bytebound.ledger.precision import QUANTIZED_ROLES

if TYPE_CHECKING:
    from bytebound.documents.device import Device
    from bytebound.ledger.table import OpTable
    from bytebound.predict.estimate import Setting

AUTO = "auto"
WEIGHTS = {"llama.cpp": ("q8_0", "q4_k_m"), "": ("fp8", "int8", "int4", "nvfp4")}
KV = {"llama.cpp": ("q8_0",), "": ("fp8",)}
"""Formats tried by default beside the checkpoint's own, by engine: what its kernels take on most devices."""
PLAIN_BITS = 15.0
"""A checkpoint of fewer bits is quantized already, and is served as it is unless another format is asked for."""
_WEIGHTS = (
    ("int8-wo", "int8-weight-only"), ("fp8", "fp8-weights"), ("mxfp8", "fp8-weights"), ("int8", "int8-weights"), ("int4", "int4-weights"),
    ("awq", "int4-weights"), ("nf4", "nf4-weights"), ("nvfp4", "fp4-weights"), ("mxfp4", "fp4-weights"), ("q8_0", "q8_0-weights"),
    ("q4_k", "q4_k-weights"), ("q4_0", "q4_0-weights"), ("q2_k", "q2_k-weights"), ("bf16", "bf16-weights"), ("fp16", "bf16-weights"),
)  # fmt: skip
_KV = {"fp8": "fp8-kv", "int8": "int8-kv", "q8_0": "int8-kv", "q4_0": "int4-kv", "int4": "int4-kv"}


def weights_lever(weights: str) -> str:
    """Return the name of the lever that stores weights in a format.

    Example:
        >>> weights_lever("nvfp4"), weights_lever("q4_k_m")
        ('fp4-weights', 'q4_k-weights')
    """
    return next((lever for stem, lever in _WEIGHTS if weights.startswith(stem)), f"{weights}-weights")


def format_levers(weights: str, kv: str) -> tuple[str, ...]:
    """Return the names of the levers that a pair of formats is; none where both are the checkpoint's own."""
    of_weights = (weights_lever(weights),) if weights != AUTO else ()
    return (*of_weights, _KV.get(kv, f"{kv}-kv")) if kv != AUTO else of_weights


def quality_of(weights: str, kv: str) -> str:
    """Return the quality of a pair of formats by their lever cards, the worse of the two; without a card it counts as ``any``."""
    cards = card_rows()
    known = (cards[name].quality if name in cards else "any" for name in format_levers(weights, kv))
    return min(known, key=QUALITIES.index, default="lossless")


def quality_note(weights: str, kv: str) -> str:
    """Return what the cards say a pair of formats costs in quality."""
    cards = card_rows()
    said = (
        cards[name].quality_note if name in cards else f"no card of {name}: measure it"
        for name in format_levers(weights, kv)
    )
    return "; ".join(said) or "none"


def runs(name: str, device: Device) -> bool:
    """Return whether the device multiplies (or decodes) a format in hardware (rule 2)."""
    found = find_format(name)
    return found.kind != "scaled" or found.math in device.flop_per_s


def lacks_kernel(name: str, engine: str, device: Device) -> bool:
    """Return whether an engine has no kernel for a format that the device multiplies: vLLM and INT8 on Blackwell.

    Blackwell is told by its fp4 units. Source: vLLM PR 25935 and issue 54311 (open in August 2026).
    """
    return (
        engine == "vllm"
        and find_format(name).math == "int8"
        and device.vendor == "NVIDIA"
        and "fp4" in device.flop_per_s
    )


def stored_bits(table: OpTable) -> float:
    """Return the bits per weight of the checkpoint's layers, weighted by their sizes."""
    p = table.products
    sizes = p.elements * p.copies * p.repeat * np.array([role in QUANTIZED_ROLES for role in p.roles])
    bits = np.array([find_format(name).bits for name in p.stored])
    return float((sizes * bits).sum() / max(sizes.sum(), 1.0))


def formats_of(setting: Setting, *, quality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the weight and KV formats to try by default: the checkpoint's own, and narrower ones that keep ``quality``.

    Only what the device has hardware for is tried.
    """
    device, engine = setting.machine.device, setting.engine.name
    floor = QUALITIES.index(quality)
    names = WEIGHTS.get(engine, WEIGHTS[""]) if stored_bits(setting.table) >= PLAIN_BITS else ()
    names = tuple(n for n in names if runs(n, device) and not lacks_kernel(n, engine, device))
    weights = [n for n in names if QUALITIES.index(quality_of(n, AUTO)) >= floor]
    kv = [n for n in KV.get(engine, KV[""]) if runs(n, device) and QUALITIES.index(quality_of(AUTO, n)) >= floor]
    return (AUTO, *weights), (AUTO, *kv) if setting.table.kind == "decoder" else (AUTO,)

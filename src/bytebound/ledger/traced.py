"""A Trace as a Ledger: one row per traced operator, so that everything a ledger can be asked a real program can be asked too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bytebound.errors import RequestError
from bytebound.ledger.ledger import CONTEXT, ELEMENTWISE, GEMM, MATH, NONE, Ledger

if TYPE_CHECKING:
    from bytebound.documents.trace import Trace, TracedOp

CLASSES = {
    "gemm": GEMM, "conv": GEMM, "attention": CONTEXT, "elementwise": ELEMENTWISE, "move": ELEMENTWISE,
    "collective": ELEMENTWISE,
}  # fmt: skip
"""Kind of a traced operator -> operator class. A collective of one process exchanges nothing: it is the copies it makes."""
MATH_OF = {
    "float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8",
    "float8_e4m3fnuz": "fp8", "float8_e5m2fnuz": "fp8", "float4_e2m1fn_x2": "fp4", "int8": "int8", "uint8": "int8",
}  # fmt: skip
"""PyTorch's dtypes of products by the names of ``MATH``. 32-bit products are taken as such, as PyTorch does unless told to use TF32."""
PRODUCTS = frozenset({"gemm", "conv", "attention"})


def on_device(trace: Trace) -> tuple[TracedOp, ...]:
    """Return the operators that do something on a device, in order: ``host`` ones and those without bytes and FLOPs do not."""
    return tuple(
        op for op in trace.operators if op.kind != "host" and op.calls > 0 and unfused_bytes(op) + op.flops > 0
    )


def model_flops(trace: Trace) -> float:
    """Return the FLOPs of products of the forward and backward pass, recomputed layers left out, as MFU counts them [FLOP].

    The backward pass of a flash kernel counts the five products it does for the forward pass's two (arXiv 2307.08691, 4.1).
    """
    return sum(op.flops for op in trace.operators if op.kind in PRODUCTS and op.phase != "optimizer" and not op.again)


def unfused_bytes(op: TracedOp) -> float:
    """Return the bytes all calls of ``op`` move where every operand is read and written once per call [B]."""
    return op.read_bytes + op.written_bytes


def traced_ledger(trace: Trace, *, fused: bool, phase: str = "") -> Ledger:
    """Return the ledger of a traced step, one row per operator of ``on_device`` and arrays of shape (rows, 1).

    Args:
        trace: the step.
        fused: count each tensor once where it crosses a fusion boundary, and no kernel for what is fused into another.
        phase: rows of one phase alone; empty: of all.

    Raises:
        RequestError: a product in a dtype no device states a rate for (such as fp64), or a step without any operator.
    """
    found = [op for op in on_device(trace) if phase in ("", op.phase)]
    if not found:
        raise RequestError(
            f"{trace.name} does nothing on a device in {phase or 'its step'}",
            place=trace.name,
            mend="trace a whole step",
        )
    calls = np.array([op.calls for op in found])

    moved = np.array([op.fused_bytes if fused else unfused_bytes(op) for op in found])
    weights = np.minimum([op.weight_bytes for op in found], moved)
    products = np.array([op.kind in PRODUCTS for op in found])
    zero = np.zeros((len(found), 1))
    return Ledger(
        names=tuple(op.name for op in found),
        roles=tuple(op.module for op in found),
        op_class=np.array([CLASSES[op.kind] for op in found]),
        pattern=np.full(len(found), NONE),
        math=np.array([_math(op) for op in found])[:, None],
        repeat=calls[:, None],
        flops=(np.array([op.flops for op in found]) / calls)[:, None],
        weight_bytes=(weights / calls)[:, None],
        kv_bytes=zero,
        activation_bytes=((moved - weights) / calls)[:, None],
        network_bytes=zero,
        group=zero + 1,
        launches=((moved > 0) | products).astype(float)[:, None] if fused else zero + 1,
    )


def _math(op: TracedOp) -> int:
    if op.math in MATH_OF or op.kind not in PRODUCTS:
        return MATH.index(MATH_OF.get(op.math, "fp32"))
    raise RequestError(
        f"{op.name} multiplies in {op.math}, for which devices state no matrix rate",
        place=op.module or op.name,
        mend=f"compute in one of {', '.join(MATH_OF)}",
    )

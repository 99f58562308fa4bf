"""Trace: what real PyTorch code holds, moves and computes in one step, found without weights and without a device.

Schema ``bytebound.trace/1``. Every quantity is of the whole model (extrapolated from the traced layers) on one device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

TRACE_SCHEMA = "bytebound.trace/1"

Phase = Literal["setup", "forward", "backward", "optimizer"]
PHASES: tuple[Phase, ...] = ("setup", "forward", "backward", "optimizer")

CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "temporaries")
"""activations: made in forward and kept for backward (inputs of the step too); temporaries: everything else."""
PASSING = "passing"
"""End of the keys of ``Trace.peaks`` that are fullest without states (parameters, gradients, optimizer)."""


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes alive at one moment, by category."""

    parameters: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    temporaries: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.temporaries


@dataclass(frozen=True, slots=True)
class Moment:
    """One point of the step: after operator ``op`` of ``module`` in ``phase``; ``at`` from 0 to 1 along the step."""

    at: float
    phase: Phase
    module: str
    op: str
    held: Held


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers of one kind in a row: ``repeat`` in the model, of which ``traced`` were run; ``path`` of the list that holds them."""

    name: str
    path: str
    repeat: int
    traced: int


@dataclass(frozen=True, slots=True)
class TracedOp:
    """All calls of one operator in one kind of module and one phase, summed over the step (extrapolated).

    ``math`` is the dtype of its products ("" where it multiplies no matrices). ``read_bytes`` and ``written_bytes`` count every
    operand once per call (no fusion); ``fused_bytes`` counts each tensor once where it crosses a fusion boundary.
    ``kind``: gemm, attention, conv, elementwise, move (copies, gathers, look-ups), collective, host.
    ``known``: False where it moves bytes and its FLOPs have no formula. ``again``: a checkpointed layer computes it a second time.
    """

    name: str
    kind: str
    phase: Phase
    module: str
    stack: str
    math: str
    calls: float
    flops: float
    read_bytes: float
    written_bytes: float
    fused_bytes: float
    weight_bytes: float = 0.0
    known: bool = True
    again: bool = False


@dataclass(frozen=True, slots=True)
class TracedTensor:
    """Parameters or kept activations of one shape made by one kind of module; ``copies`` of them in the whole model.

    ``role``: parameter, buffer, gradient, optimizer, activation or temporary (alive at the peak). ``module`` is the path with layer
    numbers replaced by ``*``; ``op`` made it (activations); ``trainable`` only means something for parameters.
    ``storage_bytes`` are of one copy. ``alive``: how many copies are alive at each moment of ``Trace.peaks``, by its key (zeros
    left out); empty where it was not kept. Sharding divides each moment tensor by tensor, for the peak can move.
    """

    role: str
    name: str
    module: str
    stack: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    storage_bytes: float
    copies: float
    trainable: bool = True
    alive: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """One traced step.

    Args:
        kind: ``training`` (forward, backward, optimizer) or ``forward``.
        samples, seq: what the step worked on, where known (0: not).
        peak: the fullest moment of a step in steady state (optimizer states exist); ``peaks`` the fullest moment of each phase (key
            ``forward``), and of each phase inside one kind of layer or outside of all (``backward/layers``, ``backward/``); where
            another moment is the fullest without states, which sharding divides, that one too (``backward/layers/passing``).
        made_with: what the step was traced with, as a Train request names it, where known: precision, optimizer,
            optimizer_kernel, recompute, attention, loss, trainable.
        timeline: moments in order, thinned so that every local maximum of the total stays.
        unknown: operators that move bytes and have no FLOP formula: name, calls and bytes in a sentence each.
        exact: whether extrapolation was exact on a third traced depth (uniform stacks) or nothing was extrapolated.
        attention: ``flash`` or ``eager`` as the code ran it.
    """

    name: str
    kind: Literal["training", "forward"]
    samples: float
    seq: float
    parameters: float
    trainable: float
    stacks: tuple[Stack, ...]
    peak: Moment
    peaks: dict[str, Moment]
    timeline: tuple[Moment, ...]
    operators: tuple[TracedOp, ...]
    tensors: tuple[TracedTensor, ...]
    unknown: tuple[str, ...] = ()
    exact: bool = True
    attention: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)
    schema_: str = TRACE_SCHEMA

    @property
    def flops(self) -> float:
        """FLOPs of the whole step."""
        return sum(op.flops for op in self.operators)

    def explain(self) -> str:
        """Return how it was found, and what is not known."""
        depth = ", ".join(f"{s.traced} of {s.repeat} layers of {s.path or s.name}" for s in self.stacks)
        return "\n".join(
            filter(None, (f"traced with fake tensors: {depth or 'everything'}", *self.notes, *self.unknown))
        )

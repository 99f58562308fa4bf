"""What training attains: the least offsets that correct published shares and assumed times, fitted to published training runs.

Each is an offset in log-odds for a share (0 to 1) and in logarithms for a time or a factor. Offsets of different scopes add: all
training, one device family, one number format on it, one framework.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from bytebound.facts.calibration import Offset
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.facts.calibration import Key

COLUMNS = ("scope", "operator", "quantity", "offset", "sd", "rows", "how", "source", "date")


@dataclass(frozen=True, slots=True)
class Start:
    """A factor or time before any fit, the width of its prior (logarithm), and where it is from."""

    value: float
    sd: float
    source: str


STARTS: Mapping[tuple[str, str], Start] = MappingProxyType({
    ("gemm", "edge"): Start(150.0, 0.7, "assumed: a product's first and last tiles cost about one side of 128 to 256"),
    ("attention", "edge"): Start(100.0, 0.7, "assumed: masked halves of diagonal blocks of 128 keys"),
    ("attention", "narrow"): Start(0.35, 0.5, "FlashAttention-2 (arXiv 2307.08691) figure 5: heads of 64 reach 0.8 of heads of 128"),
    ("elementwise", "traffic"): Start(1.0, 0.4, "bytes counted from fused operators; frameworks fuse less or more"),
    ("host", "launch_s"): Start(6e-6, 0.5, "assumed: a PyTorch operator takes 5 to 10 us to start"),
    ("host", "expert_s"): Start(2e-4, 0.8, "assumed: routing on the host, per expert layer and pass"),
    ("host", "step_s"): Start(5e-3, 0.8, "assumed: data, logging and the optimizer's kernels of one step"),
    ("network", "hop_s"): Start(4e-6, 0.7, "assumed: one step of a ring between nodes"),
    ("network", "growth"): Start(0.005, 0.7, "assumed: the slowest of twice as many devices is 0.5 % slower"),
})  # fmt: skip
"""Factors and times that no table publishes: their value before fitting. ``edge`` in elements, ``narrow`` the exponent of head width."""

SHARES: Mapping[tuple[str, str], Start] = MappingProxyType({
    ("gemm", "power"): Start(1.0, 0.4, "log-odds per logarithm of watts per FLOP; assumed: clocks fall in proportion to power"),
    ("attention", "portable"): Start(-0.9, 0.4, "FlashAttention-3 (arXiv 2407.08608) figure 5: FlashAttention-2 reaches 0.35 of an H100"),
    ("narrow", "fp8"): Start(0.0, 0.5, "assumed: narrow products reach the share of their peak that 16-bit ones reach"),
    ("narrow", "fp4"): Start(-0.4, 0.5, "assumed: as fp8, and scales of 16 values"),
    ("expert", "share"): Start(-0.7, 0.4, "assumed: grouped products of unequal experts; fused serving kernels reach half of dense ones"),
    ("attention", "backward"): Start(-0.4, 0.3, "FlashAttention-2 (arXiv 2307.08691) figure 6: backward reaches 0.8 of forward"),
    ("tensor", "exposed"): Start(0.8, 0.6, "log-odds of 0.7; assumed"),
    ("experts", "exposed"): Start(1.4, 0.6, "log-odds of 0.8; assumed"),
    ("scaleup", "share"): Start(0.0, 0.4, "published shares of collectives"),
    ("tensorwise", "share"): Start(0.0, 1.0, "log-odds of half the links of a node; assumed: between one of eight and all"),
    ("scaleout", "share"): Start(0.85, 0.5, "log-odds of 0.7; assumed"),
})  # fmt: skip
"""Log-odds that a share starts from, over the published one of products, attention or links (0 where there is none)."""

UNTHROTTLED_W_PER_FLOP_S = 7e-13
"""Power over dense 16-bit rate from which a device keeps its clock through a training run: an H100's 700 W for 0.99 PFLOP/s. Devices
with less (B200: 1,000 W for 2.25) slow down."""
PORTABLE_ATTENTION = frozenset({"fsdp", "deepspeed", "hf", "litgpt"})
"""Frameworks whose attention is FlashAttention-2 or torch's own, without the instructions of Hopper and later."""
NEWER = frozenset({"nvidia-hopper", "nvidia-blackwell-dc"})
"""Families whose matrix units those kernels do not reach."""

FRAMEWORK_TRAFFIC: Mapping[str, float] = MappingProxyType(
    {"megatron": 1.0, "deepspeed": 1.3, "fsdp": 1.4, "hf": 2.5, "litgpt": 2.0, "jax": 0.8}
)
"""Elementwise bytes over fused ones before fitting (assumed): transformers upcasts norms and repeats keys; XLA fuses more."""


HELD = frozenset({("attention", "edge"), ("host", "launch_s")})
"""Quantities published step times do not tell: they keep their start."""
FAMILY_SD, FRAMEWORK_SD, SHARE_SD = 0.4, 0.3, 0.3
FRAMEWORK_NETWORK_SD = 0.8
"""Prior widths of a family's and a framework's own offset, and of the common one of a published share (assumed)."""
NOISE = 0.12
"""Log error of a prediction whose offsets are all known: what no offset of ours describes (assumed)."""
FACTOR: Key = ("all", "step", "factor")
"""Where the table says how many such deviations hold 80 % of left-out runs."""
NORMAL_FACTOR = 1.2816
"""The same before any fit: the 90 % quantile of the normal distribution."""


@cache
def training_offsets() -> Mapping[Key, Offset]:
    """Return the shipped offsets (facts/data/training_shares.csv)."""
    return MappingProxyType({
        (row["scope"], row["operator"], row["quantity"]): Offset(
            float(row["offset"]), float(row["sd"]), int(row["rows"]), row["source"], row["date"]
        )
        for _, row in read_table("training_shares.csv")
    })  # fmt: skip


def prior_sd(key: Key) -> float:
    """Return the width of the prior of one offset: how far a family, framework or quantity that no fitted run has may lie."""
    scope, operator, quantity = key
    if scope.startswith("framework:"):
        return FRAMEWORK_NETWORK_SD if operator == "scaleout" else FRAMEWORK_SD
    if scope != "all" and not scope.startswith("pool:"):
        return FAMILY_SD
    own = STARTS.get((operator, quantity)) or SHARES.get((operator, quantity))
    return own.sd if own else SHARE_SD


def format_training_offsets(found: Mapping[Key, Offset]) -> str:
    """Return offsets as the text of facts/data/training_shares.csv, sorted."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key in sorted(found):
        one = found[key]
        how = "calibrated" if one.rows else "assumed"
        writer.writerow([*key, f"{one.offset:.4f}", f"{one.sd:.4f}", one.rows, how, one.source, one.date])
    return stream.getvalue()

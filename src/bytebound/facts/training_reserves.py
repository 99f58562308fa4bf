"""What a training framework takes of a device beside what it allocates: context, links, and what the allocator cannot use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from bytebound.errors import UnknownNameError
from bytebound.facts.tables import read_table

Three = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class TrainingReserve:
    """The reserve of one framework; triples are low, middle and high (80 %).

    Args:
        framework: a name of ``documents.work.FRAMEWORKS``.
        fragmentation: reserved over allocated bytes.
        interleaved: the high end of it where a pipeline stage has several chunks of layers.
        context_bytes: of the driver and its libraries, in no allocator.
        link_bytes: of one communicator's buffers, of which there is one per parallel degree above 1.
        spread: half-width factor of the 80 % interval of allocated bytes, in what the framework's measured or traced runs did.
        unseen: further factors for what they did not do: recomputation, eager attention, 8-bit and 4-bit formats; 1 where they did.
        source: where the numbers are from.
    """

    framework: str
    fragmentation: Three
    interleaved: float
    context_bytes: Three
    link_bytes: Three
    spread: float
    unseen: Three
    source: str


@cache
def find_training_reserve(framework: str) -> TrainingReserve:
    """Return the reserve of ``framework``.

    Raises:
        UnknownNameError: no row for it in ``training_reserves.csv``.
    """
    rows = {row["framework"]: row for _, row in read_table("training_reserves.csv")}
    if framework not in rows:
        raise UnknownNameError("framework", framework, rows, place="framework")
    row = rows[framework]

    def three(name: str, suffix: str) -> Three:
        low, middle, high = (float(row[f"{name}_{end}{suffix}"]) for end in ("low", "middle", "high"))
        return low, middle, high

    unseen = (
        float(row["recompute_spread_ratio"]), float(row["eager_spread_ratio"]), float(row["narrow_spread_ratio"]),
    )  # fmt: skip
    return TrainingReserve(
        framework, three("fragmentation", "_ratio"), float(row["interleaved_high_ratio"]), three("context", "_bytes"),
        three("link", "_bytes"), float(row["spread_ratio"]), unseen, row["source"],
    )  # fmt: skip

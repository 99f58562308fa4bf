"""What a plan tries on one kind of device: parallel degrees that a model can take, formats the hardware has, and the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import QuantityError, RequestError
from bytebound.ledger.table import MAIN
from bytebound.plan.formats import formats_of, runs
from bytebound.plan.ranges import batch_steps, doubling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.device import Device, Machine
    from bytebound.documents.plan import Quality, Wanted
    from bytebound.ledger.table import OpTable
    from bytebound.predict.estimate import Setting
    from bytebound.predict.roofline import Ceilings

    Array = NDArray[Any]

NODE_OF_CARDS = 8
"""Cards of a server whose devices no scale-up link joins further (assumed: the usual 4U server)."""
LARGEST_REPLICA = 64
"""Most devices of one copy of a model by default: eight nodes of eight."""
LARGEST_BATCH = 1024
MOST_DEGREES = 100_000
SMALL_CHUNK = 2048
"""A smaller prompt chunk tried beside the engine's own: it leaves more memory to the KV cache. vLLM's default on small cards."""
DRAFTED = 3
SHORT_PROMPT = 512
"""Prompts too short to pay for a transfer between prefill and decode devices (rule 10; see ``plan.levers.disaggregate``)."""
NUMERIC = ("chunk", "host_weights", "draft_tokens", "disaggregated")


@dataclass(frozen=True, slots=True)
class Space:
    """All that is tried of one model on one kind of device; the last axis of a row number is the batch.

    ``there`` is how many devices there are (infinity: any number); ``degrees`` (combinations, 4): tp, pp, ep, dp. ``reuse``: pairs of prefix_hit and offload_hit.
    """

    setting: Setting
    across: Ceilings
    node: int
    there: float
    degrees: NDArray[np.int64]
    weights: tuple[str, ...]
    kv: tuple[str, ...]
    reuse: tuple[tuple[float, float], ...]
    numeric: dict[str, tuple[float, ...]]
    batch: Sequence[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Values per axis: weights, KV, degrees, reuse, the numeric ones, batch."""
        own = (len(self.weights), len(self.kv), len(self.degrees), len(self.reuse))
        return (*own, *(len(self.numeric[name]) for name in NUMERIC), len(self.batch))

    @property
    def size(self) -> int:
        """Predictions it takes to search all of it."""
        return prod(self.shape)

    def rows(self, start: int, stop: int) -> dict[str, Array]:
        """Return rows ``start`` to ``stop``, field of Serve -> values (rows,); formats as indices."""
        weights, kv, at, reuse, *rest, batch = np.unravel_index(np.arange(start, min(stop, self.size)), self.shape)
        hits, steps = np.array(self.reuse), self.batch
        found: dict[str, Array] = {"weights": weights, "kv": kv}
        found |= {name: self.degrees[at, i] for i, name in enumerate(("tp", "pp", "ep", "dp"))}
        found |= {"prefix_hit": hits[reuse, 0], "offload_hit": hits[reuse, 1]}
        found |= {name: np.array(self.numeric[name])[index] for name, index in zip(NUMERIC, rest, strict=True)}
        found["batch"] = steps.start + steps.step * batch if isinstance(steps, range) else np.array(steps)[batch]
        return found

    def ceilings(self, setting: Setting, devices: Array) -> Ceilings:
        """Return the ceilings of rows: inside a node for copies that fit one, else those of several nodes."""
        inside = setting.ceilings
        if float(inside.domain) == float(self.across.domain):
            return inside
        return replace(inside, domain=np.where(devices <= self.node, inside.domain, self.across.domain))


def node_size(machine: Machine, *, stated: bool) -> int:
    """Return the devices of a node: as stated, as one scale-up link joins, one for what is no card, else of a usual server."""
    device = machine.device
    if stated:
        return machine.per_node
    linked = device.scaleup_devices if device.scaleup_bytes_per_s is not None else 1
    return max(linked, NODE_OF_CARDS if device.kind == "gpu" else 1)


def degrees_of(
    table: OpTable, device: Device, *, node: int, most: int, fixed: Mapping[str, Sequence[int]]
) -> NDArray[np.int64]:
    """Return every combination of tp, pp, ep, dp that the model divides into and a node holds, (combinations, 4).

    Tensor parallelism deals out whole heads and stays inside a node (rule 9); KV heads divide it or are copied; stages hold
    the same number of layers; experts are dealt evenly to all devices that share a copy's attention. A copy larger than a
    node takes whole nodes, and only where the network between them is known.

    Args:
        table: the model.
        device: what it runs on.
        node: devices per node.
        most: most devices of one copy.
        fixed: degrees to try in place of powers of two, by name.

    Raises:
        QuantityError: the combinations are too many to go through.
    """
    experts = int(table.products.copies.max(initial=1.0))
    tried = {
        "tp": fixed.get("tp", doubling(min(node, most))), "pp": fixed.get("pp", doubling(most)),
        "dp": fixed.get("dp", doubling(most) if experts > 1 else (1,)), "ep": fixed.get("ep", (0,)),
    }  # fmt: skip
    count = prod(len(values) for values in tried.values())
    if count > MOST_DEGREES:
        raise QuantityError(
            f"{count:.1e} combinations of parallel degrees", place="tp, pp, dp, ep", mend="narrow a range of degrees"
        )
    found = []
    for tp, pp, dp, ep in product(*(tried[name] for name in ("tp", "pp", "dp", "ep"))):
        total = tp * pp * dp
        spread = total % node == 0 and device.scaleout_bytes_per_s is not None
        if total > most or tp > node or (total > node and not spread) or not _deals(table, tp, pp):
            continue
        shared = tp * dp
        widths = (ep,) if ep else ((1, shared) if dp == 1 else (shared,))
        found += [
            (tp, pp, width, dp) for width in dict.fromkeys(widths)
            if width == 1 or (width <= min(shared, experts) and experts % width == 0 and shared % width == 0)
        ]  # fmt: skip
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def _deals(table: OpTable, tp: int, pp: int) -> bool:
    """Return whether heads and layers are dealt out evenly."""
    s = table.scores
    main = s.stream == MAIN
    heads, cached = s.heads[main], s.kv_heads[main]
    even = not bool(np.any(heads % tp)) and not bool(np.any((cached % tp > 0) & (tp % np.maximum(cached, 1) > 0)))
    return even and table.layers % pp == 0


def space_of(
    setting: Setting,
    across: Ceilings,
    wanted: Wanted,
    ranges: Mapping[str, Any],
    *,
    node: int,
    there: float,
    most: int,
    quality: Quality,
) -> Space:
    """Return all that is tried of one model on one kind of device.

    Args:
        setting: the model on one node.
        across: ceilings of several nodes.
        wanted: demand and lengths.
        ranges: values to try in place of the default ones, as ``plan.ranges.read_ranges`` returns them.
        node: devices per node.
        there: devices there are; infinity: any number.
        most: most devices of one copy.
        quality: floor of quality, for formats that are not stated.

    Raises:
        RequestError: a stated range leaves nothing that this model can take.
    """
    table, device = setting.table, setting.machine.device
    decoder = table.kind == "decoder"
    fixed = {name: ranges[name] for name in ("tp", "pp", "ep", "dp") if name in ranges}
    degrees = degrees_of(table, device, node=node, most=most, fixed=fixed)
    weights, kv = formats_of(setting, quality=quality)
    weights = tuple(n for n in ranges.get("weights", weights) if n == "auto" or runs(n, device))
    kv = tuple(n for n in ranges.get("kv", kv) if n == "auto" or runs(n, device))
    chunks = (0, SMALL_CHUNK) if decoder and setting.chunk > SMALL_CHUNK else (0,)
    apart = (
        (0.0, 1.0) if decoder and device.scaleout_bytes_per_s is not None and wanted.prompt >= SHORT_PROMPT else (0.0,)
    )
    stated = ranges.get("disaggregated", "auto")
    numeric = {
        "chunk": ranges.get("chunk", chunks), "host_weights": ranges.get("host_weights", (0.0,)),
        "draft_tokens": ranges.get("draft_tokens", (0, DRAFTED) if decoder and "acceptance" in ranges else (0,)),
        "disaggregated": {"auto": apart, "yes": (1.0,), "no": (0.0,)}[stated] if isinstance(stated, str) else stated,
    }  # fmt: skip
    if device.host_bytes_per_s is None:
        numeric["host_weights"] = tuple(share for share in numeric["host_weights"] if share == 0)
    return Space(
        setting, across, node, there, degrees, weights, kv, _reuse(wanted, ranges, device), numeric,
        ranges.get("batch", batch_steps(1, LARGEST_BATCH)),
    )  # fmt: skip


def _reuse(wanted: Wanted, ranges: Mapping[str, Any], device: Device) -> tuple[tuple[float, float], ...]:
    """Return pairs of prefix_hit and offload_hit: each off and, where such a share is stated, on."""
    prefix = ranges.get("prefix_hit", (0.0, wanted.shared_prefix))
    linked = device.host_bytes_per_s is not None
    reused = ranges.get("offload_hit", (0.0, wanted.reused_context) if linked else (0.0,))
    if len(prefix) * len(reused) > MOST_DEGREES:
        raise QuantityError(
            f"{len(prefix) * len(reused):.1e} pairs of prefix_hit and offload_hit", place="prefix_hit, offload_hit", mend="narrow one of the two"
        )  # fmt: skip
    pairs = tuple(dict.fromkeys((float(a), float(b)) for a, b in product(prefix, reused) if a + b <= 1))
    if not pairs:
        raise RequestError(
            "prefix_hit + offload_hit is more than the whole prompt", place="prefix_hit", mend="lower one of the two"
        )
    return pairs

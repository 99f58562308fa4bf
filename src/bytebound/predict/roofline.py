"""Lay a ledger on ceilings: seconds per row, and the resource each second is spent on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.estimate import RESOURCES
from bytebound.errors import PhysicsError
from bytebound.ledger.ledger import (
    ALL_REDUCE,
    ALL_TO_ALL,
    ATTENTION,
    CLASS_NAMES,
    COLLECTIVE,
    CONTEXT,
    EXPERT,
    GEMM,
    HOST,
    SCALE_OUT,
    SEND,
    Ledger,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

WEIGHT, KV, ACTIVATION, COMPUTE, SCALE_UP_LINK, SCALE_OUT_LINK, HOST_LINK, OVERHEAD = range(8)
TIME_RESOURCES = RESOURCES[1:]
"""What a second can be spent on; indices are the constants above."""


@dataclass(frozen=True, slots=True)
class Points:
    """A measured curve: ``value`` (points,) at ``at`` (points,), rising; beyond the last point its last slope goes on."""

    at: Array
    value: Array

    def along(self, x: Array) -> Array:
        """Return the curve at ``x``: linear between points, level before the first."""
        inside = np.interp(x, self.at, self.value)
        if len(self.at) < 2:
            return np.asarray(inside)
        slope = max((self.value[-1] - self.value[-2]) / (self.at[-1] - self.at[-2]), 0.0)
        return np.asarray(inside + slope * np.maximum(x - self.at[-1], 0.0))


@dataclass(frozen=True, slots=True)
class Costs:
    """What an engine really costs on a machine, from a calibration; takes the place of shares and floors.

    Args:
        body, head: seconds per weight byte by FLOP per weight byte, of the layers' products and of the output matrix.
        attention: seconds per query head by keys per query.
        s_per_pair: seconds per query-key pair.
    """

    body: Points
    head: Points
    attention: Points
    s_per_pair: float


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a device can do at best, and which share of it kernels attain. Any field may be an array over requests.

    Args:
        memory_bytes: memory the driver shows [B]. memory_bytes_per_s: datasheet bandwidth [B/s].
        flop_per_s: dense peak per entry of ``ledger.MATH``, (dtypes,) or (dtypes, requests) [FLOP/s].
        compute_share, memory_share: attainable share of the two roofs per operator class and weight form
            (``facts.formats.FORMS``), (classes, forms).
        floor_s: launch floor per kernel and class, (classes,) [s]; collectives: latency per operation.
        scaleup, scaleout, host: link rates per device and direction [B/s]; ``domain`` devices one scale-up link joins.
        link_share: attainable share of a link.
        decode, prefill: an engine's calibrated costs, or None: shares and floors are used.
    """

    memory_bytes: Array
    memory_bytes_per_s: Array
    flop_per_s: Array
    compute_share: Array
    memory_share: Array
    floor_s: Array
    scaleup_bytes_per_s: Array
    scaleout_bytes_per_s: Array
    host_bytes_per_s: Array
    domain: Array
    link_share: Array
    scaleout_floor_s: Array
    decode: Costs | None = None
    prefill: Costs | None = None

    @property
    def requests(self) -> int:
        """Requests the ceilings vary over; 1 where every ceiling is one number."""
        return max(
            np.shape(getattr(self, name))[-1] if np.ndim(getattr(self, name)) > own else 1
            for name, own in OWN_AXES.items()
        )

    def bare(self) -> Ceilings:
        """Return these ceilings with whole links and no latency: what traffic alone costs."""
        return replace(
            self, link_share=np.asarray(1.0), floor_s=np.zeros_like(self.floor_s), scaleout_floor_s=np.asarray(0.0)
        )

    def part(self, index: slice | NDArray[np.int64]) -> Ceilings:
        """Return the ceilings of some of the requests."""
        cut = {
            name: getattr(self, name)[..., index]
            for name, own in OWN_AXES.items()
            if np.ndim(getattr(self, name)) > own and np.shape(getattr(self, name))[-1] > 1
        }
        return replace(self, **cut)


OWN_AXES = {
    f.name: 1 if f.name in {"flop_per_s", "compute_share", "memory_share", "floor_s"} else 0
    for f in fields(Ceilings)
    if f.name not in {"decode", "prefill"}
}
OWN_AXES |= dict.fromkeys(("compute_share", "memory_share", "floor_s"), 2)
"""Axes of a ceiling that are its own (dtypes); one more is the axis of requests. Shares and floors have none."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one step. ``rows`` (rows, requests) with repeats; ``spent`` (time resources, requests); ``total`` their sum.

    ``floor_s`` is the physical floor: every byte at datasheet bandwidth or every FLOP at peak, whichever is longer.
    """

    rows: Array
    spent: Array
    total: Array
    floor_s: Array


def lay_on(
    ledger: Ledger,
    ceilings: Ceilings,
    *,
    host_s: Array | float = 0.0,
    launch_s: float = 0.0,
    costs: Costs | None = None,
) -> Timing:
    """Return the time of one step: per row ``floor × launches`` and both roofs joined (see ``join``).

    Rows run one after another. Collectives take ``(√latency + √(traffic / (link × share)))²``: between the two a message is
    neither (measured exponent 0.55; latency plus rate alone misses by 8 to 20 %, this by 3 to 8 %).

    Args:
        ledger: one step on one device.
        ceilings: the device.
        host_s: host time per step that nothing hides [s].
        launch_s: host time to start one kernel, hidden behind the kernels as long as they take longer: the step takes the
            hypotenuse of both [s].
        costs: the engine's calibrated costs; products and attention then take those, never under the roofs. Time above
            the bytes' own is spent on computing.

    Raises:
        PhysicsError: the result is under the floor (a bug of ours).

    Source: Williams, Waterman, Patterson, CACM 52(4) 2009, per operator, with Hockney's latency term.
    Bounds: an estimate; never under ``floor_s``.
    """
    moved = _moved(ledger)
    if costs is None:
        compute_s, memory_s, launches = _row_times(ledger, ceilings, moved)
        floor_s = np.maximum(
            (ledger.flops * (ledger.repeat / rates(ledger, ceilings))).sum(axis=0),
            (moved * ledger.repeat).sum(axis=0) / ceilings.memory_bytes_per_s,
        )
        body, by_compute = join(compute_s, memory_s, ledger.op_class)
    else:
        compute_s, memory_s, launches = _floors(ledger, ceilings, moved)
        floor_s = np.maximum((compute_s * ledger.repeat).sum(axis=0), (memory_s * ledger.repeat).sum(axis=0))
        body = np.maximum(np.maximum(compute_s, memory_s), _calibrated(ledger, costs))
        by_compute = np.where(compute_s > memory_s, 1.0, 1 - memory_s / np.maximum(body, 1e-300))
    net = np.flatnonzero(ledger.pattern > 0)
    up_s, out_s, host_link_s, waiting_s = _moving(ledger, ceilings, net)
    body = body * ledger.repeat
    launched = launches * ledger.repeat
    rows = body + launched
    width = max(rows.shape[1], up_s.shape[1], out_s.shape[1], host_link_s.shape[1])
    if len(net):
        rows = rows if rows.shape[1] == width else np.repeat(rows, width, axis=1)
        rows[net] += (up_s + out_s + host_link_s + waiting_s) * ledger.repeat[net]
    computing = body * by_compute
    per_byte = (body - computing) / np.maximum(moved, LEAST_S)
    spent = np.empty((len(TIME_RESOURCES), width))
    spent[WEIGHT] = (per_byte * ledger.weight_bytes).sum(axis=0)
    spent[KV] = (per_byte * ledger.kv_bytes).sum(axis=0)
    spent[ACTIVATION] = (per_byte * ledger.activation_bytes).sum(axis=0)
    spent[COMPUTE] = computing.sum(axis=0)
    for index, seconds in ((SCALE_UP_LINK, up_s), (SCALE_OUT_LINK, out_s), (HOST_LINK, host_link_s)):
        spent[index] = (seconds * ledger.repeat[net]).sum(axis=0)
    spent[OVERHEAD] = launched.sum(axis=0) + (waiting_s * ledger.repeat[net]).sum(axis=0)
    if launch_s:
        device_s = spent.sum(axis=0)
        both_s = np.hypot(device_s, launch_s * started_kernels(ledger))
        spent *= device_s / np.maximum(both_s, 1e-300)  # what a faster device would save
        spent[OVERHEAD] += both_s - spent.sum(axis=0)
    spent[OVERHEAD] += host_s
    total = spent.sum(axis=0)
    if bool(np.any(total < floor_s * (1 - 1e-9))) or not bool(np.all(np.isfinite(total))):
        raise PhysicsError("a step came out faster than its bytes over peak bandwidth or its FLOPs over peak rate")
    return Timing(rows=rows, spent=spent, total=total, floor_s=floor_s)


SUMMED = np.array([kind in {ATTENTION, CONTEXT, EXPERT} for kind in range(len(CLASS_NAMES))])
"""Classes whose kernels overlap neither roof with the other: attention (softmax between two products) and grouped experts
(tiles of few tokens). The rest join as a hypotenuse."""


LEAST_S = 1e-300
"""What stands in for no time at all in a denominator."""


def join(compute_s: Array, memory_s: Array, op_class: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the seconds of kernels from their seconds under each roof, and the share of them that faster computing shortens.

    ``√(compute² + memory²)``, or their sum for the classes in ``SUMMED``; the share is the elasticity of the result.
    Seconds have shape (rows, requests), classes (rows,).

    Source: kernel tables of aiconfigurator-core 0.12 (A100 to B200): free exponents of a p-norm fall at 1.5 to 2.9 for
    products (a plain maximum is 1 to 6 points worse in the 90 % error) and at 1 for attention and fused experts.
    Bounds: never under the longer of the two.
    """
    body = compute_s + memory_s
    share = np.empty_like(body)
    added, rooted = np.flatnonzero(SUMMED[op_class]), np.flatnonzero(~SUMMED[op_class])
    share[added] = compute_s[added] / np.maximum(body[added], LEAST_S)
    square = compute_s[rooted] ** 2
    total = square + memory_s[rooted] ** 2
    body[rooted] = np.sqrt(total)
    share[rooted] = square / np.maximum(total, LEAST_S)
    return body, share


def rates(ledger: Ledger, ceilings: Ceilings) -> Array:
    """Return the peak rate each row multiplies at, (rows, requests) [FLOP/s]."""
    peak = ceilings.flop_per_s
    if peak.ndim == 1:
        return np.asarray(np.take(peak, ledger.math, axis=0))
    return np.asarray(np.take_along_axis(peak, _wide(ledger.math, peak), axis=0))


def started_kernels(ledger: Ledger) -> Array:
    """Return the kernels one step starts, collectives among them, (requests,)."""
    return np.asarray((ledger.launches * ledger.repeat).sum(axis=0))


def _moved(ledger: Ledger) -> Array:
    """Return the bytes one occurrence of each row moves to and from memory, (rows, requests)."""
    return np.asarray(ledger.weight_bytes + ledger.kv_bytes + ledger.activation_bytes)


def _row_times(ledger: Ledger, ceilings: Ceilings, moved: Array) -> tuple[Array, Array, Array]:
    """Return (compute seconds, memory seconds, launch seconds) of one occurrence of each row, (rows, requests)."""
    rate = rates(ledger, ceilings)
    compute_share = ceilings.compute_share[ledger.op_class[:, None], ledger.form]
    memory_share = ceilings.memory_share[ledger.op_class[:, None], ledger.form]
    floor = np.where(ledger.op_class == COLLECTIVE, 0.0, ceilings.floor_s[ledger.op_class])[:, None]
    return (
        ledger.flops / (rate * compute_share),
        moved / (ceilings.memory_bytes_per_s * memory_share),
        floor * ledger.launches,
    )


def _floors(ledger: Ledger, ceilings: Ceilings, moved: Array) -> tuple[Array, Array, Array]:
    """Return what no kernel can beat, of one occurrence of each row: FLOPs at the fastest rate, bytes at full bandwidth."""
    fastest = ceilings.flop_per_s.max(axis=0)
    return ledger.flops / fastest, moved / ceilings.memory_bytes_per_s, np.zeros((1, 1))


def _calibrated(ledger: Ledger, costs: Costs) -> Array:
    """Return the calibrated seconds of one occurrence of each row; 0 where the calibration says nothing of the row."""
    streamed = ledger.weight_bytes > 0
    intensity = np.divide(
        ledger.flops, ledger.weight_bytes, out=np.zeros_like(ledger.flops * ledger.weight_bytes), where=streamed
    )
    is_head = np.array([role == "head" for role in ledger.roles])[:, None]
    product = ledger.weight_bytes * np.where(is_head, costs.head.along(intensity), costs.body.along(intensity))
    keys = np.divide(
        ledger.pairs, ledger.queries, out=np.zeros_like(ledger.pairs * ledger.queries), where=ledger.queries > 0
    )
    attention = ledger.queries * costs.attention.along(keys) + ledger.pairs * costs.s_per_pair
    kind = ledger.op_class[:, None]
    return np.where(
        (kind == GEMM) | (kind == EXPERT), product, np.where((kind == ATTENTION) | (kind == CONTEXT), attention, 0.0)
    )


def row_bounds(ledger: Ledger, ceilings: Ceilings, costs: Costs | None = None) -> NDArray[np.int64]:
    """Return the index into ``TIME_RESOURCES`` that each row spends most of its time on, (rows, requests)."""
    moved = _moved(ledger)
    compute_s, memory_s, launches = _row_times(ledger, ceilings, moved)
    if costs is not None:
        compute_s, memory_s, launches = _floors(ledger, ceilings, moved)
        compute_s = np.maximum(compute_s, _calibrated(ledger, costs) - memory_s)
    kinds = np.stack(np.broadcast_arrays(ledger.weight_bytes, ledger.kv_bytes, ledger.activation_bytes))
    roof = np.where(compute_s > memory_s, COMPUTE, kinds.argmax(axis=0))
    bound = np.where(launches > np.maximum(compute_s, memory_s), OVERHEAD, roof)
    net = np.flatnonzero(ledger.pattern > 0)
    links = np.stack(np.broadcast_arrays(*_network(ledger, ceilings, net)))
    bound[net] = np.where(links.sum(axis=0) > 0, SCALE_UP_LINK + links.argmax(axis=0), OVERHEAD)
    return np.asarray(bound, dtype=np.int64)


def _wide(math: NDArray[np.int64], peak: Array) -> NDArray[np.int64]:
    return np.broadcast_to(math, (math.shape[0], max(math.shape[1], peak.shape[1])))


def between(latency_s: Array | float, traffic_s: Array) -> Array:
    """Return the seconds of a collective: ``(√latency + √traffic)²``, see ``lay_on``."""
    return np.asarray((np.sqrt(latency_s) + np.sqrt(traffic_s)) ** 2)


def _moving(ledger: Ledger, c: Ceilings, net: NDArray[np.int64]) -> tuple[Array, Array, Array, Array]:
    """Return the seconds of ``_network`` that each link's rate moves, and the rest, which is latency.

    Of ``t = (√latency + √traffic)²`` faster links shorten ``√(traffic × t)``: so the parts of a step are its elasticities.
    """
    traffic = _traffic(ledger, c, net)
    links = _waited(ledger, c, net, traffic)
    up, out, host = (np.sqrt(whole * rate) for whole, rate in zip(links, traffic, strict=True))
    return up, out, host, sum(links) - (up + out + host)


def _network(ledger: Ledger, c: Ceilings, net: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Return seconds per occurrence of the rows ``net`` on the scale-up, scale-out and host links, each (net, requests)."""
    return _waited(ledger, c, net, _traffic(ledger, c, net))


def _waited(
    ledger: Ledger, c: Ceilings, net: NDArray[np.int64], traffic: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """Return the seconds of ``_traffic`` with the latency of collectives and hops, see ``between``."""
    up, out, host = traffic
    launches, rings = ledger.launches[net], _is_ring(ledger, net)
    up = np.where(up > 0, between(launches * c.floor_s[COLLECTIVE], up), 0.0)
    out = np.where(rings & (out > 0), between(launches * c.scaleout_floor_s, out), out)
    return up, out, host


def _is_ring(ledger: Ledger, net: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.isin(ledger.pattern[net, None], (ALL_REDUCE, SEND, ALL_TO_ALL))


def _traffic(ledger: Ledger, c: Ceilings, net: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Return seconds per occurrence of the rows ``net`` by rate alone, on each link (net, requests).

    A group inside one scale-up domain uses that link alone. A larger group works in two levels: reduce-scatter and
    all-gather inside the domain, the reduced part between domains. A pipeline's hops cross nodes as often as its devices do.

    Source: ring all-reduce 2 (n − 1)/n S, all-gather and all-to-all (n − 1)/n S (Thakur et al. 2005); hierarchical sum
    of the two levels (NCCL tree/ring documentation).
    """
    if not len(net):
        zero = np.zeros((0, 1))
        return zero, zero, zero
    pattern = ledger.pattern[net, None]
    n, payload = ledger.group[net], ledger.network_bytes[net]
    local = np.minimum(n, c.domain)
    nodes = np.maximum(np.ceil(n / c.domain), 1.0)
    reduce, send = pattern == ALL_REDUCE, pattern == SEND
    up_volume = np.where(reduce, 2 * (local - 1) / local * payload, (local - 1) / local / nodes * payload)
    out_volume = np.where(reduce, 2 * (nodes - 1) / nodes * payload / local, (nodes - 1) / nodes * payload)
    crossing = np.minimum((nodes - 1) / ledger.repeat[net], 1.0)
    up_volume = np.where(send, (1 - crossing) * payload, up_volume)
    out_volume = np.where(send, crossing * payload, out_volume)
    rings = _is_ring(ledger, net)
    up = np.where(rings, up_volume, 0.0) / (c.scaleup_bytes_per_s * c.link_share)
    crossed = np.where(rings, out_volume, np.where(pattern == SCALE_OUT, payload, 0.0))
    out = crossed / (c.scaleout_bytes_per_s * c.link_share)
    host = np.where(pattern == HOST, payload / (c.host_bytes_per_s * c.link_share), 0.0)
    return up, out, host

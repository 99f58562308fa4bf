"""Fit kernel times: a floor, and the share of each datasheet ceiling that one operator's kernels attain on one device."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from bytebound.errors import RequestError, UnfinishedError
from bytebound.facts.catalogue import built_in
from bytebound.predict.ceilings import FALLBACKS
from bytebound.truth.kernels import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.device import Device
    from bytebound.truth.kernels import Kernels

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

STORAGE: Mapping[str, tuple[float, float, str]] = MappingProxyType(
    {
        "bf16": (2.0, 2.0, "bf16"),
        "fp16": (2.0, 2.0, "fp16"),
        "fp8": (1.0, 1.0, "fp8"),
        "fp8-block": (1.0, 1.0, "fp8"),
        "nvfp4": (0.5625, 0.5625, "fp4"),
        "int8": (1.0, 1.0, "int8"),
        "int8-weights": (1.0, 2.0, "bf16"),
        "int4-weights": (0.515625, 2.0, "bf16"),
        "mxfp4-weights": (0.53125, 2.0, "bf16"),
        "mxfp4-mxfp8": (0.53125, 1.03125, "fp8"),
        "int4-fp8": (0.515625, 1.0, "fp8"),
    }
)
"""Bytes of a weight (with its block scales) and of an input element, and the dtype of the product. Scales: one byte per 16
(nvfp4) or 32 (mx) elements, two bytes per 128 (int4), by the formats' definitions."""

EXPONENTS: Mapping[str, float] = MappingProxyType(
    {
        "gemm": 2.0,
        "attention-decode": 2.0,
        "mla-decode": 4.0,
        "attention-prefill": 1.0,
        "mla-prefill": 1.0,
        "moe": 2.0,
        "all-reduce": 0.6,
        "collective": 0.6,
    }
)
"""How an operator's terms add: ``t = floor + (compute^p + memory^p)^(1/p)``; collectives ``(floor^p + link^p)^(1/p)``.
p = 2 is a smooth maximum, 1 a sum, below 1 a sum with a long passage from one to the other. Chosen on A100, H100, H200 and B200."""

LATENT = 576
"""Elements a token keeps in the cache of multi-head latent attention: 512 compressed and 64 rotary (DeepSeek-V2, arXiv 2405.04434)."""
LATENT_READ = LATENT + 512
LATENT_HEADS = (192, 128)
"""Head dimensions of keys and values of the same attention in prefill, uncompressed."""
BALANCED = "balanced"
"""Routing that gives every expert the same."""
LEAST_ROWS = 20
UNCACHED = 2.0
"""Rows whose streamed bytes are under so many times the cache may never have left it."""
WARM = frozenset({"attention-decode", "mla-decode"})
"""Operators always fitted strictly: timed alone they reread one small cache, in a model every layer has its own."""
CACHED_ROWS = 0.002
"""Share of rows faster than the datasheet bandwidth from which a table counts as read from cache."""
BRIEF_S = 5e-7
"""Rows whose bytes take less than this are kept all the same: they fix the floor."""
FLOOR_S = (1e-8, 1e-2)
SHARE = (1e-3, 8.0)
"""Where a fit may look. A share that ends above 1 is an error, not a bound."""


@dataclass(frozen=True, slots=True)
class Loads:
    """Work of kernel rows against a device's datasheet, each (rows,) or a scalar.

    Args:
        compute_s: FLOPs over the dense peak of their dtype [s].
        memory_s: bytes over the datasheet bandwidth [s]; of collectives, bytes over the link rate.
        streamed_bytes: what is read once per use (weights, KV cache) [B].
        cache_bytes: the device's last cache [B].
    """

    compute_s: Floats
    memory_s: Floats
    streamed_bytes: Floats
    cache_bytes: float

    def where(self, chosen: Mask) -> Loads:
        """Return the rows of ``chosen``."""
        return replace(
            self,
            compute_s=self.compute_s[chosen],
            memory_s=self.memory_s[chosen],
            streamed_bytes=self.streamed_bytes[chosen],
        )

    def uncached(self, seconds: Floats, *, strict: bool = False) -> Mask:
        """Return the rows that are not served from cache.

        Where rows that fit the cache twice over beat the datasheet bandwidth, all such rows are left out, but those that
        show the floor or the compute rate; elsewhere (caches flushed, or too slow to tell) every row is kept.

        Args:
            seconds: measured (rows,) [s].
            strict: leave such rows out everywhere.
        """
        small = self.streamed_bytes < UNCACHED * self.cache_bytes
        faster = small & (self.memory_s > seconds)
        if not strict and np.mean(faster) < CACHED_ROWS:
            return ~faster
        return np.asarray(~small | (self.memory_s < BRIEF_S) | (self.compute_s > 2 * self.memory_s))


@dataclass(frozen=True, slots=True)
class Fit:
    """Parameters of one group of rows.

    Args:
        floor_s: least time of the kernel [s]; of collectives, the latency.
        bandwidth_share: attained share of the datasheet bandwidth, or of the link; None where no row shows it.
        compute_share: attained share of the dense peak, or None.
        exponent: how the terms add (``EXPONENTS``).
        ranges: parameter -> 10 and 90 % of what single rows that show it imply.
        median_error, p90_error: of the absolute log residuals.
        rows: rows fitted.
    """

    floor_s: float
    bandwidth_share: float | None
    compute_share: float | None
    exponent: float
    ranges: Mapping[str, tuple[float, float]]
    median_error: float
    p90_error: float
    rows: int

    def seconds(self, loads: Loads) -> Floats:
        """Return the predicted time of each row [s]."""
        shares = (self.bandwidth_share or 1.0, self.compute_share or 1.0)
        return kernel_s(self.floor_s, *shares, loads=loads, exponent=self.exponent)

    def errors(self, loads: Loads, seconds: Floats) -> Floats:
        """Return log(predicted / measured) of each row."""
        return np.log(self.seconds(loads) / seconds)


def kernel_s(
    floor_s: float, bandwidth_share: float, compute_share: float, *, loads: Loads, exponent: float = 2.0
) -> Floats:
    """Return ``floor + ((compute / share)^p + (memory / share)^p)^(1/p)`` of each row [s]; for p < 1 the floor is a term too.

    Bounds: no less than the larger of the two roofs for p >= 1, and than their datasheet times for shares of at most 1.
    Source: the roofline (Williams, Waterman, Patterson, CACM 52(4) 2009) with Hockney's latency, corner smoothed.
    """
    compute, memory = loads.compute_s / compute_share, loads.memory_s / bandwidth_share
    if exponent < 1:
        return np.asarray((floor_s**exponent + memory**exponent) ** (1 / exponent))
    if exponent == 1:
        return np.asarray(floor_s + compute + memory)
    if exponent == 2:
        return np.asarray(floor_s + np.hypot(compute, memory))
    return np.asarray(floor_s + (compute**exponent + memory**exponent) ** (1 / exponent))


def fit_kernels(loads: Loads, seconds: Floats, *, exponent: float = 2.0, most_share: float = 1.0) -> Fit:
    """Return the parameters that bring predicted nearest to measured, in log time, robustly.

    A term that carries more than half of the time in fewer than 5 % of the rows is left at its datasheet rate: nothing
    can be said of it.

    Args:
        loads: of the rows, artefacts already left out.
        seconds: measured (rows,) [s].
        exponent: how the terms add.
        most_share: the greatest bandwidth share physics allows: 1, or more where a switch adds up for the devices.

    Raises:
        RequestError: fewer than ``LEAST_ROWS`` rows.
        UnfinishedError: the fit does not converge, ends at an end of where it may look, or a share ends above its limit.
    """
    if len(seconds) < LEAST_ROWS:
        raise RequestError(f"{len(seconds)} kernel rows are too few to fit", mend=f"give {LEAST_ROWS} or more")
    free = np.array([True, True, bool(np.any(loads.compute_s > 0))])
    least = np.clip(float(np.quantile(seconds, 0.02)), 2 * FLOOR_S[0], FLOOR_S[1] / 2)
    start = np.log([least, 0.7, 0.5])
    found, inside = _solved(loads, seconds, exponent, free, start)
    parts = _parts(np.minimum(found, 0.0), loads, seconds)
    shown = np.array([True, *(np.mean(part > 0.5) >= 0.05 for part in parts)])
    if not np.array_equal(free & shown, free):
        free &= shown
        start = np.where(free, found, 0.0)
        found, inside = _solved(loads, seconds, exponent, free, start)
    if not inside:
        raise UnfinishedError(
            "a fitted kernel parameter ends outside anything physical",
            mend="are the rows of one kernel, timed on the device?",
        )
    floor_s, bandwidth, compute = map(float, np.exp(found))
    for name, share, limit in (("bandwidth", bandwidth, most_share), ("compute", compute, 1.0)):
        if share > limit:
            raise UnfinishedError(
                f"the fitted {name} share is {share:.2f}, above {limit:.2f}",
                mend="the rows are read from cache, or their bytes or FLOPs are counted too high",
            )
    fit = Fit(
        floor_s, bandwidth if free[1] else None, compute if free[2] else None, exponent, {}, 0.0, 0.0, len(seconds)
    )
    errors = np.abs(fit.errors(loads, seconds))
    return replace(
        fit,
        ranges=MappingProxyType(_ranges(fit, found, loads, seconds, most_share)),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
    )


def _solved(loads: Loads, seconds: Floats, exponent: float, free: Mask, start: Floats) -> tuple[Floats, bool]:
    """Return log(floor, bandwidth share, compute share) and whether they lie inside where a fit may look."""
    least_squares = importlib.import_module("scipy.optimize").least_squares

    low = np.log([FLOOR_S[0], SHARE[0], SHARE[0]])
    high = np.log([FLOOR_S[1], SHARE[1], SHARE[1]])
    target = np.log(seconds)

    def residuals(values: Floats) -> Floats:
        full = np.zeros(3)
        full[free] = values
        return np.log(kernel_s(*np.exp(full), loads=loads, exponent=exponent)) - target

    result = least_squares(
        residuals, start[free], bounds=(low[free], high[free]), loss="soft_l1", f_scale=0.1, max_nfev=200
    )
    if not result.success or not np.all(np.isfinite(result.x)):
        raise UnfinishedError("the fit of kernel times does not converge", mend="are the rows of one kernel?")
    full = np.zeros(3)
    full[free] = result.x
    return full, not bool(np.any((result.x - low[free] < 1e-6) | (high[free] - result.x < 1e-6)))


def _parts(found: Floats, loads: Loads, seconds: Floats) -> tuple[Floats, Floats]:
    """Return the share of the measured time that memory and compute account for."""
    return loads.memory_s / np.exp(found[1]) / seconds, loads.compute_s / np.exp(found[2]) / seconds


def _ranges(
    fit: Fit, found: Floats, loads: Loads, seconds: Floats, most_share: float
) -> dict[str, tuple[float, float]]:
    """Return 10 and 90 % of each parameter as implied by the rows that spend over 80 % of their time on it.

    A share that a single row puts above its limit (its bytes were in cache, or fewer than counted) is cut there.
    """
    memory, compute = _parts(found, loads, seconds)
    ratio = fit.seconds(loads) / seconds
    shown = {
        "floor_s": (fit.floor_s, fit.floor_s / fit.seconds(loads) > 0.8, 1 / ratio),
        "bandwidth_share": (fit.bandwidth_share, memory > 0.8, ratio),
        "compute_share": (fit.compute_share, compute > 0.8, ratio),
    }
    limits = {"floor_s": np.inf, "bandwidth_share": most_share, "compute_share": 1.0}
    return {
        name: (
            value * min(float(np.quantile(by[rows], 0.1)), 1.0),
            min(value * max(float(np.quantile(by[rows], 0.9)), 1.0), limits[name]),
        )
        for name, (value, rows, by) in shown.items()
        if value is not None and int(rows.sum()) >= 10
    }


def kernel_loads(kernels: Kernels) -> Loads:
    """Return the work of rows of one system, one dtype, one storage dtype and one label.

    Raises:
        RequestError: rows of several systems, dtypes or labels; or a device without the ceiling needed.
    """
    for name in ("system", "dtype", "storage", "label"):
        if len(set(getattr(kernels, name).tolist())) > 1:
            raise RequestError(f"kernel rows of more than one {name}", mend="fit them apart: Kernels.groups")
    device = built_in().device(SYSTEMS[str(kernels.system[0])])
    weight, activation, math = STORAGE[str(kernels.dtype[0])]
    if kernels.operator in {"all-reduce", "collective"}:
        return _collective(kernels, device, element_bytes=activation)
    stored = STORAGE[str(kernels.storage[0])][0] if kernels.storage[0] else weight
    if kernels.operator == "mla-decode" and kernels.storage[0] == "fp8":
        math = "fp8"
    counted = {
        "gemm": _gemm,
        "moe": _moe,
        "attention-decode": _decode,
        "attention-prefill": _prefill,
        "mla-decode": _latent_decode,
        "mla-prefill": _latent_prefill,
    }[kernels.operator]
    flops, moved, streamed = counted(kernels, weight, activation, stored)
    return Loads(
        flops / _peak(device, math),
        moved / device.memory_bytes_per_s.value,
        streamed,
        device.cache_bytes.value if device.cache_bytes else 0.0,
    )


def usable(kernels: Kernels) -> Mask:
    """Return which rows resemble a model's layers: products of at least 512 by 512, whole windows, heads of 128, 128 keys.

    Of skewed routing only undivided experts: over several devices the busiest one was timed, and its load is not stated.
    """
    shape = kernels.shape
    if kernels.operator == "gemm":
        return np.asarray((shape["n"] >= 512) & (shape["k"] >= 512) & (shape["m"] <= 16384))
    if kernels.operator == "moe":
        own = (kernels.label == BALANCED) | (shape["ep"] == 1)
        return np.asarray((shape["inner"] / shape["tp"] >= 128) & own)
    if kernels.operator in {"all-reduce", "collective"}:
        return np.asarray(shape["elements"] <= 2**27)
    keys = shape["isl"] + shape["step"]
    least = 128 if kernels.operator.endswith("decode") else 16
    kept = keys >= least
    if "head_dim" in shape:
        grouped = shape["heads"] <= 16 * shape["kv_heads"]
        kept &= (shape["window"] == 0) & (shape["head_dim"] == 128) & grouped
    return np.asarray(kept)


def _peak(device: Device, math: str) -> float:
    for name in FALLBACKS[math]:
        if name in device.flop_per_s:
            return device.flop_per_s[name].value
    raise RequestError(f"{device.id} states no rate for {math} or wider", place=device.id)


Counted = tuple["Floats", "Floats", "Floats"]


def _gemm(kernels: Kernels, weight: float, activation: float, stored: float) -> Counted:
    del stored
    m, n, k = (kernels.shape[name] for name in "mnk")
    return 2 * m * n * k, weight * n * k + activation * m * k + 2 * m * n, weight * n * k


def _moe(kernels: Kernels, weight: float, activation: float, stored: float) -> Counted:
    del stored
    shape = kernels.shape
    inner, experts = shape["inner"] / shape["tp"], shape["experts"] / shape["ep"]
    pairs = shape["tokens"] * shape["topk"] / shape["ep"]
    matrices = np.where(np.char.find(kernels.kernel, "nongated") >= 0, 2.0, 3.0)
    elements = matrices * shape["hidden"] * inner
    passing = pairs * (4 * shape["hidden"] + (2 * (matrices - 1) + activation) * inner)
    if kernels.label[0] == BALANCED:
        touched = np.minimum(experts, np.maximum(pairs, 1))
    else:
        alpha = float(str(kernels.label[0]).rpartition("_")[2])
        touched = np.maximum(experts * power_law_touched(shape["tokens"], shape["topk"], shape["experts"], alpha), 1)
    touched = np.minimum(touched, np.maximum(pairs, 1))
    return 2 * elements * pairs, touched * elements * weight + passing, touched * elements * weight


def power_law_touched(tokens: Floats, topk: Floats, experts: Floats, alpha: float) -> Floats:
    """Return the share of experts that get a token when loads follow a power law, as the source draws them.

    Loads are drawn with density ``x^-alpha`` from 1 to 0.8 tokens (0.01 to 2 where there are fewer pairs than experts), scaled
    to ``tokens topk`` and rounded: an expert is idle when its share rounds to 0. At least ``topk`` are not.
    Source: the collector of ai-dynamo/aiconfigurator (Apache-2.0), ``power_law_logits_v3``; the integrals are ours.
    """
    many = tokens * topk > experts
    least, most = np.where(many, 1.0, 0.01), np.where(many, np.maximum(0.8 * tokens, 1.001), 2.0)
    below, above = least ** (1 - alpha), most ** (1 - alpha)
    mean = (1 - alpha) / (2 - alpha) * (most ** (2 - alpha) - least ** (2 - alpha)) / (above - below)
    threshold = np.clip(0.5 * mean * experts / (tokens * topk), least, most)
    drawn = 1 - (threshold ** (1 - alpha) - below) / (above - below)
    return np.asarray(np.maximum(drawn, topk / experts))


def _decode(kernels: Kernels, weight: float, activation: float, stored: float) -> Counted:
    """No FLOPs: up to 16 query heads per KV head change nothing (times of 64 and 32 heads over 8 are equal)."""
    del weight, activation
    shape = kernels.shape
    keys, heads, dim = shape["isl"] + shape["step"], shape["heads"], shape["head_dim"]
    cache = 2 * stored * shape["batch"] * keys * shape["kv_heads"] * dim
    return np.zeros_like(cache), cache + 4 * shape["batch"] * heads * dim, cache


def _prefill(kernels: Kernels, weight: float, activation: float, stored: float) -> Counted:
    del weight, stored
    shape = kernels.shape
    tokens, heads, dim = shape["batch"] * shape["isl"], shape["heads"], shape["head_dim"]
    pairs = tokens * (shape["isl"] + 1) / 2 + tokens * shape["step"]
    moved = tokens * dim * (2 * activation * shape["kv_heads"] + (2 + activation) * heads)
    return 4 * pairs * heads * dim, moved, np.full_like(moved, np.inf)


def _latent_decode(kernels: Kernels, weight: float, activation: float, stored: float) -> Counted:
    del weight, activation
    shape = kernels.shape
    cache = stored * shape["batch"] * (shape["isl"] + shape["step"]) * LATENT
    flops = 2 * cache / stored / LATENT * shape["heads"] * LATENT_READ
    return flops, cache + 2 * shape["batch"] * shape["heads"] * LATENT_READ, cache


def _latent_prefill(kernels: Kernels, weight: float, activation: float, stored: float) -> Counted:
    del weight, activation, stored
    shape = kernels.shape
    tokens = shape["batch"] * shape["isl"]
    moved = tokens * shape["heads"] * 2 * 2 * sum(LATENT_HEADS)
    flops = tokens * (shape["isl"] + 1 + 2 * shape["step"]) * shape["heads"] * sum(LATENT_HEADS)
    return flops, moved, np.full_like(moved, np.inf)


def _collective(kernels: Kernels, device: Device, *, element_bytes: float) -> Loads:
    """Bytes one device sends: 2 (n-1)/n of the message in an all-reduce, (n-1)/n in the others."""
    shape = kernels.shape
    link = device.scaleup_bytes_per_s or device.host_bytes_per_s
    if link is None:
        raise RequestError(f"{device.id} states no link between devices", place=device.id)
    passes = 2.0 if kernels.operator == "all-reduce" or kernels.label[0] == "all_reduce" else 1.0
    sent = passes * (shape["devices"] - 1) / shape["devices"] * shape["elements"] * element_bytes
    return Loads(np.zeros(len(kernels)), sent / link.value, np.full(len(kernels), np.inf), 0.0)

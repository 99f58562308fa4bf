"""What fits a training machine, and the cheapest change that makes a job fit: every option alone, then combinations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.training import Change, Fitting
from bytebound.documents.work import check_range
from bytebound.errors import RequestError
from bytebound.ledger import training_plan
from bytebound.predict import train_options as options
from bytebound.predict.train_edges import fewest_devices, largest_micro_batch, longest_seq
from bytebound.predict.train_frameworks import runnable
from bytebound.predict.train_memory import chance_of_fitting
from bytebound.predict.training import train_time
from bytebound.units import SECONDS_PER_HOUR, show_capacity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.predict.estimate import Setting
    from bytebound.predict.train_options import Option

    Array = NDArray[Any]
    Pair = tuple[Option, dict[str, Any]]

SURE = 0.9
"""Least probability of fitting that counts as fitting in a search."""
WORTH = 0.98
"""A change, or one more of them, must take at most this share of the time per token to be shown for its speed."""
SHOWN, PER_STEP = 12, 2
NUMBERS = ("zero", "micro_batch", "tp", "pp", "dp", "cp", "ep", "recompute_layers")
"""Fields that vary inside one run of the kernel; each choice of the others is a run of its own."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Options that set numbers, one or none of each axis: every combination side by side.

    ``index`` (axes, candidates) is the place in each axis; ``numbers`` the fields they set; ``count`` how many fields change, ``key``
    which.
    """

    axes: tuple[tuple[tuple[Option | None, dict[str, Any]], ...], ...]
    index: NDArray[np.int64]
    numbers: dict[str, Array]
    count: NDArray[np.int64]
    key: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tried:
    """One run of the kernel: the options it takes as a whole, its grid, and what each candidate gives (candidates,)."""

    taken: tuple[tuple[Option, dict[str, Any]], ...]
    grid: Grid
    total_bytes: Array
    usable_bytes: Array
    host_bytes: Array
    chance: Array
    step_s: Array
    cost: Array
    devices: Array

    @property
    def rank(self) -> int:
        """Quality by its worst option: 0 lossless, 1 near-lossless, 2 less. Options of a grid are lossless."""
        return max((options.QUALITY_ORDER.index(option.quality) for option, _ in self.taken), default=0)

    def of(self, at: int) -> tuple[tuple[Option, ...], dict[str, Any]]:
        """Return the options of a candidate, and the fields they set."""
        chosen = [axis[int(place)] for axis, place in zip(self.grid.axes, self.grid.index[:, at], strict=True)]
        pairs = [*self.taken, *((option, changed) for option, changed in chosen if option is not None)]
        fields_: dict[str, Any] = {}
        for _, changed in pairs:
            fields_ |= changed
        return tuple(option for option, _ in pairs), fields_


def fitting(setting: Setting, work: Train, *, sure: float = SURE) -> Fitting:
    """Return the largest micro-batch and sequence, the fewest devices, and what to change, lossless first and cheapest first.

    Where the job does not fit, changes make it fit; where it does, they make it cheaper. Only what fits with probability ``sure``
    is returned. Every combination of recomputation, offload, loss, optimizer, ZeRO stage, micro-batch and degrees is run, and every
    other option alone; adapters are combined only where nothing else fits.

    Args:
        setting: model and machine.
        work: one request, no arrays.
        sure: least probability of fitting, 0.5 to 0.999.

    Raises:
        RequestError, QuantityError: an array, or ``sure`` out of range.
    """
    if work.shape:
        raise RequestError("a search is for one request, not for an array", place="fit", mend="ask for one at a time")
    check_range("sure", sure, 0.5, 0.999)
    held = replace(work, framework=training_plan.resolve(work, setting.table).framework)
    asked = run(setting, held, (), grid_of(held, ()))
    fits = bool(asked.chance[0] >= sure)
    tried = [*combined(setting, held, fits=fits), *singles(setting, held, fits=fits)]
    chosen = picked(tried, float(asked.cost[0]) if fits else np.inf, sure)
    if not chosen and not fits:
        for adapter in (options.LORA, options.QLORA):
            changed = adapter.changes(held, setting)
            if isinstance(changed, dict):
                chosen += picked(
                    combined(setting, replace(held, **changed), ((adapter, changed),), fits=False), np.inf, sure
                )
    chosen.sort(key=lambda found: (found[0].rank, float(found[0].cost[found[1]])))
    fewest, plan = fewest_devices(setting, held, sure)
    lean = replace(held, recompute="full", recompute_layers=1.0, loss="chunked")
    fewer, leaner = fewest_devices(setting, lean, sure)
    return Fitting(
        largest_micro_batch=largest_micro_batch(setting, held, sure),
        longest_seq=longest_seq(setting, held, sure),
        fewest_devices=fewest,
        changes=tuple(change(setting, work, tried, at, asked) for tried, at in chosen[:SHOWN]),
        notes=(
            *notes(tried, asked, sure=sure, fits=fits, found=bool(chosen)),
            *([f"on {counted(fewest)}: {split(plan)}"] if fewest > 1 else []),
            *([f"on {counted(fewer)} with recompute full and a chunked loss: {split(leaner)}"] if 0 < fewer < (fewest or fewer + 1) else []),
        ),
    )  # fmt: skip


def counted(devices: int) -> str:
    """Return a number of devices in words."""
    return f"{devices:,} device{'s' if devices > 1 else ''}"


def split(plan: dict[str, int]) -> str:
    """Return how devices share the work, in words."""
    degrees = [f"{name} {plan[name]}" for name in ("tp", "pp", "dp") if plan[name] > 1]
    return ", ".join([*degrees, f"ZeRO {plan['zero']}"] if plan["dp"] > 1 else degrees) or "nothing split"


def combined(setting: Setting, work: Train, first: tuple[Pair, ...] = (), *, fits: bool) -> list[Tried]:
    """Return every combination of at most one applicable option per axis, run; ``first`` is taken by all.

    What ``fits`` is not offloaded: that the host link hides behind computing is the least certain part of a step.
    """
    offload = options.OFFLOAD[:1] if fits else options.OFFLOAD
    whole = [
        [None, *applicable(axis, work, setting)]
        for axis in (
            options.RECOMPUTE, offload, options.LOSS, options.KERNEL, options.ATTENTION, options.SEQUENCE_PARALLEL,
            (options.EIGHT_BIT,),
        )
    ]  # fmt: skip
    axes = [
        tuple(applicable(axis, work, setting))
        for axis in (options.zero_options(), options.micro_batch_options(work), options.degree_options(work, setting))
    ]
    partial = tuple(applicable(options.PARTIAL_RECOMPUTE, replace(work, recompute="full"), setting))
    plain, deep = grid_of(work, axes), grid_of(work, [*axes, partial])
    found = []
    for chosen in product(*whole):
        taken = first + tuple(pair for pair in chosen if pair is not None)
        full = any(changed.get("recompute") == "full" for _, changed in taken)
        found.append(run(setting, work, taken, deep if full else plain))
    return found


def singles(setting: Setting, work: Train, *, fits: bool) -> list[Tried]:
    """Return each applicable option that is not combined, alone, run."""
    alone = (*(() if fits else options.NVME), *options.OTHER_STATES, options.FP8, options.LORA, options.QLORA)
    one = grid_of(work, ())
    return [run(setting, work, (pair,), one) for pair in applicable(alone, work, setting)]


def applicable(axis: Sequence[Option], work: Train, setting: Setting) -> list[tuple[Option, dict[str, Any]]]:
    """Return the options that apply, each with the fields it sets."""
    pairs = ((option, option.changes(work, setting)) for option in axis)
    return [(option, changed) for option, changed in pairs if isinstance(changed, dict)]


def grid_of(work: Train, axes: Sequence[tuple[Pair, ...]]) -> Grid:
    """Return every combination of one option, or none, of each axis."""
    open_: tuple[tuple[tuple[Option | None, dict[str, Any]], ...], ...] = tuple(((None, {}), *axis) for axis in axes)
    index = (
        np.indices([len(axis) for axis in open_]).reshape(len(open_), -1) if open_ else np.zeros((0, 1), dtype=np.int64)
    )
    size = index.shape[1]
    numbers = {name: np.full(size, float(getattr(work, name))) for name in NUMBERS}
    count, key = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for axis, place in zip(open_, index, strict=True):
        for name in {name for _, changed in axis for name in changed if name in NUMBERS}:
            numbers[name] = np.array([float(changed.get(name, getattr(work, name))) for _, changed in axis])[place]
        kinds = [
            sum(1 << NUMBERS.index(name) for name in changed if name in NUMBERS and name != "dp") for _, changed in axis
        ]
        key += np.array(kinds)[place]
        count += np.array([kind.bit_count() for kind in kinds])[place]
    return Grid(open_, index, numbers, count, key)


def run(setting: Setting, work: Train, taken: tuple[Pair, ...], grid: Grid) -> Tried:
    """Return a grid run with the options of ``taken``; where the global batch does not divide, the chance to fit is 0."""
    changed: dict[str, Any] = {}
    for _, fields_ in taken:
        changed |= fields_
    set_apart = {
        name: value for name, value in grid.numbers.items() if name not in changed or len(np.unique(value)) > 1
    }
    timed = train_time(setting, replace(work, **(changed | set_apart)))
    rows = (
        timed.total_bytes, timed.usable_bytes, timed.held.host_bytes, chance_of_fitting(timed), timed.step_s,
        timed.devices / timed.tokens_per_s, timed.devices,
    )  # fmt: skip
    columns = [np.array(np.broadcast_to(row, grid.count.shape), dtype=float) for row in rows]
    n = grid.numbers
    columns[3] *= runnable(work, zero=n["zero"], pp=n["pp"], dp=n["dp"], offload=changed.get("offload"))
    columns[3] *= np.asarray(work.global_batch) % (n["micro_batch"] * n["dp"]) == 0
    return Tried(taken, grid, *columns)


def picked(tried: Sequence[Tried], limit: float, sure: float) -> list[tuple[Tried, int]]:
    """Return candidates worth showing: they fit, and each is cheaper than every one with fewer changes and as good a quality.

    Of candidates that change the same fields only the cheapest is kept. ``limit`` is the cost to beat (infinite: none).
    """
    cheapest: dict[tuple[Any, ...], tuple[float, int, Tried, int]] = {}
    for one in tried:
        names, rank = frozenset(name for _, changed in one.taken for name in changed), one.rank
        good = np.flatnonzero((one.chance >= sure) & (one.grid.count + len(names) > 0) & (one.cost < limit * WORTH))
        for at in good[np.argsort(one.cost[good], kind="stable")]:
            key = (names, rank, int(one.grid.key[at]))
            if key not in cheapest or one.cost[at] < cheapest[key][0]:
                cheapest[key] = (float(one.cost[at]), len(one.taken) + int(one.grid.count[at]), one, int(at))
    found: list[tuple[Tried, int]] = []
    for number in range(1, 1 + max((count for _, count, _, _ in cheapest.values()), default=0)):
        for quality in range(3):
            mine = sorted((v for v in cheapest.values() if v[1] == number and v[2].rank == quality), key=lambda v: v[0])
            best = min((v[0] for v in cheapest.values() if v[1] < number and v[2].rank <= quality), default=np.inf)
            better = [v for v in mine if number == 1 or v[0] < WORTH * best]
            found += [(one, at) for _, _, one, at in (better if number == 1 else better[:PER_STEP])]
    return found


def change(setting: Setting, work: Train, tried: Tried, at: int, asked: Tried) -> Change:
    """Return the document of one candidate."""
    taken, flags = tried.of(at)
    held = training_plan.resolve(work, setting.table).framework
    if training_plan.resolve(replace(work, **flags), setting.table).framework != held:
        flags["framework"] = held
    price = setting.machine.usd_per_device_hour
    cost, host = float(tried.cost[at]), float(tried.host_bytes[at])
    risks = list(dict.fromkeys(option.note for option in taken if option.note != options.NONE))
    quality = "; ".join(risks) or options.NONE
    if host > float(asked.host_bytes[0]):
        where = "NVMe" if flags.get("offload", work.offload).endswith("nvme") else "host memory"
        quality += f"; takes {show_capacity(host)} of {where} per device"
    return Change(
        name=named(taken), flags=flags, total_bytes=float(tried.total_bytes[at]),
        usable_bytes=float(tried.usable_bytes[at]), fits=bool(tried.total_bytes[at] <= tried.usable_bytes[at]),
        probability_fits=float(tried.chance[at]), step_s=float(tried.step_s[at]),
        tokens_per_s_per_device=1 / cost, step_ratio=cost / float(asked.cost[0]), devices=int(tried.devices[at]),
        usd_per_btok=None if price is None else cost * 1e9 * price.value / SECONDS_PER_HOUR, quality=quality,
        source="; ".join(dict.fromkeys(option.source for option in taken)),
    )  # fmt: skip


def named(taken: Sequence[Option]) -> str:
    """Return the name of a combination; a share of recomputed layers says that they are recomputed in full."""
    partly = any(option in options.PARTIAL_RECOMPUTE for option in taken)
    return " + ".join(option.name for option in taken if not (partly and option is options.FULL_RECOMPUTE))


def notes(tried: Sequence[Tried], asked: Tried, *, sure: float, fits: bool, found: bool) -> tuple[str, ...]:
    """Return what the search counts as fitting, what is not enough alone, and that nothing helps where nothing does."""
    said = [f"fits means with a probability of at least {sure:.0%}"]
    if fits:
        said.append(
            "the job fits; changes are those that make it cheaper"
            if found
            else "the job fits, and no change tried makes it cheaper"
        )
        return tuple(said)
    near: dict[str, tuple[float, str]] = {}
    for one in tried:
        for at in np.flatnonzero(
            (len(one.taken) + one.grid.count == 1) & (one.chance < sure) & (one.total_bytes < asked.total_bytes[0])
        ):
            (option,), changed = one.of(int(at))
            kind = " ".join(sorted(changed.keys() - {"dp", "recompute_layers"}))
            near[kind] = min(near.get(kind, (np.inf, "")), (float(one.total_bytes[at]), option.name))
    if near:
        said.append(
            "not enough alone: "
            + ", ".join(f"{name} ({show_capacity(size)})" for size, name in sorted(near.values())[:5])
        )
    if not found:
        said.append("no change tried makes it fit on these devices")
    return tuple(said)

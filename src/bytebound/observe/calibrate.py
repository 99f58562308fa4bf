"""Calibrate llama.cpp here: small probes of a model's shape, and the costs drawn from them.

Five kinds of probe, all of random weights and seconds of work: almost empty layers (cost per layer and per step), two or
more layers of the model's width (seconds per byte of each weight format, by tokens in one pass), the output matrix, the
model's heads over almost no weights (attention by depth), and passes of many tokens (prefill). Between steps a filler
model is stepped that has as many bytes as the model to stand for, up to a few times any cache: the same threads read
them in the same way, so that caches and translation buffers help a probe no more than they will help the model.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.calibration import AttentionCost, Calibration, FormatCost
from bytebound.engines.llamacpp import KV_TYPES, Session, load_llamacpp, open_session
from bytebound.engines.random_gguf import BLOCKS, write_random_gguf
from bytebound.engines.summary import spread
from bytebound.errors import UnfinishedError, UnknownNameError
from bytebound.ledger.table import compile_table
from bytebound.measure.sampling import Sample, sample
from bytebound.models import read_model
from bytebound.observe.shape import (
    Target,
    attention_shape,
    body_shape,
    empty_shape,
    filler_bytes,
    filler_shape,
    head_shape,
    layer_bytes,
    target_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.observation import Spread
    from bytebound.engines.random_gguf import Shape

ENGINES = ("llama.cpp",)
DEPTHS = (0, 128, 320, 768, 2048)
TOKENS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
MOST_PASSES, PASSES_S = 7, 0.2
"""A pass is repeated so often at most, and only while passes of the length before would take no longer together."""
LONG = 64
"""Tokens of a pass from which attention inside it is probed too."""
EMPTY_LAYERS = 8
PAIRS = (256, 1536)
MOST_DISTURBED, MOST_SPREAD = 0.5, 0.5
"""Beyond these a calibration says more of the noise than of the engine."""
LONGEST_PASS_S = 0.8
"""Passes of more tokens are not tried once one would take longer; products of many tokens are compute-bound."""


@dataclass(frozen=True, slots=True)
class Step:
    """One probe: a session at a depth."""

    name: str
    session: Session
    depth: int
    tokens: int = 1

    def run(self) -> None:
        """Do it once; a pass of several tokens begins at the depth, and all of them go through all of every layer."""
        if self.tokens == 1:
            self.session.step(self.depth)
        else:
            self.session.prefill(self.tokens, self.depth, every=True)


def calibrate(
    model: str | Architecture, *, engine: str = "llama.cpp", weights: str = "auto", flash: str = "on", kv: str = "fp16",
    threads: int | None = None, machine: str = "here", rounds: int = 20, budget_s: float = 15.0, depth: int = 2048,
    on_progress: Callable[[str], None] | None = None,
) -> Calibration:  # fmt: skip
    """Probe ``engine`` with small models of ``model``'s shape and return what it costs here.

    Args:
        model: what to calibrate for; only its shape and formats matter, it is not run.
        engine: only llama.cpp so far.
        weights: weight format, or ``auto``: the checkpoint's own.
        flash: flash attention ``on``, ``off`` or ``auto``.
        kv: dtype of the KV cache.
        threads: threads to decode with; None: as many as this process may use.
        machine: id of the machine, for the record.
        rounds: interleaved rounds.
        budget_s: seconds after which no further round starts (never under five).
        depth: the deepest context to probe; costs go on linearly beyond.
        on_progress: told what is being done.

    Raises:
        UnknownNameError: another engine, format or KV dtype. RequestError: not a decoder.
        DocumentError: llama.cpp or the gguf package is not installed. UnfinishedError: too noisy to conclude.
    """
    for kind, given, known in (("engine to calibrate", engine, ENGINES), ("KV dtype", kv, KV_TYPES)):
        if given not in known:
            raise UnknownNameError(kind, given, known, place="--calibrate")
    asked = Asked(model, weights, flash, kv, depth)
    return calibrate_together(
        (asked,),
        engine=engine,
        threads=threads,
        machine=machine,
        rounds=rounds,
        budget_s=budget_s,
        on_progress=on_progress,
    )[0]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one calibration is for. ``passes``: tokens of the passes to probe; none: decoding of single tokens alone."""

    model: str | Architecture
    weights: str = "auto"
    flash: str = "on"
    kv: str = "fp16"
    depth: int = 2048
    passes: tuple[int, ...] = TOKENS

    @property
    def long(self) -> bool:
        """Whether passes are long enough for attention between their own tokens to count."""
        return max(self.passes, default=1) >= LONG


def calibrate_together(
    asked: Sequence[Asked], *, engine: str = "llama.cpp", threads: int | None = None, machine: str = "here",
    rounds: int = 20, budget_s: float = 15.0, on_progress: Callable[[str], None] | None = None,
) -> tuple[Calibration, ...]:  # fmt: skip
    """Return a calibration for each of ``asked``, their probes taking turns, so that all saw the same machine.

    Raises:
        As ``calibrate``.
    """
    started = time.perf_counter()
    say = on_progress or (lambda _text: None)
    library = load_llamacpp()
    threads = usable_threads() if threads is None else threads
    with tempfile.TemporaryDirectory(prefix="bytebound-") as folder, ExitStack() as opened:
        groups = []
        for nth, each in enumerate(asked):
            architecture = read_model(each.model) if isinstance(each.model, str) else each.model
            say(f"writing small models in the shape of {architecture.name}")
            place = Path(folder) / str(nth)
            place.mkdir()
            context = max(each.depth, *each.passes, sum(PAIRS) if each.long else 0) + 8
            shop = Workshop(place, opened, threads, each.flash, each.kv, context=context)
            target = target_of(compile_table(architecture), each.weights)
            steps, bodies = prepare(shop, target, each.depth)
            groups.append(Group(each, shop, target, steps, bodies, shop.open("filler", filler_shape(target), "fp16")))
        say("timing steps")
        samples = interleaved(groups, rounds, budget_s)
        say("timing passes of many tokens")
        passes = many_tokens(groups, samples)
        pairs = [pair_cost(group.shop, group.target) if group.asked.long else 0.0 for group in groups]
    return tuple(
        conclude(
            group.target, seen, long, pair, group.bodies, engine=engine, version=library.version, machine=machine,
            threads=threads, flash=group.asked.flash, kv=group.asked.kv, started=started,
        )
        for group, seen, long, pair in zip(groups, samples, passes, pairs, strict=True)
    )  # fmt: skip


def usable_threads() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where probes are written, and how they are opened."""

    folder: Path
    opened: ExitStack
    threads: int
    flash: str
    kv: str
    context: int

    def open(self, name: str, shape: Shape, weights: str, *, head: str = "") -> Session:
        """Write the probe once and open a session; all hold as many tokens, for strides of the cache cost time too."""
        path = self.folder / f"{name}.gguf"
        if not path.exists():
            write_random_gguf(path, shape, weights, head=head)
        return self.opened.enter_context(
            open_session(path, context=self.context, threads=self.threads, flash=self.flash, kv=self.kv)
        )


@dataclass(frozen=True, slots=True)
class Body:
    """The probe of one weight format: its session and the bytes of its layers."""

    weights: str
    session: Session
    shape: Shape
    bytes: float


def prepare(shop: Workshop, target: Target, depth: int) -> tuple[list[Step], list[Body]]:
    """Open every probe and return its steps."""
    steps = [
        Step("empty.1", shop.open("empty1", empty_shape(1), "fp16"), 0),
        Step(f"empty.{EMPTY_LAYERS}", shop.open("empty8", empty_shape(EMPTY_LAYERS), "fp16"), 0),
    ]
    bodies = []
    for weights in target.body_bytes:
        shape = body_shape(target, weights)
        size = shape.layers * layer_bytes(shape, weights)
        bodies.append(Body(weights, shop.open(f"body{weights}", shape, weights), shape, size))
        steps.append(Step(f"body.{weights}", bodies[-1].session, 0))
    head = shop.open("head", head_shape(target), "fp16", head=target.head_weights)
    steps.append(Step("head", head, 0))
    shape = attention_shape(target)
    for at in depths(depth):
        session = shop.open("attention", shape, "fp16")
        session.fill(at)
        steps.append(Step(f"attention.{at}", session, at))
    return steps, bodies


def depths(deepest: int) -> list[int]:
    """Return the depths to probe, up to ``deepest``."""
    return [at for at in DEPTHS if at < deepest] + [max(deepest, 1)]


@dataclass(frozen=True, slots=True)
class Group:
    """The probes of one calibration."""

    asked: Asked
    shop: Workshop
    target: Target
    steps: list[Step]
    bodies: list[Body]
    filler: Session


def interleaved(groups: Sequence[Group], rounds: int, budget_s: float) -> list[dict[str, list[Sample]]]:
    """Time every step once per round, each after a step of its filler, whose own times are kept as ``filler``."""
    samples: list[dict[str, list[Sample]]] = [
        {"filler": [], **{step.name: [] for step in group.steps}} for group in groups
    ]
    started = time.perf_counter()
    for group in groups:
        for step in group.steps:
            step.run()
    for done in range(rounds):
        if done >= 5 and time.perf_counter() - started > budget_s * len(groups):
            break
        for group, seen in zip(groups, samples, strict=True):
            for step in group.steps:
                seen["filler"].append(sample(partial(group.filler.step, 0)))
                seen[step.name].append(sample(step.run))
    return samples


def many_tokens(
    groups: Sequence[Group], samples: Sequence[dict[str, list[Sample]]]
) -> list[dict[str, list[tuple[int, float]]]]:
    """Return the seconds of passes of 2, 4, 8 … tokens through each body, in turn, until one would take too long."""
    found: list[dict[str, list[tuple[int, float]]]] = [{body.weights: [] for body in group.bodies} for group in groups]
    last = {id(body): typical(seen[f"body.{body.weights}"]) for group, seen in zip(groups, samples, strict=True)
            for body in group.bodies}  # fmt: skip
    for tokens in sorted({n for group in groups for n in group.asked.passes}):
        short = [
            (body, passes[body.weights]) for group, passes in zip(groups, found, strict=True) for body in group.bodies
            if tokens in group.asked.passes and last[id(body)] * 2 <= LONGEST_PASS_S
        ]  # fmt: skip
        turns = [(Step("pass", body.session, 0, tokens), body, passes) for body, passes in short]
        for step, _, _ in turns:
            step.run()
        seconds: dict[int, list[Sample]] = {id(step): [] for step, _, _ in turns}
        for again in range(MOST_PASSES):
            for step, body, _ in turns:
                if again * last[id(body)] < PASSES_S:
                    seconds[id(step)].append(sample(step.run))
        for step, body, passes in turns:
            last[id(body)] = typical(seconds[id(step)])
            passes.append((tokens, last[id(body)]))
    return found


def pair_cost(shop: Workshop, target: Target) -> float:
    """Return prefill attention's seconds per query-key pair (of one head): a pass late in a context less one at its start."""
    shape = attention_shape(target)
    tokens, past = PAIRS
    session = shop.open("attention", shape, "fp16")
    session.fill(past)
    late = [sample(Step("late", session, past, tokens).run) for _ in range(3)]
    session.fill(0)
    early = [sample(Step("early", session, 0, tokens).run) for _ in range(3)]
    more = shape.layers * target.heads * tokens * past
    return max(typical(late) - typical(early), 0.0) / more


def typical(samples: list[Sample]) -> float:
    """Return the median seconds."""
    return float(np.median([s.seconds for s in samples]))


def conclude(
    target: Target, samples: dict[str, list[Sample]], passes: dict[str, list[tuple[int, float]]], s_per_pair: float,
    bodies: list[Body], *, engine: str, version: str, machine: str, threads: int, flash: str, kv: str,
    started: float,
) -> Calibration:  # fmt: skip
    """Return the costs that explain the probes: each probe less what the cheaper ones already explain."""
    t = {name: typical(found) for name, found in samples.items()}
    per_layer = max((t[f"empty.{EMPTY_LAYERS}"] - t["empty.1"]) / (EMPTY_LAYERS - 1), 0.0)
    per_step = max(t["empty.1"] - per_layer, 0.0)
    formats = []
    for body in bodies:
        base = per_step + per_layer * body.shape.layers
        points = [(1, t[f"body.{body.weights}"]), *passes[body.weights]]
        pairs = [body.shape.layers * body.shape.heads * n * (n + 1) / 2 if n > 1 else 0.0 for n, _ in points]
        costs = [
            max(s - base - s_per_pair * pair, 1e-3 * s) / body.bytes for (_, s), pair in zip(points, pairs, strict=True)
        ]
        formats.append(FormatCost("body", body.weights, body.shape.width, tuple(n for n, _ in points), tuple(costs)))
    small = head_shape(target)
    own = layer_bytes(small, "fp16") * formats[0].s_per_byte[0]
    elements, size, _ = BLOCKS[target.head_weights]
    head_bytes = small.vocabulary * small.width * size / elements
    head = max(t["head"] - per_step - per_layer - own, 1e-3 * t["head"]) / head_bytes
    formats.append(FormatCost("head", target.head_weights, small.width, (1,), (head,)))
    shape = attention_shape(target)
    at = sorted(int(name.partition(".")[2]) for name in t if name.startswith("attention."))
    zero = t[f"attention.{at[0]}"]
    each = [max(t[f"attention.{d}"] - zero, 0.0) / (shape.layers * target.heads) for d in at]
    every = [s for found in samples.values() for s in found]
    spreads: dict[str, Spread] = {
        name: seen for name, found in samples.items() if (seen := spread(s.seconds for s in found)) is not None
    }
    wide = np.median([(s.p90 - s.p10) / 2 / s.median for name, s in spreads.items() if not name.startswith("empty")])
    disturbed = sum(s.disturbed for s in every) / len(every)
    if disturbed > MOST_DISTURBED or wide > MOST_SPREAD:
        raise UnfinishedError(
            f"too noisy to conclude: probes spread by ±{100 * wide:.0f} % and other work ran during {100 * disturbed:.0f} % of them",
            place="calibration",
            mend="stop what else is running and calibrate again",
        )
    return Calibration(
        id=uuid.uuid4().hex[:12], when=datetime.now(UTC).isoformat(timespec="seconds"), engine=engine,
        engine_version=version, machine=machine, threads=threads, formats=tuple(formats),
        attention=AttentionCost(
            flash, kv, target.heads, target.kv_heads, target.head_dim, tuple(at),
            tuple(float(x) for x in np.maximum.accumulate(each)), s_per_pair,
        ),
        s_per_step=per_step, s_per_layer=per_layer, memory_bytes_per_s=filler_bytes(target) / t["filler"], spread=float(wide),
        samples=len(every), disturbed=disturbed,
        seconds=time.perf_counter() - started,
        shape={"layers": target.layers, "width": target.width, "head_rows": target.head_rows,
               "weight_bytes": target.weight_bytes},
        probes=spreads,
    )  # fmt: skip

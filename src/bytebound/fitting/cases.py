"""Measured rows as the ledgers and coefficients that predict them, grouped so that one pass answers many.

A *case* is one measured row. Rows that share model, device, engine and precision of activations share an operator table and
run through the ledger together. What comes out of a group is independent of any calibration: ledgers of a decode step and
of two prefill passes, and the ``Mix`` that turns their times into the row's metric.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import Serve
from bytebound.errors import ByteboundError
from bytebound.ledger import inference
from bytebound.ledger.request import lay_out
from bytebound.predict.attained import era_of
from bytebound.predict.estimate import settle
from bytebound.predict.prediction import prefilled_together, reside
from bytebound.predict.serving import (
    Mix,
    closed_loop_first_token,
    per_token,
    static_batch,
    unloaded_first_token,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.truth import Truth
    from bytebound.facts.calibration import Key, Offset
    from bytebound.ledger.ledger import Ledger
    from bytebound.predict.estimate import Setting

    Array = NDArray[Any]

TIMED = ("tpot_s", "ttft_s", "request_s", "decode_tokens_per_s", "tokens_per_s", "total_tokens_per_s",
         "prefill_tokens_per_s", "requests_per_s")  # fmt: skip
"""Metrics made of times; a rate is an amount over a time."""
KEPT_SHARE = 0.5
"""Share of its output a running sequence has written on average."""
VARYING = ("batch", "prompt", "output", "weights", "kv", "tp", "pp", "ep", "dp", "chunk", "draft_tokens", "acceptance",
           "prefix_hit")  # fmt: skip
"""Fields of a request that may differ inside a group."""


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that share a setting: ``rows`` (n,) index the measured rows; the rest broadcasts to (n,).

    ``least`` sums the passes that no scheduler can leave out; laid on physical floors it bounds the metric.
    ``amount`` over the seconds is the metric where it is a rate (``is_rate``); the seconds themselves are it otherwise.
    ``fits`` is False where our memory model says the work cannot run as stated.
    """

    setting: Setting
    rows: NDArray[np.int64]
    decode: Ledger
    alone: Ledger
    together: Ledger
    together_count: Array
    pp: Array
    per_step: Array
    mix: Mix
    least: Mix
    amount: Array
    is_rate: NDArray[np.bool_]
    batch: Array
    era: str
    fits: NDArray[np.bool_]


def groups(rows: Sequence[Truth], fitted: Mapping[Key, Offset] | None = None) -> Iterator[Group]:
    """Yield the groups of ``rows``; rows whose metric is no time, or that our readers refuse, are in none."""
    shared: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.metric in TIMED:
            shared[_key(row)].append(index)
    for members in shared.values():
        found = _group([rows[i] for i in members], np.array(members), fitted)
        if found is not None:
            yield found


def _key(row: Truth) -> tuple[Any, ...]:
    w = row.work
    fixed = tuple((f.name, getattr(w, f.name)) for f in fields(Serve) if f.name not in VARYING)
    return (
        row.model,
        row.device,
        row.engine,
        era_of(row.date, row.engine_version),
        row.engine_version,
        row.load.memory_share,
        fixed,
    )


def _group(rows: list[Truth], index: NDArray[np.int64], fitted: Mapping[Key, Offset] | None) -> Group | None:
    first = rows[0]
    try:
        setting = settle(first.model, f"{max(r.devices for r in rows)}x {first.device}", first.engine, fitted,
                         version=first.engine_version, era=era_of(first.date, first.engine_version))  # fmt: skip
    except ByteboundError:
        return None
    work = replace(first.work, **{name: _column(rows, name) for name in VARYING})
    if first.load.memory_share:
        setting = replace(setting, overheads=replace(setting.overheads, memory_share=first.load.memory_share))
    request = lay_out(setting.table, work, dtype=setting.architecture.dtype, engine_chunk=setting.chunk,
                      profiled=setting.engine.profiled_sequences)  # fmt: skip

    def wide(values: Any) -> Array:
        return np.broadcast_to(np.asarray(values, dtype=float), (len(rows),))

    asked, prompt, output, chunk = (wide(v) for v in (request.batch, request.prompt, request.output, request.chunk))
    room = wide(reside(setting.table, request, setting.ceilings, setting.overheads).max_kv_tokens)
    regime = np.array([r.regime for r in rows])
    looped = np.isin(regime, ("closed-loop", "open-loop", "capacity"))
    slots = np.array([r.load.slots or np.inf for r in rows])
    most = np.floor(room / (prompt + KEPT_SHARE * output))
    wanted = np.where(regime == "capacity", np.inf, asked)
    batch = np.where(looped, np.minimum(np.minimum(wanted, slots), most), asked)
    batch = np.where(np.isfinite(batch), batch, 1.0)
    fits = np.where(looped, most >= 1, asked * (prompt + output) <= np.maximum(room, 0.0))
    batch = np.maximum(batch, 1.0)
    request = replace(request, batch=batch)
    together = prefilled_together(request)
    metric = np.array([r.metric for r in rows])
    mix, least, amount = _metrics(rows, metric=metric, regime=regime, batch=batch, clients=asked, prompt=prompt,
                                  output=output, chunk=chunk, dp=wide(request.dp))  # fmt: skip
    return Group(
        setting=setting, rows=index, decode=inference.decode_ledger(setting.table, request),
        alone=inference.prefill_ledger(setting.table, request, np.ones(1)),
        together=inference.prefill_ledger(setting.table, request, together), together_count=wide(together),
        pp=wide(request.pp), per_step=wide(_accepted(request.draft, work)), mix=mix, least=least,
        amount=amount,
        is_rate=np.char.endswith(metric, "_per_s"), batch=batch, era=era_of(first.date, first.engine_version),
        fits=fits,
    )  # fmt: skip


def _column(rows: list[Truth], name: str) -> Any:
    values = [getattr(r.work, name) for r in rows]
    return values[0] if len(set(values)) == 1 else np.array(values)


def _accepted(draft: Array, work: Serve) -> Array:
    alpha = np.minimum(np.asarray(work.acceptance, dtype=float), 1 - 1e-9)
    return np.asarray((1 - alpha ** (draft + 1)) / (1 - alpha) / (1 + draft * np.asarray(work.draft_cost, dtype=float)))


def _metrics(
    rows: list[Truth], *, metric: NDArray[np.str_], regime: NDArray[np.str_], batch: Array, clients: Array, prompt: Array,
    output: Array, chunk: Array, dp: Array,
) -> tuple[Mix, Mix, Array]:  # fmt: skip
    """Return the coefficients of every row's seconds, those of the passes it cannot do without, and what its rate counts."""
    load = [r.load for r in rows]
    rounds = np.array([x.rounds for x in load])
    running = per_token(batch, output, rounds=rounds, per_pass=np.maximum(np.floor(chunk / prompt), 1.0))
    cycle = running * output + unloaded_first_token()
    loop = np.isin(regime, ("closed-loop", "open-loop", "capacity"))
    first = closed_loop_first_token(
        clients, batch, prompt, output, chunk, rounds=rounds, clump=np.array([x.clump for x in load]),
        spread=np.array([x.spread for x in load]), hold_steps=np.array([x.hold_steps for x in load]),
        poll_steps=np.array([x.poll_steps for x in load]), median=np.array([r.statistic == "median" for r in rows]),
    )  # fmt: skip
    prefill_all = Mix(
        np.zeros_like(batch), np.where(batch <= 1, 1.0, 0.0), np.where(batch <= 1, 0.0, batch), np.zeros_like(batch)
    )
    whole = static_batch(batch, output)
    choices = {
        "tpot_s": (_choose(loop, running, per_token(np.ones_like(batch), output)), np.ones_like(batch)),
        "decode_tokens_per_s": (per_token(np.ones_like(batch), output), np.ones_like(batch)),
        "ttft_s": (_choose(loop, first, _choose(batch > 1, prefill_all, unloaded_first_token())), np.ones_like(batch)),
        "request_s": (_choose(loop, first + running * (output - 1), whole), np.ones_like(batch)),
        "tokens_per_s": (_choose(loop, cycle, whole), dp * batch * output),
        "total_tokens_per_s": (_choose(loop, cycle, whole), dp * batch * (prompt + output)),
        "requests_per_s": (_choose(loop, cycle, whole), dp * batch),
        "prefill_tokens_per_s": (prefill_all, dp * batch * prompt),
    }
    nothing = np.zeros_like(batch)
    steps = Mix(np.ones_like(batch), nothing, nothing, nothing)
    one_pass = Mix(nothing, np.ones_like(batch), nothing, nothing)
    run = _choose(loop, steps * np.maximum(output - 1, 0.0), whole)
    bounds = {
        "tpot_s": steps, "decode_tokens_per_s": steps, "ttft_s": one_pass, "prefill_tokens_per_s": prefill_all,
        "request_s": run, "tokens_per_s": run, "total_tokens_per_s": run, "requests_per_s": run,
    }  # fmt: skip
    parts = [np.zeros_like(batch) for _ in range(4)]
    least = [np.zeros_like(batch) for _ in range(4)]
    amount = np.ones_like(batch)
    for name, (mix, counted) in choices.items():
        here = metric == name
        for target, source in ((parts, mix), (least, bounds[name])):
            for part, values in zip(target, (source.decode, source.alone, source.together, source.host), strict=True):
                part[here] = np.broadcast_to(values, batch.shape)[here]
        amount[here] = counted[here]
    return Mix(*parts), Mix(*least), amount


def _choose(where: NDArray[np.bool_], yes: Mix, no: Mix) -> Mix:
    return Mix(*(np.where(where, a, b) for a, b in (
        (yes.decode, no.decode), (yes.alone, no.alone), (yes.together, no.together), (yes.host, no.host)
    )))  # fmt: skip

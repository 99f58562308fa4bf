"""Published effects of levers predicted: the question of each row asked of our formulas, beside what was printed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.architecture import Attention
from bytebound.documents.lever import PublishedEffect
from bytebound.documents.work import Serve, Train
from bytebound.errors import DocumentError
from bytebound.facts.formats import find_format
from bytebound.facts.levers import effect_rows, setting_words
from bytebound.ledger.inference import reads_at
from bytebound.ledger.ledger import MATH
from bytebound.ledger.states import state_bytes
from bytebound.ledger.table import MAIN, compile_table
from bytebound.ledger.training import train_flop_per_token
from bytebound.models import read_model
from bytebound.plan.today import batches
from bytebound.predict.estimate import settle
from bytebound.predict.training import train_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.lever import LeverCard
    from bytebound.facts.levers import EffectRow
    from bytebound.predict.estimate import Setting

GIB, GB = 2.0**30, 1e9
MOST_SEQUENCES = 1024
"""Sequences tried for the highest throughput."""
NSA = {"block": 16, "selected": 16 * 64, "window": 512}
"""Tokens per compressed entry, selected tokens and window of NSA. Source: arXiv 2502.11089, section 4.1."""


@dataclass(frozen=True, slots=True)
class Request:
    """One side of a row: the fields of a request, and the words that are none of them."""

    fields: dict[str, Any]
    extra: dict[str, str]

    def serve(self) -> Serve:
        """Return the serving request."""
        return Serve(**self.fields)

    def train(self) -> Train:
        """Return the training request."""
        return Train(**self.fields)

    def number(self, name: str) -> float:
        """Return a word that is a number."""
        return float(self.extra[name])


NAMES = {f.name for f in (*fields(Serve), *fields(Train))}


def read_request(text: str, place: str = "") -> Request:
    """Return ``field=value`` words as a request; numbers are read as numbers.

    Raises:
        DocumentError: a word without ``=``.

    Example:
        >>> read_request("batch=2 weights=int4 on=l4").extra
        {'on': 'l4'}
    """
    found: dict[str, Any] = {}
    extra: dict[str, str] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise DocumentError(f"{word!r} is not field=value", place=place)
        if name in NAMES:
            found[name] = _value(value)
        else:
            extra[name] = value
    return Request(found, extra)


def _value(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


@cache
def _settled(model: str, machine: str, engine: str) -> Setting:
    return settle(model, machine, engine or "vllm")


def _setting(row: EffectRow, request: Request) -> Setting:
    return _settled(row.model, request.extra.get("on", row.machine).replace("_", " "), row.engine)


def _answer(row: EffectRow, request: Request, name: str) -> float:
    """Return one result of serving a side of the row."""
    work = replace(request.serve(), engine=row.engine or "vllm")
    return float(_setting(row, request).answer(work)[name][0])


def _sides(row: EffectRow) -> tuple[Request, Request]:
    return read_request(row.before, row.name), read_request(row.after, row.name)


def _sped_up(name: str) -> Callable[[EffectRow], float]:
    """Return the quantity ``before / after`` of a time."""

    def predict(row: EffectRow) -> float:
        before, after = _sides(row)
        return _answer(row, before, name) / _answer(row, after, name)

    return predict


def _throughput(row: EffectRow) -> float:
    before, after = _sides(row)
    return _answer(row, after, "tokens_per_s") / _answer(row, before, "tokens_per_s")


def _decode_sped_up(row: EffectRow) -> float:
    """Return the ratio of decode steps per token: no prefill between them, drafts counted."""
    before, after = (replace(side.serve(), engine=row.engine, disaggregated=True) for side in _sides(row))
    settings = [_setting(row, side) for side in _sides(row)]
    times = [float(s.answer(work)["tpot_s"][0]) for s, work in zip(settings, (before, after), strict=True)]
    return times[0] / times[1]


def _highest(row: EffectRow, request: Request) -> float:
    work = replace(request.serve(), engine=row.engine, batch=batches(MOST_SEQUENCES))
    return float(np.nanmax(_setting(row, request).answer(work)["tokens_per_s"]))


def _capacity(row: EffectRow) -> float:
    before, after = _sides(row)
    return _highest(row, after) / _highest(row, before)


def _rate(row: EffectRow) -> float:
    return _answer(row, read_request(row.after), "tokens_per_s")


def _bits(row: EffectRow) -> float:
    return find_format(str(read_request(row.after).fields["weights"])).bits


def _stored(row: EffectRow) -> float:
    """Return bytes of every tensor in one format, as a file holds them [GiB]."""
    parameters = float(np.max(read_model(row.model).parameters))
    return parameters * _bits(row) / 8 / GIB


def _kv_per_token(row: EffectRow) -> float:
    request = read_request(row.after)
    known = Request({name: value for name, value in request.fields.items() if name == "kv"}, request.extra)
    return _answer(row, known, "kv_bytes_per_token")


def _kv_tokens(row: EffectRow) -> float:
    """Return tokens whose KV a number of GiB holds, in whole pages of the engine."""
    page = settle(row.model, row.machine, row.engine).engine.block_tokens
    held = read_request(row.after).number("gib") * GIB / _kv_per_token(row)
    return float(np.floor(held / page) * page)


def _kv_gib(row: EffectRow) -> float:
    return _kv_per_token(row) * read_request(row.after).number("length") / GIB


def _train_gflop(row: EffectRow) -> float:
    return train_flop_per_token(compile_table(read_model(row.model)), read_request(row.after).fields["seq"]) / GB


def _reload(row: EffectRow) -> float:
    """Return the link rate at which loading a prompt's KV takes as long as computing it at peak [GB/s]. Source: Mooncake eq. 2."""
    request = read_request(row.after)
    work, setting = request.serve(), _setting(row, request)
    per_device = setting.answer(work)
    peak = setting.ceilings.flop_per_s[MATH.index("bf16")]
    compute_s = float(per_device["prefill.flops"][0]) / peak
    whole = replace(work, tp=1)
    kv = float(setting.answer(whole)["kv_bytes_per_token"][0]) * float(np.max(work.prompt))
    return float(kv / compute_s / GB)


def _bytes_s(row: EffectRow) -> float:
    """Return seconds of a step's weights and KV over a stated bandwidth."""
    request = read_request(row.after)
    named = _setting(row, request).answer(request.serve())
    moved = float(named["decode.weight_bytes"][0] + named["decode.kv_bytes"][0])
    return moved / request.number("bandwidth")


def _bytes_rate(row: EffectRow) -> float:
    return float(read_request(row.after).fields["batch"]) / _bytes_s(row)


def _nsa_model() -> Architecture:
    """Return a model of one layer with the three branches of NSA as three attentions."""
    plain = read_model("meta-llama/Meta-Llama-3-8B")
    tower = next(tower for tower in plain.towers if tower.kind == "decoder")
    block = next(block for block in tower.blocks if any(isinstance(each, Attention) for each in block.operators))
    found = next(each for each in block.operators if isinstance(each, Attention))
    branches = (
        replace(found, name="compressed", stride=NSA["block"]),
        replace(found, name="selected", selected=NSA["selected"]),
        replace(found, name="window", kind="window", window=NSA["window"]),
    )
    layer = replace(block, repeat=1, operators=branches)
    return replace(plain, towers=(replace(tower, blocks=(layer,)),))


def _reads(architecture: Architecture, context: float) -> float:
    s = compile_table(architecture).scores
    mains = s.stream == MAIN
    return float((reads_at(s, np.array([context]))[:, 0] / s.stride * mains).sum())


def _nsa_reads(row: EffectRow) -> float:
    return _reads(_nsa_model(), read_request(row.after).number("context"))


def _nsa_speedup(row: EffectRow) -> float:
    return read_request(row.after).number("context") / _nsa_reads(row)


def _main_reads(row: EffectRow) -> float:
    s = compile_table(read_model(row.model)).scores
    context = np.array([read_request(row.after).number("context")])
    return float(reads_at(s, context)[s.stream == MAIN, 0].max())


def _states(row: EffectRow) -> float:
    """Return model states of a device, at the stated number of parameters [GB]."""
    request = read_request(row.after)
    model = read_model(row.model)
    held = state_bytes(compile_table(model), request.train())
    per_parameter = float(np.max(held.parameters + held.gradients + held.optimizer)) / float(np.max(model.parameters))
    return per_parameter * request.number("parameters") / GB


def _trained(row: EffectRow, request: Request) -> Any:
    return train_time(_setting(row, request), request.train())


def _flop_ratio(row: EffectRow) -> float:
    timed = _trained(row, read_request(row.after))
    return float(np.max(timed.hardware_flops / timed.model_flops))


def _train_sped_up(row: EffectRow) -> float:
    before, after = (_trained(row, side) for side in _sides(row))
    rates = [float(np.max(timed.tokens_per_s / timed.devices)) for timed in (before, after)]
    return rates[1] / rates[0]


def _train_bytes(row: EffectRow) -> tuple[float, float]:
    before, after = (float(np.max(_trained(row, side).total_bytes)) if side.fields else 0.0 for side in _sides(row))
    return before, after


def _saved(row: EffectRow) -> float:
    before, after = _train_bytes(row)
    return (before - after) / GB


def _held(row: EffectRow) -> float:
    return _train_bytes(row)[1] / GB


def _memory_ratio(row: EffectRow) -> float:
    before, after = _train_bytes(row)
    return after / before


QUANTITIES: dict[str, Callable[[EffectRow], float]] = {
    "decode_speedup": _decode_sped_up,
    "prefill_speedup": _sped_up("ttft_s"),
    "throughput_ratio": _throughput,
    "capacity_speedup": _capacity,
    "tokens_per_s": _rate,
    "bits": _bits,
    "stored_gib": _stored,
    "kv_bytes_per_token": _kv_per_token,
    "kv_tokens_in": _kv_tokens,
    "kv_gib": _kv_gib,
    "train_gflop_per_token": _train_gflop,
    "reload_gb_per_s": _reload,
    "bytes_ms": lambda row: _bytes_s(row) * 1e3,
    "bytes_rate": _bytes_rate,
    "nsa_reads": _nsa_reads,
    "nsa_speedup": _nsa_speedup,
    "main_reads": _main_reads,
    "states_gb": _states,
    "flop_ratio": _flop_ratio,
    "train_speedup": _train_sped_up,
    "saved_gb": _saved,
    "held_gb": _held,
    "train_memory_ratio": _memory_ratio,
}
"""What a row of lever_effects.csv may ask for -> how it is predicted."""


def predict_row(row: EffectRow) -> float:
    """Return what our formulas give for a printed effect.

    Raises:
        DocumentError: the row asks for a quantity that is not known.
        UnknownNameError, QuantityError: its model, machine or request is not understood.
    """
    if row.quantity not in QUANTITIES:
        raise DocumentError(f"no quantity is called {row.quantity!r}", place=row.name)
    return QUANTITIES[row.quantity](row)


def published(row: EffectRow) -> PublishedEffect:
    """Return a row as a document, with its prediction."""
    return PublishedEffect(
        row.name, row.printed, row.unit, setting_words(row), row.source, predict_row(row), row.kind, row.note
    )


def predicted(card: LeverCard) -> LeverCard:
    """Return a card with every published effect predicted."""
    return replace(card, effects=tuple(published(row) for row in effect_rows() if row.lever == card.name))

"""Our tables of levers: cards, the engines that have each, what each cost in quality elsewhere, and published effects."""

from __future__ import annotations

import re
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bytebound.documents.device import Positive  # noqa: TC001 - pydantic reads it at run time
from bytebound.documents.lever import EngineSupport, Group, LeverCard, PublishedEffect, QualityPrior, Status
from bytebound.facts.engines import engines
from bytebound.facts.rows import Id  # noqa: TC001 - pydantic reads it at run time
from bytebound.facts.tables import parse_row, read_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CARDS, ENGINES, QUALITY, EFFECTS = "levers.csv", "lever_engines.csv", "lever_quality.csv", "lever_effects.csv"
LIBRARIES = frozenset({
    "accelerate", "autoawq", "bitnet.cpp", "bitsandbytes", "ctranslate2", "deepsparse", "dynamo", "flash-attn", "flexgen",
    "galore-torch", "gptqmodel", "ktransformers", "kvpress", "liger", "llm-compressor", "lmcache", "megatron", "modelopt",
    "openvino", "peft", "pytorch", "torchao", "torchtitan", "torchtune", "transformer-engine",
})  # fmt: skip
"""Names a row may give beside the serving engines of engines.csv."""

KINDS = ("serve", "edge", "train", "finetune")
Text = Annotated[str, Field(min_length=1)]


def _kinds(text: str) -> str:
    if not set(text.split("|")) <= set(KINDS):
        raise ValueError(f"kinds are some of {', '.join(KINDS)}, joined by |")
    return text


STRICT = ConfigDict(frozen=True, extra="forbid")


class CardRow(BaseModel):
    """One lever. Lists of sentences are joined by `` | ``; levers of one ``slot`` replace each other."""

    model_config = STRICT

    source: Text
    name: Id
    title: Text
    group: Group
    kinds: Annotated[str, AfterValidator(_kinds)]
    slot: str = ""
    changes: Text
    formula: Text
    quality: Literal["lossless", "near-lossless", "any"]
    quality_note: Text
    preconditions: str = ""
    conflicts: str = ""
    pitfalls: str = ""
    proof: str = ""


class EngineRow(BaseModel):
    """How one engine or library has one lever."""

    model_config = STRICT

    source: Text
    lever: Id
    engine: Text
    status: Status
    since: str = ""
    flag: Text
    hardware: str = ""
    note: str = ""


class QualityRow(BaseModel):
    """One metric of one model before and after a lever."""

    model_config = STRICT

    source: Text
    lever: Id
    scheme: str = ""
    family: Text
    parameters_count: Positive
    metric: Text
    before: Positive
    after: Positive


class EffectRow(BaseModel):
    """A printed effect with the question that predicts it: ``quantity`` of ``model`` on ``machine`` for the requests before and after.

    A request is written ``field=value`` with blanks between; ``tolerance_ratio`` is the error allowed where the row is pure formula.
    """

    model_config = STRICT

    source: Text
    lever: Id
    part: Text
    name: Text
    kind: Literal["formula", "engine"]
    quantity: Text
    model: str = ""
    machine: str = ""
    engine: str = ""
    before: str = ""
    after: str = ""
    printed: Positive
    unit: Text
    tolerance_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    note: str = ""


def _read(model: type[Any], name: str) -> tuple[Any, ...]:
    return tuple(parse_row(model, cells, place=f"{name}:{line}") for line, cells in read_table(name))


@cache
def card_rows() -> Mapping[str, CardRow]:
    """Return every row of levers.csv by name, in the table's order."""
    return MappingProxyType({row.name: row for row in _read(CardRow, CARDS)})


@cache
def engine_rows() -> tuple[EngineRow, ...]:
    """Return every row of lever_engines.csv."""
    return _read(EngineRow, ENGINES)


@cache
def quality_rows() -> tuple[QualityRow, ...]:
    """Return every row of lever_quality.csv."""
    return _read(QualityRow, QUALITY)


@cache
def effect_rows() -> tuple[EffectRow, ...]:
    """Return every row of lever_effects.csv."""
    return _read(EffectRow, EFFECTS)


def sentences(text: str) -> tuple[str, ...]:
    """Return the parts of a cell joined by ``|``.

    Example:
        >>> sentences("One. | Two.")
        ('One.', 'Two.')
    """
    return tuple(part.strip() for part in text.split("|") if part.strip())


def conflicts_of(name: str) -> tuple[str, ...]:
    """Return the levers that ``name`` does not combine with: those it names, those that name it, those of its slot."""
    rows = card_rows()
    own = rows[name]
    return tuple(
        other.name
        for other in rows.values()
        if other.name != name
        and (other.name in own.conflicts.split("|") or name in other.conflicts.split("|") or (own.slot and own.slot == other.slot))
    )  # fmt: skip


def support(row: EngineRow) -> EngineSupport:
    """Return a row of lever_engines.csv as a document."""
    return EngineSupport(row.engine, row.status, row.since, row.flag, row.note, row.source, row.hardware)


@cache
def lever_cards() -> Mapping[str, LeverCard]:
    """Return every card by name; its effects are not predicted yet (``plan.effects`` does that)."""
    return MappingProxyType({row.name: _card(row) for row in card_rows().values()})


def _card(row: CardRow) -> LeverCard:
    return LeverCard(
        name=row.name, title=row.title, group=row.group, kinds=tuple(row.kinds.split("|")), changes=row.changes,
        formula=row.formula, quality=row.quality, quality_note=row.quality_note, source=row.source,
        preconditions=sentences(row.preconditions), conflicts=conflicts_of(row.name), pitfalls=sentences(row.pitfalls),
        engines=tuple(support(each) for each in engine_rows() if each.lever == row.name),
        priors=tuple(
            QualityPrior(each.family, each.parameters_count, each.metric, each.before, each.after, each.source, each.scheme)
            for each in quality_rows() if each.lever == row.name
        ),
        effects=tuple(
            PublishedEffect(each.name, each.printed, each.unit, setting_words(each), each.source, None, each.kind, each.note)
            for each in effect_rows() if each.lever == row.name
        ),
        proof=row.proof,
    )  # fmt: skip


def setting_words(row: EffectRow) -> str:
    """Return the question of a published effect in words."""
    where = " on ".join(filter(None, (row.model, row.machine)))
    return " · ".join(filter(None, (where, f"{row.before} → {row.after}" if row.before else row.after)))


def lever_problems() -> Iterator[str]:
    """Yield what is wrong with our tables of levers: unknown names, doubled rows, private places."""
    yield from _card_problems(card_rows())
    yield from _engine_problems({*engines(), *LIBRARIES})
    effects = effect_rows()
    for table, rows in ((ENGINES, engine_rows()), (QUALITY, quality_rows()), (EFFECTS, effects)):
        yield from (f"{table}: {row.lever} is no lever" for row in rows if row.lever not in card_rows())
    if len({row.name for row in effects}) != len(effects):
        yield f"{EFFECTS}: two effects of one name"
    for row in effects:
        if row.kind == "formula" and row.tolerance_ratio is None:
            yield f"{EFFECTS}: {row.name}: a formula without its tolerance"
    for table in (CARDS, ENGINES, QUALITY, EFFECTS):
        for line, cells in read_table(table):
            if re.search(r"/home/|/tmp/|/root/", " ".join(cells.values())):
                yield f"{table}:{line}: a private place"


def _card_problems(known: Mapping[str, CardRow]) -> Iterator[str]:
    if len(known) != len(read_table(CARDS)):
        yield f"{CARDS}: a lever is given twice"
    for row in known.values():
        unknown = [name for name in row.conflicts.split("|") if name and name not in known]
        yield from (f"{CARDS}: {row.name} conflicts with {name}, which is no lever" for name in unknown)
        if row.proof not in {"", row.name}:
            yield f"{CARDS}: {row.name}: a proof is called as its lever"


def _engine_problems(named: set[str]) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for row in engine_rows():
        if row.engine not in named:
            yield f"{ENGINES}: {row.engine} is no engine of engines.csv and no library"
        if (row.lever, row.engine) in seen:
            yield f"{ENGINES}: {row.lever} of {row.engine} given twice"
        seen.add((row.lever, row.engine))

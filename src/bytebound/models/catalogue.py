"""The bundled models: one record per public model with the keys that shape it, its published counts and their source."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from bytebound.errors import UnknownNameError
from bytebound.models.config import build_architecture, build_with_keys
from bytebound.models.patterns import compact_patterns
from bytebound.models.shapes import shape_aliases, shape_fields, shape_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bytebound.documents.architecture import Architecture
    from bytebound.models.keys import Keys


@dataclass(frozen=True, slots=True)
class Record:
    """One bundled model.

    Args:
        id: its public name.
        family: its ``model_type``.
        shape: the keys that shape it.
        total, active: published parameter counts (0: none known).
        total_source, active_source: where those stand.
        licence: what its weights are licensed under, as far as recalled.
    """

    id: str
    family: str
    shape: Mapping[str, Any]
    total: int
    total_source: str
    active: int
    active_source: str
    licence: str


@cache
def _lines() -> dict[str, str]:
    """Return each record's line by its id, parsed no further."""
    text = (files("bytebound.facts") / "data" / "models.jsonl").read_text(encoding="utf-8")
    return {line.split('"', 4)[3]: line for line in text.splitlines() if line}


@cache
def model_ids() -> tuple[str, ...]:
    """Return the ids of all bundled models, those known by their dimensions alone too, sorted."""
    return tuple(sorted({*_lines(), *shape_rows()}))


@lru_cache(maxsize=256)
def record(name: str) -> Record:
    """Return the record of the bundled model called ``name``; see ``resolve``."""
    found = resolve(name)
    return Record(**(json.loads(_lines()[found]) if found in _lines() else shape_fields(shape_rows()[found])))


@lru_cache(maxsize=256)
def find_model(name: str) -> Architecture:
    """Return the architecture of the bundled model called ``name``.

    Raises:
        UnknownNameError: no such model, or several.
    """
    found = record(name)
    return build_architecture(found.shape, file=f"bundled {found.id}", name=found.id)


def resolve(name: str) -> str:
    """Return the id ``name`` stands for: in any case, without its organisation, or by an ending only one model has.

    ``Meta-`` before a Llama may be left out; a listed alias comes first.

    Example:
        >>> resolve("llama-3.1-8b")
        'meta-llama/Meta-Llama-3.1-8B'

    Raises:
        UnknownNameError: no such model, or several; it carries the nearest ids.
    """
    ids = model_ids()
    wanted = name.strip().lower()
    if wanted in shape_aliases():
        return shape_aliases()[wanted]
    for fold in (_fold, _fold_meta):
        keyed = {fold(each): each for each in ids}
        if fold(wanted) in keyed:
            return keyed[fold(wanted)]
        for ends in (_after_slash, str.endswith):
            found = [each for key, each in keyed.items() if wanted and ends(key, fold(wanted))]
            if len(found) == 1:
                return found[0]
            if found:
                raise UnknownNameError("model", name, found, mend=f"it may be any of {', '.join(sorted(found)[:8])}")
    mend = "see `bytebound models`, or give a config.json, a model folder, a .gguf or hub:org/name"
    raise UnknownNameError("model", name, _nearest(wanted, ids), mend=mend)


def _fold(name: str) -> str:
    return name.lower()


def _fold_meta(name: str) -> str:
    return name.lower().replace("/meta-llama-", "/llama-")


def _after_slash(name: str, ending: str) -> bool:
    return name.rsplit("/", 1)[-1] == ending


def _nearest(wanted: str, ids: Iterable[str]) -> list[str]:
    """Return the ids whose names resemble ``wanted``, with or without their organisation."""
    short = {each.rsplit("/", 1)[-1].lower(): each for each in ids}
    close = difflib.get_close_matches(wanted.rsplit("/", 1)[-1], short, n=5, cutoff=0.4)
    return [short[name] for name in close] or list(ids)


# ---- making records


def make_record(values: Mapping[str, Any], *, id: str, counts: Mapping[str, str]) -> Record:  # noqa: A002
    """Return the record of a config: only the keys its family consumed, and the published counts.

    Args:
        values: the config's object.
        id: public name.
        counts: a row of an index with ``published_params_total``, ``total_source`` and so on.
    """
    architecture, keys = build_with_keys(values, file=id, name=id)
    shape = shape_of(keys, valued=True)
    if build_architecture(shape, file=id, name=id).towers != architecture.towers:
        shape = shape_of(keys, valued=False)
    total, active = counts.get("published_params_total", ""), counts.get("published_params_active", "")
    return Record(
        id=id,
        family=architecture.family,
        shape=shape,
        total=int(total or 0),
        total_source=f"{counts.get('total_kind', '')}: {counts.get('total_source', '')}" if total else "",
        active=int(active or 0),
        active_source=counts.get("active_source", "") if active else "",
        licence=counts.get("licence_note", ""),
    )


def shape_of(keys: Keys, *, valued: bool) -> dict[str, Any]:
    """Return the consumed keys of a config, nested ones too; long lists of ignored modules become patterns.

    Args:
        keys: the reader after a model was built.
        valued: only the keys whose value was used, not those that were looked at otherwise.
    """
    found: dict[str, Any] = {}
    for key in sorted(keys.values):
        value = keys.values[key]
        if value is None or key not in (keys.valued if valued else keys.seen):
            continue
        if key in keys.children:
            value = shape_of(keys.children[key], valued=valued)
        elif f"{key}[0]" in keys.children:
            value = [shape_of(keys.children[f"{key}[{index}]"], valued=valued) for index in range(len(value))]
        elif key == "id2label":
            key, value = "num_labels", len(value)  # noqa: PLW2901
        elif isinstance(value, list) and len(value) > 64 and all(isinstance(item, str) for item in value):
            value = compact_patterns(value) if len(compact_patterns(value)) < len(value) // 2 else value
        found[key] = value
    return found


def write_record(record: Record) -> str:
    """Return a record as one line of JSON, its id first."""
    fields = {name: getattr(record, name) for name in Record.__slots__}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))

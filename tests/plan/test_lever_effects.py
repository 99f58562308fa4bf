"""Published effects of levers: pure formulas hold within their tolerance, engines within what the page says."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from bytebound.errors import DocumentError
from bytebound.facts.levers import effect_rows
from bytebound.plan.cards import find_card
from bytebound.plan.effects import QUANTITIES, predict_row, predicted, read_request
from bytebound.plan.rank import case_of, effect_of
from bytebound.plan.spot import look
from bytebound.predict.estimate import settle

ROWS = {row.name: row for row in effect_rows()}
FORMULA = [row for row in ROWS.values() if row.kind == "formula"]
ENGINE = [row for row in ROWS.values() if row.kind == "engine"]
PAGE = (Path(__file__).parents[2] / "docs" / "levers.md").read_text(encoding="utf-8")
MOST = {
    "KV cache": 0.04, "tensor parallelism": 0.05, "training": 0.08, "training memory": 0.12, "weights, one sequence": 0.12,
    "weights, many sequences": 0.15, "speculation": 0.16, "prefill": 0.2, "highest throughput": 0.27,
}  # fmt: skip
"""Group of engine rows -> its largest median error: today's with some room."""


@pytest.mark.parametrize("row", FORMULA, ids=lambda row: row.name)
def test_a_formula_gives_what_was_printed(row):
    assert predict_row(row) == pytest.approx(row.printed, rel=row.tolerance_ratio)


def test_formulas_match_tightly_together():
    assert len(FORMULA) >= 40
    assert median(abs(predict_row(row) / row.printed - 1) for row in FORMULA) < 0.002


def test_engine_effects_are_no_worse_than_the_page_says():
    errors = defaultdict(list)
    for row in ENGINE:
        errors[row.part].append(abs(predict_row(row) / row.printed - 1))

    assert set(errors) == set(MOST)
    assert {part: median(each) for part, each in errors.items() if median(each) > MOST[part]} == {}


def test_a_printed_slow_down_is_never_recommended_blind():
    """Every row that lost, asked in its own setting; the two exceptions are told on the page."""
    known = {"llama.cpp Llama-3-8B prefill, RTX 4090, Q4_K_M", "LLM-Inference-Bench Llama-3-8B, H100, fp8 KV, batch 64"}
    blind = set()
    for row in ENGINE:
        if row.printed < 0.97 and row.quantity in {"decode_speedup", "throughput_ratio", "prefill_speedup"}:
            asked = replace(read_request(row.before).serve(), engine=row.engine)
            before = case_of(settle(row.model, row.machine, row.engine), asked)
            if effect_of(before, look(before), [row.lever]).outcome == "helps":
                blind.add(row.name)

    assert blind == known


def test_every_effect_is_asked_for_something_known_and_cites_its_source():
    for row in ROWS.values():
        assert row.quantity in QUANTITIES
        assert row.source
        assert math.isfinite(predict_row(row))


def test_the_page_shows_every_row_of_the_table():
    """A row added or changed without the page being written again is seen."""
    assert [name for name in ROWS if f"| {name}" not in PAGE] == []
    assert f"{len(ROWS)} published effects, {len(FORMULA)} of them pure formula" in " ".join(PAGE.split())


def test_a_card_carries_its_predictions():
    effects = predicted(find_card("fp8-kv")).effects

    assert len(effects) == sum(row.lever == "fp8-kv" for row in ROWS.values())
    assert all(effect.predicted is not None for effect in effects)


def test_a_request_that_cannot_be_read_names_its_row():
    row = next(iter(ROWS.values())).model_copy(update={"quantity": "luck"})

    with pytest.raises(DocumentError, match="luck"):
        predict_row(row)
    with pytest.raises(DocumentError, match="field=value"):
        read_request("batch 2", "a row")

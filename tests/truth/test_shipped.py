"""The measured rows that ship: they read, they span what the package knows, each has its source; and rows no physics allows."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from bytebound.documents.truth import METRICS
from bytebound.facts.devices import find_device
from bytebound.facts.engines import find_engine
from bytebound.fitting.cases import TIMED, groups
from bytebound.fitting.fit import contradicts, design
from bytebound.models import read_model
from bytebound.truth import read_truth, shipped_truth
from bytebound.truth.table import format_truth

ROWS = shipped_truth()
TEXT = (files("bytebound.facts") / "data" / "truth.csv").read_text("utf-8")
IMPOSSIBLE = Path(__file__).parent / "contradictions.csv"


def test_a_few_hundred_rows_ship():
    assert 400 <= len(ROWS) <= 600
    assert len(TEXT) < 2**18
    assert format_truth(ROWS) == TEXT


@pytest.mark.parametrize(
    ("name", "least"), [("device", 40), ("engine", 12), ("model", 80), ("source", 40), ("regime", 5), ("backend", 5)]
)
def test_they_span_devices_engines_models_and_regimes(name, least):
    assert len({getattr(row, name) for row in ROWS}) >= least


def test_every_time_and_rate_is_there():
    counts = Counter(row.metric for row in ROWS)

    assert set(TIMED) <= counts.keys() <= METRICS.keys()
    assert counts["kv_tokens"] >= 40
    assert counts["resident_bytes"] >= 10


@pytest.mark.parametrize("table", ["shipped", "impossible"])
def test_every_row_says_where_it_is_from(table):
    for row in ROWS if table == "shipped" else read_truth(IMPOSSIBLE):
        assert row.locator, row.id
        assert row.licence, row.id
        assert row.source, row.id
        assert not row.date or re.fullmatch(r"20[12]\d(-(0[1-9]|1[0-2])(-[0-3]\d)?)?", row.date), row.id


def test_ids_are_unique_and_no_number_stands_twice():
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert len({(r.device, r.engine, r.model, r.metric, r.work, r.value) for r in ROWS}) == len(ROWS)


def test_names_resolve():
    for name in {row.device for row in ROWS}:
        assert find_device(name).id == name
    for name in {row.engine for row in ROWS}:
        assert find_engine(name).name == name
    for name in {row.model for row in ROWS}:
        assert read_model(name).parameters > 0


@pytest.mark.parametrize("table", ["shipped", "impossible"])
def test_nothing_of_one_machine_and_no_registry(table):
    text = TEXT if table == "shipped" else IMPOSSIBLE.read_text("utf-8")

    assert not re.search(r"(?:^|[\s,\"(])/(?:work|home|root|tmp|Users|mnt)/", text)
    assert not re.search(r"ghcr\.io|nvcr\.io|docker\.io|quay\.io|pypi\.org|files\.pythonhosted|stored GitHub", text)


def test_no_publication_is_carried_whole():
    counts = Counter((row.source, row.licence) for row in ROWS)

    assert max(counts.values()) <= 90
    for (source, licence), count in counts.items():
        if re.search(r"no licence|GPL|BY-SA|Rockchip", licence):
            assert count <= 20, source
        assert "MLCommons" not in licence, source


def test_notes_are_short():
    assert max(len(row.notes) for row in ROWS) < 500


def test_every_timed_row_is_laid_out():
    timed = [row for row in ROWS if row.metric in TIMED]
    found = {int(index) for group in groups(timed) for index in group.rows}

    assert [timed[i].id for i in range(len(timed)) if i not in found] == []


def test_no_shipped_row_is_beyond_physics():
    timed = [row for row in ROWS if row.metric in TIMED]
    laid = design(timed)

    assert [timed[i].id for i in laid.rows[contradicts(laid)]] == []


def test_impossible_rows_are_found():
    rows = read_truth(IMPOSSIBLE)
    laid = design(rows)

    assert len(rows) >= 12
    assert [rows[i].id for i in laid.rows[~contradicts(laid)]] == []
    assert len(laid.rows) == len(rows)
    assert {row.id for row in rows}.isdisjoint(row.id for row in ROWS)

"""docs/accuracy-training.md: what it says of the rows that ship is what they give, and what it claims stands in its own tables."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from bytebound.truth.training import shipped_training_truth
from bytebound.validate.training import validate_training

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "accuracy-training.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("training_accuracy", ROOT / "validation" / "training_accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def section(name):
    found = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, f"the page has no section {name!r}"
    return found[1]


def rows_of(name):
    """Return the cells of a section's table, without its head and rule."""
    lines = [line for line in section(name).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def percent(cell):
    return float(cell.replace("%", "").replace("+", "").strip())


def test_the_shipped_rows_are_as_the_page_says(script):
    """Made anew: a change that moves memory or what fits must make the page anew as well."""
    assert script.shipped().strip() in PAGE


def test_memory_is_within_what_the_page_promises():
    """At most 3 % on SimuMax and 10 % over all rows that state allocated memory, in the median (the project's bounds)."""
    median = {(cells[0], cells[1]): percent(cells[3]) for cells in rows_of("Memory, publication by publication")}
    assert median["allocated", "simumax-b200"] <= 3
    assert median["allocated", "**all rows**"] <= 10


def test_no_run_that_ran_out_of_memory_is_said_to_fit():
    cells = {row[0]: [int(cell) for cell in row[1:3]] for row in rows_of("Does it fit?") if len(row) == 3}
    assert cells["it ran out of memory"][0] == 0
    fits, not_fits = cells["it fitted"]
    assert not_fits <= 0.15 * (fits + not_fits)


def test_margins_tell_runs_that_ran_out_apart(script):
    """A verdict says it fits exactly where the chance is nine in ten or better; every run that ran out is beyond its device."""
    found = script.margins_of(shipped_training_truth())
    failed = [m for m in found if not m.row.value]
    assert len(failed) >= 5
    assert min(m.total_bytes / m.usable_bytes for m in failed) > 1
    for margin in found:
        assert (margin.chance >= 0.9) == (margin.high_bytes <= margin.usable_bytes)


def test_step_times_count_every_publication_once():
    table = rows_of("Step time, publication by publication")
    whole = next(cells for cells in table if cells[0] == "**all rows**")
    assert sum(int(cells[1]) for cells in table if not cells[0].startswith("**")) == int(whole[1])
    assert percent(whole[2]) <= 15
    assert 75 <= percent(whole[6]) <= 85


def test_peers_are_compared_on_the_same_runs(script):
    """Whatever a peer answered is a run of the truth, and the page names each peer."""
    assert {answer["peer"] for answer in script.answered()} == {
        "llm-analysis",
        "Megatron formula",
        "accelerate",
        "SimuMax",
    }
    for peer in ("llm-analysis", "Megatron formula", "accelerate", "SimuMax", "Calculon"):
        assert peer in section("Beside peers")


def test_groups_split_the_rows_of_a_kind():
    """Every key deals out the same rows; a metric is the one that was published."""
    rows = [row for row in shipped_training_truth() if row.source in {"peft", "simumax-b200", "litgpt"}]
    found = validate_training(rows, by=("metric", "recompute", "trainable", "model"))
    for kind in {score.kind for score in found.groups}:
        whole = next(s.rows for s in found.groups if s.kind == kind and s.by == "all")
        for key in ("metric", "recompute", "trainable", "model"):
            assert sum(s.rows for s in found.groups if s.kind == kind and s.by == key) == whole
    assert {s.name for s in found.groups if s.by == "trainable"} >= {"full", "lora", "qlora"}


def test_the_truth_page_names_what_training_rows_hold():
    """Every metric, reason and own column of training rows is in the section of docs/truth.md."""
    from bytebound.documents.train_truth import TRAIN_METRICS
    from bytebound.truth.training import REASONS
    from bytebound.truth.training_table import COLUMNS, WORK

    text = (ROOT / "docs" / "truth.md").read_text(encoding="utf-8")
    own = re.search(r"^## Training runs$(.*?)(?=^## )", text, flags=re.MULTILINE | re.DOTALL)
    assert own is not None
    said = set(re.findall(r"`(\w+)`", own[1])) | set(re.findall(r"^\| ([^|`]+?) \|", own[1], flags=re.MULTILINE))
    elsewhere = {
        "id",
        "source",
        "locator",
        "licence",
        "trust",
        "device",
        "notes",
        *WORK,
    }  # above on the page, or of a request
    assert ({*TRAIN_METRICS, *REASONS, *COLUMNS} - elsewhere) - said == set()
